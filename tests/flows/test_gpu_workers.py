"""Workers that own a GPU each, on a faked machine of two: they compute on the processor, and all
else is as with real ones.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import dask
import pytest
from prefect import flow

from tasks.attribute import step
from tasks.attribute.shard import explain_shard
from tasks.attribute.step import attribute
from tasks.execution import gpu, pool
from tasks.execution.gpu import Gpu
from tasks.execution.network import NetworkWorkers
from tasks.execution.pool import Pool
from tasks.run.errors import UserError
from tasks.run.session import Session
from tasks.run.settings import DaskParams
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.test_cluster import WORKER, dask_scheduler, dask_worker, process

GPUS = [Gpu("GPU-8a", "NVIDIA H100"), Gpu("GPU-b7", "NVIDIA H100")]


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch, tmp_path):
    """A machine of two GPUs; returns the lines that are told."""
    told = []
    monkeypatch.setattr(pool, "gpus_here", lambda: GPUS)
    monkeypatch.setattr(pool, "lock_folder", lambda: tmp_path / "locks")
    monkeypatch.setattr(pool, "say", told.append)
    return told


@pytest.fixture
def workers(warm_start):
    with (
        dask.config.set(warm_start),
        contextlib.closing(Pool(DaskParams(workers=1))) as both,
    ):
        both.connect()
        yield both


def seen(_):
    time.sleep(0.2)  # so that no worker does the work of two
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_the_network_has_the_gpus_and_everything_else_the_processors(workers, two_gpus):
    network = NetworkWorkers(workers)
    assert (network.workers, network.has_gpus, workers.workers) == (2, True, 1)
    devices = {device for _, device in network.run(seen, range(6))}
    assert devices == {"GPU-8a", "GPU-b7"}, "each worker sees its own"
    assert {device for _, device in workers.run(seen, range(3))} == {""}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "", "nor does the run's own process see any"
    assert workers.load().startswith("CPU ")
    assert network.load() == "", "how busy a GPU is, nvidia-ml-py tells"
    (line,) = two_gpus
    assert line.startswith("2 of 2 workers with a GPU compute on their processor; install .[")


def test_a_gpu_is_one_runs_until_its_pool_closes(monkeypatch, workers):
    monkeypatch.setattr(gpu, "say", lambda line: pytest.fail(line))
    locks = pool.lock_folder()
    assert sorted(path.name for path in locks.iterdir()) == ["GPU-8a.lock", "GPU-b7.lock"]
    with pytest.raises(pytest.fail.Exception, match="is used by process"):
        gpu.take_gpus(GPUS, 1, 1, locks)
    workers.close()
    taken = gpu.take_gpus(GPUS, 2, 2, locks)
    for handle in taken.values():
        os.close(handle)


@pytest.mark.parametrize(("asked", "there"), [("auto", 2), (1, 1), (0, 0)])
def test_as_many_gpus_as_asked_for(asked, there):
    assert Pool(DaskParams(gpus=asked)).gpus == there


def test_more_gpus_than_there_are_is_one_line():
    with pytest.raises(UserError, match=r"^dask.gpus = 3, but 2 can be used on this machine; set"):
        Pool(DaskParams(gpus=3))


@pytest.mark.parametrize("gpus", [-1, "two", 1.5])
def test_what_is_no_number_of_gpus_is_refused(gpus):
    with pytest.raises(ValueError, match='gpus must be "auto", or a number'):
        DaskParams(gpus=gpus)


def whole(job, report):
    report(1, "first")
    report(2, os.environ["CUDA_VISIBLE_DEVICES"])
    if job == "mistake":
        raise UserError("no eye has stage 3; add some")
    if job == "fault":
        raise KeyError("stage")
    return os.getpid()


def test_what_cannot_be_divided_has_a_gpu_and_is_heard_of_here(workers):
    told = []
    network = NetworkWorkers(workers)
    assert network.run_whole(whole, "job", lambda *words: told.append(words)) != os.getpid()
    assert told[0] == (1, "first")
    assert told[1] in [(2, "GPU-8a"), (2, "GPU-b7")]
    with pytest.raises(UserError, match=r"^no eye has stage 3; add some$"):
        network.run_whole(whole, "mistake", lambda *words: None)
    with pytest.raises(UserError, match="KeyError"):
        network.run_whole(whole, "fault", lambda *words: None)


def test_without_a_gpu_it_has_every_core_of_this_process():
    told = []
    network = NetworkWorkers(Pool(DaskParams(gpus=0)))
    assert network.run_whole(whole, "job", lambda *words: told.append(words)) == os.getpid()
    assert told == [(1, "first"), (2, "")]


def die_once(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_gpu_worker_that_dies_costs_a_retry_on_a_gpu(workers, tmp_path):
    jobs = [str(tmp_path / f"marker{number}") for number in range(2)]
    results = [result for _, result in NetworkWorkers(workers).run(die_once, jobs)]
    assert set(results) <= {"GPU-8a", "GPU-b7"}
    assert len(results) == 2


def test_on_a_cluster_the_resource_tells_which_workers_have_a_gpu(tmp_path, monkeypatch):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "GPU-8a"}
    owns_one = (*WORKER, "--resources", "GPU=1")
    with (
        dask_scheduler(tmp_path) as (_, file, address),
        dask_worker(file, tmp_path),
        process(
            *owns_one, "--scheduler-file", file, env=environment, stderr=subprocess.DEVNULL
        ) as worker,
    ):
        with contextlib.closing(Pool(DaskParams(address=address))) as both:
            both.connect().wait_for_workers(2)
        for params, gpus in ((DaskParams(address), 1), (DaskParams(address, gpus=0), 0)):
            with contextlib.closing(Pool(params)) as both:
                both.connect()
                assert (both.workers, both.gpus) == (2, gpus)
        with pytest.raises(UserError, match=r"^dask.gpus = 2, but 1 can be used at tcp://"):
            Pool(DaskParams(address, gpus=2)).connect()
        with contextlib.closing(Pool(DaskParams(address))) as both:
            network = NetworkWorkers(both)
            assert {device for _, device in network.run(seen, range(3))} == {"GPU-8a"}
            os.killpg(worker.pid, signal.SIGKILL)
            with pytest.raises(UserError, match=r"^all workers with a GPU of the Dask"):
                list(network.run(seen, range(3)))


def explain_or_die(job):
    """One shard, whose worker dies the first time where the workspace has a file `deadly`."""
    deadly = pathlib.Path(job.ids.location) / "deadly"
    if job.span.index == 2 and deadly.exists():
        deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return explain_shard(job)


def explained(folder, gpus: int, deadly: bool = False) -> tuple[dict[str, str], int]:
    """Sixteen eyes in eight shards: the hash of each file of arrays, and how many processes made
    them.
    """
    config, workspace = prepare(write_config(folder), image_ids(16))
    if deadly:
        (folder / "workspace" / "deadly").touch()

    @flow(persist_result=False)
    def run():
        with contextlib.closing(Pool(DaskParams(workers=1, gpus=gpus))) as pool:
            return attribute(Session(workspace, pool), config.recipe, config.storage)

    assert run().new_images == 16
    (store,) = (folder / "workspace" / "explanations").glob("*/attributions.zarr")
    files = {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file()
    }
    (entry,) = {path.parent for path in store.parent.glob("ledger/*.json")}
    records = [json.loads(path.read_text())["record"] for path in entry.glob("*.json")]
    return files, len({record["worker"] for record in records})


def test_two_gpus_explain_to_the_same_bytes_as_one_and_a_killed_worker_costs_a_retry(
    tmp_path, warm_start, tiny_trunk, prefect_server, monkeypatch
):
    monkeypatch.setattr(step, "explain_shard", explain_or_die)
    preload = {"distributed.worker.preload": ["tests.flows.kills"]}
    with dask.config.set(warm_start | preload):
        one, alone = explained(tmp_path / "one", 1)
        two, both = explained(tmp_path / "two", 2)
        deadly, more = explained(tmp_path / "deadly", 2, deadly=True)
    assert (alone, both) == (1, 2)
    assert one == two == deadly
    assert not (tmp_path / "deadly" / "workspace" / "deadly").exists(), "a worker was killed"
    assert more in (2, 3), "the one that died is started anew"
