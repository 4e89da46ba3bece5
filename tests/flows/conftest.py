"""One Prefect server for the whole session, and small synthetic data: drawing photographs is the slow part of small tests."""

import pathlib

import pytest

from dr_lib.synthetic import SynthesisParams
from tasks.synthesise import synthesise

EYES = 40

TINY = """
workspace = "{workspace}"
[data]
photos = "{photos}"
validation_fraction = 0.2
test_fraction = 0.3
[preprocess]
size = 64
[model]
backbone = "small"
backbone_weights = "none"
dense = [16, 8]
[training]
schedule = [[4, 2e-3]]
validate_every = 2
checkpoint_every = 2
[attribution]
layers = ["stem", "fc1"]
neurons = 2
resultant_neurons = 20
points = 4
layer_points = 4
neuron_points = 4
max_points = 8
batch_size = 4
limit = 5
[counterfactuals]
bisections = 2
limit = 2
[adversarials]
methods = ["fgsm_linf", "pgd_l2"]
bisections = 2
steps = 2
[linearity]
limit = 2
points = 4
strengths = 3
[storage]
shard_images = 4
[dask]
workers = 2
"""


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """Prefect's own throw-away server; flows under test report to it."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory) -> pathlib.Path:
    """Synthetic photographs in Kaggle's layout, every stage equally often. Not to be written to: copy it."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    synthesise(folder, EYES, SynthesisParams(seed=5, balanced=True, smallest_px=400, largest_px=600), workers=2)
    return folder


@pytest.fixture
def tiny_config(tmp_path):
    """Writes a configuration that finishes in seconds, for a folder of photographs; returns the file."""

    def write(photos: pathlib.Path, workspace: pathlib.Path | None = None) -> pathlib.Path:
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.format(photos=photos, workspace=workspace or tmp_path / "workspace"))
        return path

    return write
