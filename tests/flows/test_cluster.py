"""A run as on a cluster: the workspace in an S3 bucket, the workers those of a Dask scheduler that
was started separately.

The S3 server (moto's) and the scheduler with its workers are processes of their own on loopback,
reached as real ones are: by the AWS_* variables and by `dask.address`. One worker dies in each of
the two long stages.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from dr_lib.network.model import BACKBONES
from dr_lib.network.small import small_trunk
from flows.cli.main import app
from storage import open_workspace
from storage.admin.verify import verify
from storage.errors import WorkspaceLocked
from storage.layout import attributions_path, fundus_path
from tasks.access.stores import explanation_store, fundus_store
from tasks.execution.pool import Pool
from tasks.run.errors import UserError
from tasks.run.settings import DaskParams
from tests.flows import faults
from tests.flows.conftest import TINY
from tests.flows.kills import TINY_BLOCKS
from tests.storage.test_lock import start_holder

REPOSITORY = pathlib.Path(__file__).parents[2]
STAGES = ("ingest", "preprocess", "train", "attribute", "aggregate")
EYES = 24
EXPLAINED = 8
SHARD = 4


@contextlib.contextmanager
def process(*command, **options):
    """A process and what it starts; all of them end with the block."""
    started = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, start_new_session=True, **options
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def appears(file: pathlib.Path, pattern: str) -> re.Match:
    """Waits until a process has written something into a file."""
    while not (file.exists() and (found := re.search(pattern, file.read_text(), re.DOTALL))):
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An S3 server on a free port with one bucket, and the environment in which this process and
    its children find it.
    """
    import fsspec

    log = tmp_path_factory.mktemp("s3") / "log"
    with (
        log.open("w") as stream,
        process("-m", "moto.server", "-p", "0", stderr=stream),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {
            "AWS_ENDPOINT_URL": appears(log, r"Running on (http://\S+)")[1],
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("eyes")
        yield "s3://eyes"


@contextlib.contextmanager
def dask_scheduler(folder: pathlib.Path):
    """A scheduler on a free port; yields its process, its file and its address."""
    file = folder / "scheduler.json"
    command = (
        "-m",
        "dask",
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        file,
    )
    with process(*command, stderr=subprocess.DEVNULL) as scheduler:
        yield scheduler, file, json.loads(appears(file, "{.*}")[0])["address"]


WORKER = ("-m", "dask", "worker", "--nthreads", "1", "--no-dashboard")


def dask_worker(file: pathlib.Path, folder: pathlib.Path, **options):
    command = (*WORKER, "--scheduler-file", file, "--local-directory", folder)
    return process(*command, stderr=subprocess.DEVNULL, **options)


@pytest.fixture(scope="module")
def chain(tmp_path_factory, drawn_photos, bucket, prefect_server):
    """The stages up to the tables, twice. In preprocessing a worker process dies and its nanny
    starts another; while attributions are written a worker goes for good, nanny and all.
    """
    from flows.pipeline import FLOWS

    root = tmp_path_factory.mktemp("cluster")
    deaths = [
        {"at": "set", "match": "pixels/c/1/", "how": "process", "once": str(root / "died")},
        {
            "at": "set",
            "match": "pixels/attribution/c/0/",
            "how": "group",
            "once": str(root / "gone"),
        },
    ]
    environment = {**os.environ, **faults.environment(deaths, root / "read")}
    environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] = json.dumps(
        [faults.HERE, "tests.flows.kills"]
    )
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "small", small_trunk(TINY_BLOCKS))
        _, file, address = stack.enter_context(dask_scheduler(root))
        for _ in range(2):
            stack.enter_context(dask_worker(file, root, env=environment))
        config = root / "tiny.toml"
        location = f"{bucket}/study"
        config.write_text(
            TINY.replace("workers = 2", f'address = "{address}"').format(
                photos=drawn_photos, workspace=location
            )
        )
        settings = [
            f"data.limit={EYES}",
            "attribution.split=all",
            f"attribution.limit={EXPLAINED}",
            f"storage.shard_images={SHARD}",
        ]
        settings += [
            "attribution.layers=['fc1']",
            "linearity.layers=['fc1']",
            "channel_dissection.layers=['stem']",
        ]
        runs = [[FLOWS[stage](str(config), settings)[0] for stage in STAGES]]
        hashes = objects(location)
        runs.append([FLOWS[stage](str(config), settings)[0] for stage in STAGES])
        yield {
            "workspace": open_workspace(location),
            "runs": runs,
            "objects": (hashes, objects(location)),
            "struck": [(root / name).exists() for name in ("died", "gone")],
            "again": lambda stage: FLOWS[stage](str(config), settings)[0],
        }


def objects(location: str) -> dict[str, str]:
    """What the store says of every result's content; records of runs tell of the run itself."""
    files = open_workspace(location).files
    told = ("tables/runs/", "catalog.sql", ".locks/")
    found = {
        path.removeprefix(f"{files.path()}/"): entry["ETag"]
        for path, entry in files.filesystem.find(files.path(), detail=True).items()
    }
    return {name: tag for name, tag in found.items() if not name.startswith(told)}


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_stage_ends_though_workers_die_in_the_middle_of_shards(chain):
    assert chain["struck"] == [True, True]
    ingest, preprocess, _, attribute, _ = chain["runs"][0]
    assert ingest.images == preprocess.images == preprocess.new_images == EYES
    assert attribute.images == attribute.new_images == EXPLAINED
    assert chain["workspace"].rejects().empty
    explained = chain["workspace"].frame("attributions", explain_id="latest")
    assert explained["image_id"].nunique() == EXPLAINED
    assert chain["workspace"].count("predictions") == EYES


def test_the_same_again_does_nothing_and_changes_no_object(chain):
    assert [result.new_images for result in chain["runs"][1]] == [0] * len(STAGES)
    assert chain["objects"][1] == chain["objects"][0]
    assert len(chain["objects"][0]) > 100


def test_status_and_verify_read_the_bucket(chain):
    location = chain["workspace"].location
    status = dr("status", location)
    assert (
        status.exit_code,
        "6 of 6 shards" in status.output,
        "2 of 2 shards" in status.output,
    ) == (0, True, True)
    assert dr("verify", location).output.strip() == "every shard and table is whole"


@pytest.mark.parametrize("stage", ["preprocess", "attribute"])
def test_a_shard_torn_and_unmarked_comes_back_with_the_same_bytes_and_no_other_is_written(
    chain, stage
):
    """What a kill leaves at worst in a bucket: some of a shard's objects new, one of them cut,
    and no mark.
    """
    workspace = chain["workspace"]
    before = objects(workspace.location)
    if stage == "preprocess":
        (store_id,) = [
            name.removesuffix(".zarr")
            for name in workspace.files.names("fundus")
            if name.endswith(".zarr")
        ]
        store, path, array = fundus_store(workspace, store_id), fundus_path(store_id), "pixels"
    else:
        (store_id,) = workspace.files.names("explanations")
        store, path, array = (
            explanation_store(workspace, store_id),
            attributions_path(store_id),
            "pixels/attribution",
        )
    marks = {
        name: workspace.files.modified(name) for name in workspace.files.walk(store.ledger.folder)
    }
    (torn,) = [name for name in store.ledger.entry(1).files if name.startswith(f"{array}/c/1/")]
    store.ledger.drop(1)
    workspace.files.write(f"{path}/{torn}", workspace.files.read(f"{path}/{torn}")[:100])
    assert chain["again"](stage).new_images == SHARD
    after = objects(workspace.location)
    assert {name for name in before if after[name] != before[name]} <= {store.ledger.name(1)}
    unchanged = {
        name: workspace.files.modified(name) for name in marks if name != store.ledger.name(1)
    }
    assert unchanged.items() <= marks.items()


def test_what_is_lost_in_the_bucket_is_found_and_made_again(chain):
    workspace = chain["workspace"]
    (store_id,) = [
        name.removesuffix(".zarr")
        for name in workspace.files.names("fundus")
        if name.endswith(".zarr")
    ]
    name = next(iter(fundus_store(workspace, store_id).ledger.entry(3).files))
    lost = f"{fundus_path(store_id)}/{name}"
    content = workspace.files.read(lost)
    workspace.files.remove(lost)
    (flaw,) = verify(workspace, repair=True)
    assert (flaw["kind"], flaw["repair"]) == ("shard", "done")
    assert chain["again"]("preprocess").new_images == SHARD
    assert workspace.files.read(lost) == content
    assert verify(workspace) == []


def test_a_second_run_is_told_who_holds_the_bucket_and_a_killed_ones_lock_is_taken_over(bucket):
    workspace = open_workspace(f"{bucket}/locked")
    with start_holder(workspace.location) as holder:
        with (
            pytest.raises(WorkspaceLocked, match=f"process {holder.pid} on "),
            workspace.lock("run"),
        ):
            pass
        holder.kill()
        holder.wait()
        with workspace.lock("run"), pytest.raises(WorkspaceLocked), workspace.lock("run"):
            pass
    with workspace.lock("run"):
        pass
    assert workspace.files.walk(".locks") == []


def test_a_lock_of_another_machine_is_taken_over_when_it_was_not_renewed_for_long(
    bucket, monkeypatch
):
    workspace = open_workspace(f"{bucket}/elsewhere")
    with workspace.lock("run"):
        holder = workspace.files.read_json(".locks/run.lock")
    workspace.files.write_json(
        ".locks/run.lock", {**holder, "host": "elsewhere", "machine": "elsewhere", "pid": 2**22 + 1}
    )
    with pytest.raises(WorkspaceLocked, match="on elsewhere"), workspace.lock("run"):
        pass
    monkeypatch.setattr("storage.files.lock.LEASE_S", -1.0)
    with workspace.lock("run"):
        assert workspace.files.read_json(".locks/run.lock")["pid"] == os.getpid()


def test_only_one_of_two_that_take_over_a_dead_lock_gets_it(bucket):
    """Both have seen the dead holder's file; S3 writes over that version of it once."""
    from storage.files.lock import _replace, _tag

    files = open_workspace(f"{bucket}/contested").files
    files.write("run.lock", b"dead")
    tag = _tag(files, "run.lock")
    _replace(files, "run.lock", b"first", tag)
    _replace(files, "run.lock", b"second", tag)
    assert files.read("run.lock") == b"first"


def test_a_lock_is_renewed_while_it_is_held(bucket, monkeypatch):
    monkeypatch.setattr("storage.files.lock.RENEWED_EVERY_S", 0.1)
    files = open_workspace(f"{bucket}/renewed").files
    with open_workspace(files.location).lock("run"):
        first = files.modified(".locks/run.lock")
        while files.modified(".locks/run.lock") == first:  # S3's times are whole seconds
            time.sleep(0.1)


def test_a_run_whose_lock_was_taken_stops_and_says_so(bucket, monkeypatch):
    monkeypatch.setattr("storage.files.lock.RENEWED_EVERY_S", 0.1)
    workspace = open_workspace(f"{bucket}/taken")

    def lose_it() -> None:
        with workspace.lock("run"):
            workspace.files.write_json(
                ".locks/run.lock", {"pid": 1, "host": "elsewhere", "since": "now"}
            )
            time.sleep(60)

    # Tests started in the background of a shell would ignore the interrupt.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(WorkspaceLocked, match="lost its lock"):
            lose_it()
    finally:
        signal.signal(signal.SIGINT, before)
    assert workspace.files.read_json(".locks/run.lock")["host"] == "elsewhere", (
        "the other's lock stays"
    )


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9"),
        ("localhost", "it should look like tcp://host:8786"),
        ("http://127.0.0.1:8787", "it should look like tcp://host:8786"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_line(address, says, monkeypatch):
    monkeypatch.setattr("tasks.execution.pool.START_S", 0.5)
    with (
        pytest.raises(UserError, match=re.escape(says)) as caught,
        contextlib.closing(Pool(DaskParams(address=address))) as pool,
    ):
        pool.connect()
    assert "\n" not in str(caught.value)


def test_a_scheduler_without_workers_or_that_loses_them_or_dies_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.execution.pool.START_S", 0.5)
    monkeypatch.setattr("tasks.execution.pool.DESERTED_S", 0.2)
    monkeypatch.setattr("tasks.execution.pool.LOOK_S", 0.1)
    with dask_scheduler(tmp_path) as (scheduler, file, address):
        with pytest.raises(UserError, match="has no workers; start some with") as caught:
            Pool(DaskParams(address=address)).connect()
        assert "\n" not in str(caught.value)
        monkeypatch.setattr("tasks.execution.pool.START_S", 60)
        with (
            dask_worker(file, tmp_path) as worker,
            contextlib.closing(Pool(DaskParams(address=address))) as pool,
        ):
            pool.connect()
            os.killpg(worker.pid, signal.SIGKILL)
            with pytest.raises(
                UserError, match=r"all workers of the Dask scheduler at .* are gone"
            ):
                list(pool.run(time.sleep, [60]))
        with (
            dask_worker(file, tmp_path),
            contextlib.closing(Pool(DaskParams(address=address))) as pool,
        ):
            pool.connect()
            stop = threading.Timer(0.5, scheduler.kill)
            stop.start()
            with pytest.raises(UserError, match="is gone; start it again"):
                list(pool.run(time.sleep, [60]))
