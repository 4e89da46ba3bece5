"""The names that programs of other people import are where they look for them."""

import importlib

import pytest

NAMES = {
    "dr_lib.fundus": "retina_disc Disc preprocess PreprocessParams UngradablePhoto",
    "dr_lib.attribution": (
        "quadrature integrated_gradients Attribution split_at strongest_neurons neuron_regions"
        " Regions resultant"
    ),
    "dr_lib.perturbation": "perturb",
    "dr_lib.network": "build",
    "dr_lib.training": "BalancedBatches learning_rate_schedule",
    "dr_lib.evaluation": "evaluate Evaluation",
    "storage": "open_workspace Workspace",
}


@pytest.mark.parametrize(
    ("package", "name"), [(place, name) for place in NAMES for name in NAMES[place].split()]
)
def test_a_package_gives_its_public_names(package, name):
    assert callable(getattr(importlib.import_module(package), name))
