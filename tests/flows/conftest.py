"""One Prefect server for the whole session, and small synthetic data: drawing photographs is the
slow part of small tests.
"""

import contextlib
import hashlib
import multiprocessing
import pathlib
import shutil
from collections.abc import Iterator
from multiprocessing import forkserver

import cv2
import dask
import numpy as np
import pytest

from dr_lib.network.model import BACKBONES
from dr_lib.network.small import small_trunk
from dr_lib.synthetic import SynthesisParams
from storage import open_workspace
from tasks.execution.pool import ONE_THREAD, Pool
from tasks.ingest.synthesise import synthesise
from tasks.run.settings import DaskParams
from tests.flows.kills import PRELOAD, TINY_BLOCKS, Runs

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
lesion_poses = 1
lesion_points = 1
batch_size = 4
limit = 5
[heatmaps]
max_regions = 3
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
def warm_start() -> dict[str, str]:
    """Settings of Dask with which workers are forks of one process that has imported everything:
    importing takes seconds each.

    Workers that start by themselves, as they do for users, are those of test_pool.py,
    test_preprocess_faults.py and test_cluster.py.
    """
    import distributed  # noqa: F401 - first, or its own defaults would go with these settings

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        multiprocessing.set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()
    return {"distributed.worker.multiprocessing-method": "forkserver"}


@pytest.fixture(scope="session")
def dask_address(warm_start) -> Iterator[str]:
    """Where a worker stays from run to run with what it has compiled, as on a cluster; runs of
    their own start new ones. One alone: a second would compile all of it too.
    """
    with contextlib.closing(Pool(DaskParams(workers=1))) as pool:
        with dask.config.set(warm_start):
            client = pool.connect()
        yield client.scheduler.address


@pytest.fixture(scope="session")
def warm_runs(tmp_path_factory) -> Iterator[Runs]:
    """The process that forks runs to be killed, and their Prefect server."""
    with contextlib.closing(Runs(tmp_path_factory.mktemp("runs"))) as runs:
        yield runs


@pytest.fixture
def runs(warm_runs) -> Iterator[Runs]:
    """Starts runs of `dr` and kills them; leaves none running."""
    yield warm_runs
    warm_runs.stop()


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory) -> pathlib.Path:
    """Synthetic photographs in Kaggle's layout, every stage equally often. Not to be written to:
    copy it.
    """
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    synthesise(
        folder,
        EYES,
        SynthesisParams(seed=5, balanced=True, smallest_px=200, largest_px=300),
        workers=2,
    )
    return folder


@pytest.fixture(scope="session")
def chain(tmp_path_factory, drawn_photos, prefect_server, dask_address):
    """Five runs in one workspace: the first; nothing new; two more eyes and three bad inputs; an
    explained eye deleted and another replaced by what cannot be graded; nothing new.
    """
    from flows.pipeline import FLOWS

    root = tmp_path_factory.mktemp("chain")
    photos = root / "photos"
    shutil.copytree(drawn_photos, photos)
    held_back = [photos / "train" / f"{20}_{eye}.jpeg" for eye in ("left", "right")]
    for path in held_back:
        path.rename(root / path.name)
    config = root / "tiny.toml"
    own = TINY.format(photos=photos, workspace=root / "workspace")
    config.write_text(own.replace("workers = 2", f'address = "{dask_address}"'))

    first = FLOWS["run"](str(config))
    untouched = snapshot(root / "workspace")
    second = FLOWS["run"](str(config))
    after_second = snapshot(root / "workspace")

    for path in held_back:
        (root / path.name).rename(path)
    (photos / "train" / "501_left.jpeg").write_bytes(b"")
    (photos / "train" / "502_left.jpeg").write_bytes(b"this is no photograph")
    with (photos / "trainLabels.csv").open("a") as labels:
        labels.write("501_left,0\n502_left,1\n503_left,2\n")
    third = FLOWS["run"](str(config))

    workspace = open_workspace(root / "workspace")
    gone, spoilt = sorted(set(workspace.frame("attributions")["image_id"]))[:2]
    (photos / "train" / f"{gone}.jpeg").unlink()
    cv2.imwrite(str(photos / "train" / f"{spoilt}.jpeg"), np.full((400, 400, 3), 90, np.uint8))
    fourth = FLOWS["run"](str(config))
    fifth = FLOWS["run"](str(config))
    return {
        "config": config,
        "photos": photos,
        "workspace": workspace,
        "gone": gone,
        "spoilt": spoilt,
        "runs": (first, second, third, fourth, fifth),
        "snapshots": (untouched, after_second),
    }


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """The hash of every result; records of runs and the query catalogue tell of the run itself."""
    told = ("tables/runs/", "catalog.duckdb", "catalog.sql", ".locks/")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not name.startswith(told)
    }


@pytest.fixture(scope="module")
def tiny_trunk() -> Iterator[None]:
    """The small trunk with one block of few filters, as runs that are killed have it: compiling
    takes longer than explaining a few eyes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "small", small_trunk(TINY_BLOCKS))
        yield


@pytest.fixture
def tiny_config(tmp_path):
    """Writes a configuration that finishes in seconds, for a folder of photographs; returns the
    file.
    """

    def write(photos: pathlib.Path, workspace: pathlib.Path | None = None) -> pathlib.Path:
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.format(photos=photos, workspace=workspace or tmp_path / "workspace"))
        return path

    return write
