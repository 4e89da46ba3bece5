"""The closed forms on the other backend too: JAX is an optional extra, and a process has one
backend only.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dr_lib.network import backend

HERE = Path(__file__).parent
CLOSED_FORMS = [
    "test_attribution_integrated.py::test_relu_net_is_exact_where_no_interval_straddles_the_kink",
    "test_attribution_integrated.py::test_points_that_adapt_close_in_on_a_kink_inside_an_interval",
    "test_attribution_integrated.py::test_sum_of_three_terms",
    "test_attribution_integrated.py::test_softmax_head_on_a_linear_net_is_exact_with_two_points_however_saturated",
    "test_attribution_integrated.py::test_max_pool_gives_everything_to_the_largest",
    "test_attribution_integrated.py::test_a_convolutional_net_agrees_with_the_reference",
    "test_attribution_integrated.py::test_an_input_equal_to_its_baseline_gets_nothing",
    "test_attribution_neurons.py::test_a_neuron_you_can_integrate_by_hand",
    "test_attribution_neurons.py::test_regions_agree_with_the_reference_at_corners_borders_and_inside",
]
OTHER = {"tensorflow": "jax", "jax": "tensorflow"}


def test_closed_forms_hold_on_the_other_backend():
    other = OTHER[backend.name()]
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *[str(HERE / test) for test in CLOSED_FORMS]],
        env=os.environ | {"KERAS_BACKEND": other, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{len(CLOSED_FORMS) + 1} passed" in done.stdout  # one of them runs with two rules
