"""What `dr plan` says is what the run will do; what cannot fit is refused by how much, before a
byte is written.
"""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import tasks.attribute.estimate
import tasks.attribute.planning
from flows.cli.main import app
from storage import open_workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ShardedStore
from storage.contents.explanations import explanation_specs
from storage.contents.fundus import REJECTED
from storage.files.files import free_bytes
from storage.photos.types import Source
from tasks.access.stores import blank, fundus_store
from tasks.attribute.estimate import Estimate, Rates, bound, check_room, estimate
from tasks.attribute.planning import check_run, plan
from tasks.attribute.step import attribute
from tasks.run.errors import UserError
from tasks.run.session import Session
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool
from tests.storage.small import tree_bytes

IMAGES, SHARD, SIZE = 10, 4, 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_trunk):
    """(configuration file, configuration, workspace) with fundi and a model, and nothing
    explained; not to be changed.
    """
    folder = tmp_path_factory.mktemp("planned")
    config_file = write_config(folder, size=SIZE, shard_images=SHARD)
    (folder / "photos" / "test").mkdir(parents=True)
    for name in image_ids(IMAGES):
        (folder / "photos" / "test" / f"{name}.jpeg").write_bytes(name.encode())
    rows = "".join(f"{name},0\n" for name in image_ids(IMAGES))
    (folder / "photos" / "testLabels.csv").write_text(f"image,level\n{rows}")
    return (config_file, *prepare(config_file, image_ids(IMAGES)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pools(monkeypatch):
    """The pools that planning makes, which are this process."""
    made = []

    def make(params):
        made.append(InlinePool(params))
        return made[-1]

    monkeypatch.setattr(tasks.attribute.planning, "Pool", make)
    return made


def planned(prepared, **options):
    _, config, workspace = prepared
    return plan(
        workspace.location,
        config.data.every_source,
        config.recipe,
        config.storage,
        config.dask,
        **options,
    )


def row_of(rows, stage):
    return next(row for row in rows if row["step"] == stage)


@pytest.mark.parametrize(
    ("sizes", "workers", "longest"),
    [([4] * 6, 2, 12), ([4, 4, 4], 2, 8), ([4], 8, 4), ([4, 1, 1, 1], 2, 4), ([], 2, 0)],
    ids=[
        "even",
        "an odd shard",
        "more workers than shards",
        "a short one beside a long one",
        "nothing",
    ],
)
def test_time_is_that_of_the_worker_that_ends_last(sizes, workers, longest):
    found = estimate(
        Rates(10.0, 100, "given", seconds=3.0, start_seconds=0.0, passes=2.0), sizes, workers
    )
    assert found.seconds == 3.0 * longest
    assert (found.images, found.shards, found.bytes, found.passes) == (
        sum(sizes),
        len(sizes),
        10 * sum(sizes),
        2 * sum(sizes),
    )
    assert found.memory_bytes == 100 * min(workers, len(sizes))


def test_no_maps_take_more_bytes_than_the_bound(ws_of_noise):
    """Noise with a random exponent is what compresses least: no more may be said of an image
    than its bits.
    """
    store, stored = ws_of_noise
    rates = bound(store.specs, SHARD)
    index = 4096  # of the shards' chunks, and what headers take
    assert stored <= rates.bytes * SHARD + index
    assert stored > 0.5 * rates.bytes * SHARD, "the bound is not idle"


@pytest.fixture
def ws_of_noise(tmp_path):
    specs = explanation_specs(("stage0", "stage1"), 64, {})
    store = ShardedStore.create_or_open(
        open_workspace(tmp_path / "noise").files, "explanations/0/attributions.zarr", specs, SHARD
    )
    store.extend(image_ids(SHARD))
    random = np.random.default_rng(0)
    arrays = {spec.path: np.zeros((SHARD, *spec.shape), spec.dtype) for spec in specs}
    bits = random.integers(0, 2**32, (SHARD, 2, 64, 64), dtype=np.uint32) & np.uint32(
        0xBFFFFFFF
    )  # no infinities
    arrays["pixels/attribution"] = bits.view(np.float32)
    entry = store.write_shard(store.spans()[0], arrays, digests=[""] * SHARD)
    return store, entry.bytes


ROOM = Estimate(
    images=5,
    shards=2,
    workers=2,
    bytes=3_000_000_000,
    memory_bytes=4_000_000_000,
    passes=None,
    seconds=None,
    basis="",
)


@pytest.mark.parametrize(
    ("disk", "memory", "message"),
    [
        (
            2.5e9,
            8e9,
            "needs 3.0 GB on disk for 5 images, and .* has 2.5 GB free: 500.0 MB too little",
        ),
        (9e9, 1e9, "needs 4.0 GB of memory for 2 workers, and 1.0 GB are free: 3.0 GB too little"),
    ],
    ids=["disk", "memory"],
)
def test_what_cannot_fit_is_refused_by_how_much(tmp_path, monkeypatch, disk, memory, message):
    workspace = open_workspace(tmp_path)
    monkeypatch.setattr(tasks.attribute.estimate, "free_bytes", lambda ws: (ws.location, int(disk)))
    monkeypatch.setattr(tasks.attribute.estimate.memory, "host_free_bytes", lambda: int(memory))
    with pytest.raises(UserError, match=message) as caught:
        check_room(workspace, ROOM, workers_here=True)
    assert "\n" not in str(caught.value)


def test_what_fits_is_not_refused_and_another_machines_memory_is_its_own(tmp_path, monkeypatch):
    workspace = open_workspace(tmp_path)
    monkeypatch.setattr(
        tasks.attribute.estimate, "free_bytes", lambda ws: (ws.location, ROOM.bytes)
    )
    monkeypatch.setattr(
        tasks.attribute.estimate.memory, "host_free_bytes", lambda: ROOM.memory_bytes
    )
    check_room(workspace, ROOM, workers_here=True)
    monkeypatch.setattr(tasks.attribute.estimate.memory, "host_free_bytes", lambda: 0)
    check_room(workspace, ROOM, workers_here=False)


def test_free_space_is_that_of_the_disk_where_the_workspace_will_be(tmp_path):
    place, free = free_bytes(open_workspace(tmp_path / "not" / "yet").files)
    assert place == str(tmp_path)
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert free_bytes(open_workspace("memory://somewhere").files)[1] is None


def test_a_plan_with_gpus_says_their_hours(prepared, monkeypatch):
    """Shards of 4, 4 and 2 images on two GPUs: the later one works on 6 images for an hour each."""

    def make(params):
        pool = InlinePool(params)
        pool.gpus = 2
        return pool

    monkeypatch.setattr(tasks.attribute.planning, "Pool", make)
    rows, _ = planned(prepared, measure=False, seconds=3600.0)
    assert row_of(rows, "attribute")["by"] == "the given rate; 12 GPU hours on 2 GPUs"
    rows, _ = planned(prepared, measure=False)
    assert "GPU" not in row_of(rows, "attribute")["by"], "unknown before a calibration there"


def test_a_plan_by_a_given_rate_counts_what_is_to_do_and_writes_nothing(prepared, pools):
    before = tree_bytes(pathlib.Path(prepared[2].location))
    rows, refusal = planned(prepared, measure=False, seconds=90.0)
    assert refusal is None
    assert [row["step"] for row in rows] == ["ingest", "preprocess", "train", "attribute"]
    row = row_of(rows, "attribute")
    assert (row["images"], row["to do"], row["shards"]) == (IMAGES, IMAGES, 3)
    assert (row["time"], row["by"]) == ("9 min 0 s", "the given rate")  # 4 + 2 images of one worker
    assert row_of(rows, "train")["time"] == "nothing to do"
    assert tree_bytes(pathlib.Path(prepared[2].location)) == before
    assert pools[0].jobs == [], "a given rate needs no calibration"


def test_a_calibration_measures_on_every_worker_and_is_remembered_outside_the_workspace(
    prepared, pools
):
    before = tree_bytes(pathlib.Path(prepared[2].location))
    row = row_of(planned(prepared)[0], "attribute")
    assert [name for name, _ in pools[0].jobs] == ["measure", "measure"]
    assert row["by"] == "calibration on 4 eyes a worker"
    assert row["passes"] >= 4 * IMAGES
    assert row["MB of memory"] > 100
    again = row_of(planned(prepared)[0], "attribute")
    assert pools[1].jobs == []
    assert again == row
    assert tree_bytes(pathlib.Path(prepared[2].location)) == before


def test_without_a_calibration_bytes_and_memory_are_bounds_and_time_is_not_known(prepared, pools):
    row = row_of(planned(prepared, measure=False)[0], "attribute")
    assert row["by"] == "bound from the arrays' sizes"
    assert row["time"] == "unknown before a first run"
    assert pools[0].jobs == []


def test_the_command_refuses_with_one_line_after_its_table(prepared, monkeypatch, pools):
    monkeypatch.setattr(tasks.attribute.estimate, "free_bytes", lambda ws: (ws.location, 1000))
    result = CliRunner().invoke(app, ["plan", str(prepared[0]), "--rate", "1"])
    assert result.exit_code == 1
    assert "attribute" in result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("dr: attribute needs")
    assert "too little" in line


def test_labels_that_cannot_be_used_are_told_before_anything_is_planned_or_run(
    prepared, pools, tmp_path
):
    _, config, _ = prepared
    photos = tmp_path / "photos"
    shutil.copytree(config.data.photos, photos)
    sources, given = (Source(str(photos)),), (config.recipe, config.storage, config.dask)
    (photos / "testLabels.csv").write_text(f"{image_ids(1)[0]},0\n")
    for planned in (check_run, plan):
        with pytest.raises(UserError, match=r"testLabels\.csv cannot be used as labels"):
            planned(str(tmp_path / "new"), sources, *given)
    (photos / "testLabels.csv").unlink()
    for planned in (check_run, plan):
        with pytest.raises(UserError, match="and no label file"):
            planned(str(tmp_path / "new"), sources, *given)
    assert pools == []


def test_what_will_be_set_aside_is_told_before_anything_is_read(prepared, pools, tmp_path):
    _, config, _ = prepared
    photos = tmp_path / "photos"
    shutil.copytree(config.data.photos, photos)
    for name in image_ids(IMAGES):
        file = photos / "test" / f"{name}.jpeg"
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)  # leads out of the folder
    given = (config.recipe, config.storage, config.dask)
    rows, _ = plan(str(tmp_path / "new"), (Source(str(photos)),), *given, measure=False)
    row = row_of(rows, "ingest")
    assert (row["images"], row["by"]) == (0, f"set aside: {IMAGES} outside_folder")


def test_a_whole_run_hears_of_it_before_its_first_stage(prepared, monkeypatch, tmp_path):
    """Also where there is nothing yet: neither catalogue nor model."""
    _, config, workspace = prepared
    for location in (workspace.location, str(tmp_path / "new")):
        given = (location, config.data.every_source, config.recipe, config.storage, config.dask)
        check_run(*given)
        monkeypatch.setattr(tasks.attribute.estimate, "free_bytes", lambda ws: (ws.location, 1000))
        with pytest.raises(UserError, match=f"on disk for {IMAGES} images, and .* too little"):
            check_run(*given)
        monkeypatch.undo()
    assert not (tmp_path / "new").exists()


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(prepared, monkeypatch):
    _, config, workspace = prepared
    before = tree_bytes(pathlib.Path(workspace.location))
    monkeypatch.setattr(tasks.attribute.estimate, "free_bytes", lambda ws: (ws.location, 1000))
    pool = InlinePool()
    with pytest.raises(UserError, match="too little; free some space"):
        attribute(Session(workspace, pool), config.recipe, config.storage)
    assert pool.jobs == []
    assert tree_bytes(pathlib.Path(workspace.location)) == before


def test_what_was_set_aside_is_planned_where_it_is_to_be_tried_again(tmp_path, pools):
    """Of ten explained images one has no result, and one no fundus any more: there is nothing to
    try with that.
    """
    config_file = write_config(tmp_path, size=SIZE, shard_images=SHARD)
    (tmp_path / "photos" / "test").mkdir(parents=True)
    for name in image_ids(IMAGES):
        (tmp_path / "photos" / "test" / f"{name}.jpeg").write_bytes(name.encode())
    rows = "".join(f"{name},0\n" for name in image_ids(IMAGES))
    (tmp_path / "photos" / "testLabels.csv").write_text(f"image,level\n{rows}")
    config, workspace = prepare(config_file, image_ids(IMAGES))
    fundi = fundus_store(workspace, config.recipe.preprocess_id)
    (span,) = fundi.spans()
    arrays = fundi.read(span)
    arrays["status"][8] = REJECTED
    fundi.write_shard(
        span,
        arrays,
        digests=fundi.ledger.entry(0).digests,
        record=ShardRecord(rejects={"5_left": {}}),
    )
    path = f"explanations/{config.recipe.explain_id(workspace)}/attributions.zarr"
    store = ShardedStore.create_or_open(
        workspace.files, path, explanation_specs(("stage0",), SIZE, {}), SHARD
    )
    store.extend(image_ids(IMAGES))
    digests = [
        "" if row == 8 else sha256 for row, sha256 in enumerate(workspace.photos()["sha256"])
    ]
    for span in store.spans():
        failed = {
            name: "its results are not finite"
            for name in ("2_left", "5_left")
            if name in image_ids(IMAGES)[span.rows]
        }
        store.write_shard(
            span,
            blank(store, span),
            digests=digests[span.rows],
            record=ShardRecord(failed=failed, seconds=1.0),
        )
    for retry, preprocessed, explained in ((False, 0, 0), (True, 1, 1)):
        storage = dataclasses.replace(config.storage, retry_set_aside=retry)
        settings = (config.recipe, storage, config.dask)
        rows, _ = plan(workspace.location, config.data.every_source, *settings, measure=False)
        assert (row_of(rows, "preprocess")["to do"], row_of(rows, "attribute")["to do"]) == (
            preprocessed,
            explained,
        )
