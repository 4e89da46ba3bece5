"""Faults that a run of weeks meets: what is finished stays, what is broken is done again to the
same bytes, and one bad image or one full disk costs no more than itself.

More of them are shown closer to where they are handled: torn shards, truncated marks and
interruptions at every line in tests/storage/test_arrays.py, locks of dead runs in test_lock.py,
defects that `dr verify` finds in test_verify.py and test_agreement.py, workers that die in
test_pool.py.
"""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from prefect import flow

import tasks.attribute.shard
import tasks.attribute.step
from flows.config import load_config
from storage import open_workspace
from storage.admin.verify import verify
from storage.arrays.store import ShardedStore
from storage.contents.explanations import DONE, FAILED, load_runs
from storage.contents.fundus import DONE as DONE_FUNDUS
from storage.contents.fundus import REJECTED
from storage.errors import WorkspaceLocked
from tasks.access.status import describe
from tasks.access.stores import fundus_store
from tasks.aggregate.step import aggregate
from tasks.attribute.calibration import specs_of
from tasks.attribute.step import attribute
from tasks.run.errors import UserError
from tasks.run.session import Session, open_session
from tasks.run.settings import DaskParams
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool, WorkerDied
from tests.flows.kills import killed_run, wait_until

IMAGES, SHARD = 10, 3
KILLS = ["worker"] * 11 + ["run"] * 6 + ["server"] * 3
KILLED_SHARDS = 44
# Each worker that takes the place of a killed one compiles this much less.
QUICK = ("--set", "attribution.lesion_poses=0", "--set", "attribution.neurons=1")


@pytest.fixture(scope="module")
def template(tmp_path_factory, tiny_trunk):
    """Where the workspace lies in every test, so that the engine is compiled once; and a copy
    from before any attribution.
    """
    folder = tmp_path_factory.mktemp("faults")
    config_file = write_config(folder, size=32, shard_images=SHARD)
    prepare(config_file, image_ids(IMAGES))
    shutil.copytree(folder / "workspace", folder / "blank")
    return config_file


@pytest.fixture
def prepared(template, prefect_server):
    """(configuration, workspace) before any attribution."""
    return started_from("blank", template)


@pytest.fixture(scope="module")
def first_run(template, prefect_server):
    """The jobs of a run with nothing in its way. What it left is kept under the name of
    `explained`.
    """
    pool, (config, workspace) = InlinePool(), started_from("blank", template)
    run((config, workspace), pool)
    keep(workspace, "explained")
    return pool.jobs


@pytest.fixture
def explained(template, first_run):
    """(configuration, workspace) after that run."""
    return started_from("explained", template)


def started_from(name: str, config_file: pathlib.Path):
    """(configuration, workspace), the workspace as it was when it was kept under this name."""
    config = load_config(config_file)
    shutil.rmtree(config.workspace)
    shutil.copytree(config_file.parent / name, config.workspace)
    return config, open_workspace(config.workspace)


def keep(workspace, name: str) -> None:
    shutil.copytree(workspace.location, pathlib.Path(workspace.location).parent / name)


def run(prepared, pool=None, *, retry=False):
    """`dr attribute` and `dr aggregate`, on workers that are this process."""
    config, workspace = prepared
    session = Session(workspace, pool or InlinePool())
    storage = dataclasses.replace(config.storage, retry_set_aside=retry)

    @flow(persist_result=False)
    def both():
        result = attribute(session, config.recipe, storage)
        aggregate(
            session, config.recipe, config.data.every_source, config.heatmaps, config.localisation
        )
        return result

    return both()


TOLD = ("gap_median", "gap_max", "passes", "failed")


def results(workspace: pathlib.Path, told_of: Sequence[str] = TOLD) -> dict[str, bytes]:
    """Arrays and tables as they lie on disk, and the ledger without what it tells of times,
    memory and processes.
    """
    found = {}
    for path in sorted(pathlib.Path(workspace).rglob("*")):
        name = str(path.relative_to(workspace))
        if (
            not path.is_file()
            or name.startswith((".locks", "tables/runs"))
            or "/runs/" in name
            or "explanation.json" in name
        ):
            continue
        found[name] = path.read_bytes()
        if "/ledger/" in name and name.endswith(".json"):
            entry = json.loads(found[name])
            told = {key: entry.pop(key) for key in ("record", "written")}
            entry["gaps"] = {key: told["record"].get(key) for key in told_of}
            found[name] = json.dumps(entry, sort_keys=True).encode()
    return found


def ledger_of(workspace) -> pathlib.Path:
    (ledger,) = pathlib.Path(workspace.location).glob("explanations/*/ledger")
    return ledger


def map_file(workspace, shard: int) -> pathlib.Path:
    return ledger_of(workspace).parent / f"attributions.zarr/pixels/attribution/c/{shard}/0/0/0"


def store_of(workspace) -> ShardedStore:
    return ShardedStore.open(
        workspace.files, f"explanations/{workspace.latest_explanation()}/attributions.zarr"
    )


def worked(pool: InlinePool) -> list[int]:
    """Which shards were explained."""
    return [job.span.index for name, job in pool.jobs if name == "explain_shard"]


def test_killed_twenty_times_the_run_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path, tiny_trunk, runs
):
    """kill -9 of the run's process group, of workers and of the Prefect server, at seeded random
    progress and moments.

    `killed_run` fails if a finished shard is ever computed again; at the end arrays, ledger and
    tables are compared.
    """
    config_file = write_config(tmp_path, size=32, shard_images=1)
    prepare(config_file, image_ids(KILLED_SHARDS))
    blank, plain = tmp_path / "blank", tmp_path / "plain"
    workspace = tmp_path / "workspace"
    shutil.copytree(workspace, blank)
    commands = [(step, str(config_file), *QUICK) for step in ("attribute", "aggregate")]
    runs.start(*commands)
    wait_until(lambda: not runs.running)
    assert runs.code() == 0, runs.output()
    workspace.rename(plain)
    (explanation,) = (plain / "explanations").iterdir()
    ledger = workspace / "explanations" / explanation.name / "ledger"
    kinds = [str(kind) for kind in np.random.default_rng(20).permutation(KILLS)]
    told: list[str] = []
    for attempt in range(len(kinds)):
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(blank, workspace)
        told += killed_run(
            runs, commands, ledger, KILLED_SHARDS, kinds[len(told) :], seed=20 + attempt
        )
        undisturbed, disturbed = (
            {name: data for name, data in results(at).items() if not name.endswith(".partial")}
            for at in (plain, workspace)
        )
        assert disturbed.keys() == undisturbed.keys()
        assert {name for name in undisturbed if disturbed[name] != undisturbed[name]} == set()
        if len(told) == len(kinds):
            break
    print("\n".join(told))
    assert len(told) == 20


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "repair"),
    [
        (lambda workspace: truncate(map_file(workspace, 1)), True),
        (lambda workspace: map_file(workspace, 1).unlink(), True),
        (lambda workspace: truncate(ledger_of(workspace) / "000001.json"), False),
        (lambda workspace: (ledger_of(workspace) / "000001.json").unlink(), False),
    ],
    ids=["torn shard", "missing chunk", "truncated mark", "missing mark"],
)
def test_what_is_broken_is_done_again_and_nothing_else(explained, spoil, repair):
    """A broken mark is no mark, and the next run sees that by itself; a broken array is what `dr
    verify --repair` is for.
    """
    _, workspace = explained
    before = results(workspace.location)
    spoil(workspace)
    if repair:
        (problem,) = verify(workspace, repair=True)
        assert problem["repair"] == "done"
    pool = InlinePool()
    assert run(explained, pool).new_images == SHARD
    assert worked(pool) == [1]
    assert results(workspace.location) == before
    assert verify(workspace) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "mount it for writing")],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_no_more_is_one_line_and_room_is_all_it_takes(
    prepared, monkeypatch, number, advice
):
    """A quota stands in for the disk: two shards fit, the others find no room. With room again,
    just those are done.
    """
    from zarr.storage import LocalStore

    _, workspace = prepared
    put = LocalStore.set

    async def limited(self, key, value, *rest):
        shard = key.partition("/c/")[2].split("/")[0]
        if shard and int(shard) >= 2:
            raise OSError(number, os.strerror(number), key)
        return await put(self, key, value, *rest)

    monkeypatch.setattr(LocalStore, "set", limited)
    with pytest.raises(
        UserError, match=rf"2 of 4 shards failed and the others are done.*{advice}"
    ) as caught:
        run(prepared)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert sorted(path.name for path in ledger_of(workspace).iterdir()) == [
        "000000.json",
        "000001.json",
    ]
    assert load_runs(workspace.files, workspace.latest_explanation())[-1].state == "failed"
    pool = InlinePool()
    run(prepared, pool)
    assert worked(pool) == [2, 3]
    assert verify(workspace) == []


def test_an_explanation_that_an_earlier_version_began_goes_on_with_the_arrays_it_has(
    first_run, prepared, monkeypatch
):
    config, workspace = prepared
    younger = ("/channel_place", "/channel_activation")

    def specs_of_then(*arguments):
        return [spec for spec in specs_of(*arguments) if not spec.path.endswith(younger)]

    monkeypatch.setattr(tasks.attribute.step, "specs_of", specs_of_then)
    assert run(prepared).new_images == IMAGES
    found = store_of(workspace).read_rows(range(IMAGES))
    assert workspace.frame("units").empty, "what a unit's page needs is not there"
    assert workspace.count("group_heatmaps"), "everything else is"
    _, today = started_from("explained", pathlib.Path(config.workspace).parent / "explain.toml")
    expected = store_of(today).read_rows(range(IMAGES))
    assert expected.keys() - found.keys() == {f"layers/stem{name}" for name in younger}
    for path, values in found.items():
        np.testing.assert_array_equal(values, expected[path])


class SpoiltEngine:
    """The true engine, but for one image (None: for all): it raises, returns numbers that are none,
    or takes its worker down.
    """

    def __init__(self, engine, pixels, fault):
        self.engine, self.pixels, self.fault = engine, pixels, fault

    def explain(self, pixels):
        hit = [self.pixels is None or bool((one == self.pixels).all()) for one in pixels]
        if any(hit) and self.fault is not None:
            raise self.fault
        found = self.engine.explain(pixels)
        for row in np.flatnonzero(hit):
            found["pixels/attribution"][row] = np.nan
            found["pixels/failed"][row] = True
        return found


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "its results are not finite"),
        (WorkerDied(), "its worker process died"),
    ],
    ids=["not finite", "kills its worker"],
)
def test_what_is_an_image_s_own_sets_it_aside_and_its_shard_completes_until_it_is_to_be_tried_again(
    explained, monkeypatch, fault, reason
):
    _, workspace = explained
    undisturbed = store_of(workspace).read_rows(range(IMAGES))
    bad, others = 4, [row for row in range(IMAGES) if row != 4]
    shutil.rmtree(ledger_of(workspace).parent)
    spoil(monkeypatch, workspace, bad, fault)
    result = run(explained)
    assert "1 failed (dr status says why; --retry-set-aside tries again)" in result.message
    found = store_of(workspace).read_rows(range(IMAGES))
    assert found["pixels/status"].tolist() == [
        FAILED if row == bad else DONE for row in range(IMAGES)
    ]
    assert np.isnan(found["pixels/attribution"][bad]).all()
    for path, values in undisturbed.items():
        # Another batch may touch the last bits.
        np.testing.assert_allclose(
            found[path][others].astype(float), values[others].astype(float), rtol=5e-3, atol=1e-6
        )
    set_aside = {
        row["id"]: row["detail"] for row in describe(workspace) if row["what"] == "set aside"
    }
    assert set_aside == {image_ids(IMAGES)[bad]: reason}
    assert run(explained).new_images == 0, "what failed is not tried for ever"
    without_passes = [name for name in TOLD if name != "passes"]  # those of the last try
    before = results(workspace.location, without_passes)
    pool = InlinePool()
    assert run(explained, pool, retry=True).new_images == 1, "tried again, it fails again"
    assert worked(pool)[0] == bad // SHARD
    assert results(workspace.location, without_passes) == before
    monkeypatch.undo()
    assert "failed" not in run(explained, retry=True).message
    assert store_of(workspace).read_rows([bad])["pixels/status"].tolist() == [DONE]
    told = workspace.frame("attributions", image_id=[image_ids(IMAGES)[bad]])
    assert told["failure"].isna().all(), "the tables follow"
    assert run(explained, retry=True).new_images == 0, "nothing is left to try"
    assert verify(workspace) == []


def spoil(monkeypatch, workspace, bad: int | None, fault) -> None:
    pixels = None if bad is None else workspace.fundus()["pixels"].values[bad]
    true = tasks.attribute.shard.explainer
    monkeypatch.setattr(
        tasks.attribute.shard, "explainer", lambda *key: SpoiltEngine(true(*key), pixels, fault)
    )


def without_the_last(workspace, more: int = 1) -> None:
    """Leaves the last images out of the data folder, for the next night."""
    present = [row < IMAGES - more for row in range(IMAGES)]
    workspace.write_table("photos", workspace.photos().assign(present=present))


MEMORY = (
    "memory: give dask.workers or attribution.batch_size a smaller number and run the same command"
    " again"
)
PROGRAM = "run the same command again; if it fails here again it is a fault of the program"


@pytest.fixture(scope="module", params=[1, 2], ids=["the only pending image", "one of its shard"])
def increment(request, template, prefect_server):
    """(how many images come in the second night, the catalogue with them, what an undisturbed
    second night leaves). The workspace between the nights is kept under the name of their number.

    The nightly increment is one image, in a shard of its own; or two, of which the first joins a
    shard begun before.
    """
    config, workspace = started_from("blank", template)
    photos = workspace.photos()
    without_the_last(workspace, request.param)
    run((config, workspace))
    keep(workspace, str(request.param))
    workspace.write_table("photos", photos)
    run((config, workspace))
    return request.param, photos, results(workspace.location)


@pytest.mark.parametrize(
    ("fault", "reason", "advice"),
    [
        (MemoryError("no room"), "MemoryError: no room", MEMORY),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
            "RuntimeError",
            MEMORY,
        ),
        (ValueError("no such pixel\nand a second line"), "ValueError: no such pixel", PROGRAM),
    ],
    ids=["memory", "a device", "the program"],
)
def test_what_may_be_anybody_s_leaves_the_image_pending_and_ends_the_run_with_a_line(
    template, increment, monkeypatch, fault, reason, advice
):
    more, photos, undisturbed = increment
    begun = started_from(str(more), template)
    _, workspace = begun
    workspace.write_table("photos", photos)
    marks = {path.name: path.read_bytes() for path in ledger_of(workspace).iterdir()}
    bad = IMAGES - more
    spoil(monkeypatch, workspace, bad, fault)
    with pytest.raises(
        UserError, match=rf"1 of \d shards failed and the others are done.*{reason}.*{advice}"
    ) as caught:
        run(begun)
    assert "\n" not in str(caught.value)
    after = {path.name: path.read_bytes() for path in ledger_of(workspace).iterdir()}
    shard = f"{bad // SHARD:06d}.json"
    assert after.get(shard) == marks.get(shard), "the shard is as it was"
    assert all(after[name] == data for name, data in marks.items())
    assert len(after) == (3 if more == 1 else 4)
    assert [row for row in describe(workspace) if row["what"] == "set aside"] == []
    monkeypatch.undo()
    pool = InlinePool()
    assert run(begun, pool).new_images == 1
    assert results(workspace.location) == undisturbed


def test_where_workers_die_of_any_image_none_is_to_blame(prepared, monkeypatch):
    _, workspace = prepared
    spoil(monkeypatch, workspace, None, WorkerDied())
    with pytest.raises(
        UserError,
        match=f"4 of 4 shards failed.*worker processes die, whatever they work on; .*{MEMORY}",
    ):
        run(prepared)
    assert list(pathlib.Path(workspace.location).glob("explanations/*/ledger/*")) == []
    assert [row for row in describe(workspace) if row["what"] == "set aside"] == []


def test_a_second_try_that_is_killed_goes_on_without_being_asked_again(prepared, monkeypatch):
    _, workspace = prepared
    for bad in (1, 4, 8):
        spoil(monkeypatch, workspace, bad, None)  # each on top of the one before
    run(prepared)
    monkeypatch.undo()
    assert store_of(workspace).read_rows(range(IMAGES))["pixels/status"].tolist().count(FAILED) == 3
    shutil.copytree(
        workspace.location, pathlib.Path(workspace.location).parent / "failed", dirs_exist_ok=True
    )
    run(prepared, retry=True)
    undisturbed = results(workspace.location)
    shutil.rmtree(workspace.location)
    (pathlib.Path(workspace.location).parent / "failed").rename(workspace.location)

    write, written = ShardedStore.write_shard, []

    def killed_at_the_second(self, *values, **settings):
        written.append(1)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(self, *values, **settings)

    monkeypatch.setattr(ShardedStore, "write_shard", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(prepared, retry=True)
    monkeypatch.undo()
    pool = InlinePool()
    assert run(prepared, pool).new_images == 2
    assert worked(pool) == [1, 2]
    assert results(workspace.location) == undisturbed


def test_an_image_whose_photograph_can_be_used_again_is_explained_again(explained):
    """Its photograph was replaced by one that could not be read that night; the next night it
    could.
    """
    config, workspace = explained
    photos, image_id = workspace.photos(), image_ids(IMAGES)[4]
    other = photos["sha256"].mask(photos["image_id"] == image_id, "f" * 64)
    workspace.write_table("photos", photos.assign(sha256=other))
    set_fundus_status(config, workspace, 4, REJECTED)
    run(explained)
    assert store_of(workspace).read_rows([4])["pixels/status"].tolist() == [FAILED]
    assert run(explained).new_images == 0
    assert run(explained, retry=True).new_images == 0, "there is nothing to explain it from"
    set_fundus_status(config, workspace, 4, DONE_FUNDUS)
    assert run(explained).new_images == 1
    assert store_of(workspace).read_rows([4])["pixels/status"].tolist() == [DONE]


def set_fundus_status(config, workspace, row: int, status: int) -> None:
    fundi = fundus_store(workspace, config.recipe.preprocess_id)
    (span,) = fundi.spans()
    arrays = fundi.read(span)
    arrays["status"][row] = status
    fundi.write_shard(span, arrays, digests=fundi.ledger.entry(span.index).digests)


def test_new_images_extend_a_shard_without_explaining_its_others_again(prepared):
    """Ten images, then two more: the short shard is written again with its old rows copied, the
    rest is not touched.
    """
    _, workspace = prepared
    photos = workspace.photos()
    without_the_last(workspace, 2)
    run(prepared)
    marks = {path.name: path.stat().st_mtime_ns for path in ledger_of(workspace).iterdir()}
    workspace.write_table("photos", photos)
    pool = InlinePool()
    assert run(prepared, pool).new_images == 2
    assert worked(pool) == [2, 3]
    after = {path.name: path.stat().st_mtime_ns for path in ledger_of(workspace).iterdir()}
    assert [after[name] == marks[name] for name in ("000000.json", "000001.json")] == [True, True]
    record = store_of(workspace).records()[2].record
    assert record.images == 1


def test_a_shard_whose_worker_died_just_after_marking_it_is_not_explained_again(
    explained, first_run, monkeypatch
):
    """Dask gives the job to another worker, since its result died with the first."""
    _, workspace = explained
    marks = {path.name: path.stat().st_mtime_ns for path in ledger_of(workspace).iterdir()}
    monkeypatch.setattr(
        tasks.attribute.shard, "explainer", None
    )  # whoever asks for the engine fails
    told = [
        tasks.attribute.shard.explain_shard(job)
        for name, job in first_run
        if name == "explain_shard"
    ]
    assert [entry.record.images for entry in told] == [SHARD, SHARD, SHARD, 1]
    assert {path.name: path.stat().st_mtime_ns for path in ledger_of(workspace).iterdir()} == marks


def test_every_shard_says_what_it_took(explained):
    _, workspace = explained
    for entry in store_of(workspace).records():
        record = entry.record
        assert record.images == entry.span.images
        assert record.seconds > 0
        assert record.passes >= 4 * record.images
        assert 0 <= record.gap_median <= record.notes["gap_max"]
        assert record.peak_memory_bytes > 2**27
        assert record.worker.endswith(f":{os.getpid()}")
        assert record.notes["model_id"] == workspace.latest_model()
        assert {"tensorflow", "zarr", "numpy"} <= record.notes["versions"].keys()


def test_a_run_notes_its_plan_and_what_it_took_and_the_next_one_plans_by_that(explained):
    _, workspace = explained
    (first,) = load_runs(workspace.files, workspace.latest_explanation())
    assert first.state == "completed"
    assert (first.planned.images, first.planned.notes["shards"], first.actual.images) == (
        IMAGES,
        4,
        IMAGES,
    )
    assert first.actual.bytes < first.planned.bytes, "the bound holds"
    run(explained)
    assert len(load_runs(workspace.files, workspace.latest_explanation())) == 1, (
        "nothing to do leaves no note"
    )
    (ledger_of(workspace) / "000001.json").unlink()
    run(explained)
    second = load_runs(workspace.files, workspace.latest_explanation())[-1]
    assert second.planned.basis.startswith("3 shards of")
    assert second.planned.seconds > 0
    assert second.actual.bytes == pytest.approx(second.planned.bytes, rel=0.1)
    assert second.actual.passes == pytest.approx(second.planned.passes, rel=0.5)


def test_a_second_run_leaves_with_one_line_and_finds_the_place_free_afterwards(prepared):
    """The lock of a run that was killed is the kernel's to free: `dr` starts again at once in
    the test of twenty kills.
    """
    _, workspace = prepared
    with workspace.lock("run"):
        with (
            pytest.raises(WorkspaceLocked, match=f"process {os.getpid()} on") as caught,
            open_session(workspace.location, DaskParams()),
        ):
            pass
        assert "\n" not in str(caught.value)
    with open_session(workspace.location, DaskParams()):
        pass
