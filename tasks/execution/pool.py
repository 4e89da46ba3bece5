"""Dask workers behind one method: plain functions in, results out in the order they finish.

What is true here: at most two jobs a worker are in flight, so the scheduler's memory does not grow
with the run; a worker that dies costs its job a retry and never the run; a job that keeps killing
workers comes back as a `Failure` instead of an exception; a scheduler or all workers that are gone
end the run with a line instead of a wait without end. Workers run plain functions only: a Prefect
task on a worker would start a Prefect server there.
"""

import contextlib
import itertools
import logging
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from dr_lib.network import backend
from storage.errors import StorageError, after_failure
from tasks.run.errors import AGAIN, LESS_AT_ONCE, UserError, remedy
from tasks.run.settings import DaskParams

# A worker is one process with its share of the cores: OpenCV, BLAS, TensorFlow and Zarr threads
# must not multiply.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",  # a worker without the GPU resource must not take the GPU's memory
}
START_S = 20  # for a given scheduler to answer, and for a first worker to join it
DESERTED_S = 60  # without any worker; one that is started anew after its death is back sooner
LOOK_S = 5  # how often that is looked at, where no job ends sooner
DASK_CONFIG = {
    "distributed.scheduler.allowed-failures": 2,  # deaths of workers before a job is given up
    # A worker that is not there 15 s after a death, even an earlier one, would be given up, and
    # never replaced.
    "distributed.deploy.lost-worker-timeout": "10000 hours",
    # Dask's own threshold of 64 KiB gives every freed image back to the system, to be asked for
    # again: a third of the time of preprocessing. These are the values that glibc itself comes to.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    # A network's forward pass holds the event loop for seconds.
    "distributed.admin.tick.limit": "60s",
    # As they come, looking after themselves takes scheduler and nannies 7 % of a core that a worker
    # wants.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    # An hour of call stacks would be kept in every worker's memory.
    "distributed.worker.profile.enabled": False,
    # The engine bounds its own memory.
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
}
# TensorFlow, its compiled functions and the libraries of a worker, before any image (measured: 0.7
# to 0.9 GiB).
WORKER_BASE_BYTES = 1 << 30


@dataclass(frozen=True)
class Failure:
    """Why a job has no result: `killed` when it took its workers down, otherwise what it raised,
    and where.

    may_pass: whether what it raised is of the kind that a second try may not meet: a connection, a
    time-out, a busy device. remedy: what a person can do about it.
    """

    reason: str
    killed: bool = False
    may_pass: bool = field(default=False, compare=False)
    trace: str = field(default="", compare=False)
    remedy: str = field(default=f"mend that and {AGAIN}", compare=False)


class Pool:
    """A Dask client that starts on first use, so that a run with nothing to do starts no
    cluster.
    """

    def __init__(self, params: DaskParams):
        self.params = params
        self.workers = params.workers or os.cpu_count() or 1
        self._client = None
        self._closing = contextlib.ExitStack()
        self._own_environment: dict[str, str | None] = {}

    def connect(self):
        """The connected `distributed.Client`; `workers` is then their true number.

        Raises UserError if a given scheduler does not answer or has no workers.
        """
        if self._client is None:
            self._client = self._connected()
        return self._client

    def _connected(self):
        import dask
        from distributed import Client, LocalCluster

        dask.config.set(DASK_CONFIG)
        if self.params.address:
            return self._client_of(self.params.address)
        spawned = (*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED")
        self._own_environment = {name: os.environ.get(name) for name in spawned}
        cluster = self._closing.enter_context(
            LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # a free port, and for nobody but this machine
                memory_limit=0,
                silence_logs=50,
                env=ONE_THREAD,
            )
        )
        self._restore_environment()
        # Not the default: whoever opens arrays lazily in this process would send its work to a
        # client that is closed by then.
        return self._closing.enter_context(Client(cluster, set_as_default=False))

    def _client_of(self, address: str):
        """A client of a scheduler that somebody else started."""
        from distributed import Client
        from distributed.comm import parse_address
        from distributed.comm.registry import get_backend

        for name in ("distributed.client", "distributed.utils"):
            # A lost scheduler is told in a line, not in its stack traces.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            # Looked up before a client starts threads for it.
            get_backend(parse_address(address, strict=True)[0])
            client = self._closing.enter_context(
                Client(address, timeout=START_S, set_as_default=False)
            )
        except ValueError as error:
            raise UserError(
                f"dask.address = {address!r}: {error}; it should look like tcp://host:8786"
            ) from None
        except OSError:
            raise UserError(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler` or leave"
                " dask.address empty"
            ) from None
        try:
            client.wait_for_workers(1, timeout=START_S)
        except TimeoutError:
            raise UserError(
                f"the Dask scheduler at {address} has no workers; start some with `dask worker"
                f" {address} --nworkers auto --nthreads 1`"
            ) from None
        for worker, theirs in client.run(backend.chosen).items():
            if theirs != backend.chosen():
                raise UserError(
                    f"the Dask worker {worker} runs Keras on {theirs}, this process on"
                    f" {backend.chosen()}; start it with KERAS_BACKEND={backend.chosen()}"
                )
        self.workers = len(client.scheduler_info(n_workers=-1)["workers"])
        return client

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Generator[tuple]:
        """Runs `function(job)` on a worker for each job; yields (job, result or Failure) as jobs
        finish.

        Raises UserError where the scheduler, or all its workers, are gone.
        """
        waiting = iter(jobs)
        client = self.connect()
        running: dict[Any, Any] = {}

        def submit(most: int) -> None:
            for job in itertools.islice(waiting, most):
                running[client.submit(function, job, pure=False)] = job

        try:
            submit(2 * self.workers)
            while running:
                for future in self._finished(client, list(running)):
                    job = running.pop(future)
                    error = future.exception()
                    result = future.result() if error is None else failure(error)
                    future.release()
                    submit(1)
                    yield job, result
        except CancelledError:  # nobody here cancels a job that is waited for
            raise UserError(
                f"the Dask scheduler at {client.scheduler.address} is gone; start it again and run"
                " the same command"
            ) from None
        finally:
            # Reached with jobs running only on Ctrl-C or an error: what has not started never will.
            with after_failure(), contextlib.suppress(OSError):
                client.cancel(list(running), force=True)
            self._restore_environment()

    def _finished(self, client, futures: list) -> set:
        """The jobs that have ended, once there is one. Raises UserError where no worker has been
        left for DESERTED_S.
        """
        from distributed import wait

        last_seen = time.monotonic()
        while True:
            with client.as_current(), contextlib.suppress(TimeoutError):
                return wait(futures, timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            if client.scheduler_info(n_workers=1)["n_workers"]:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > DESERTED_S:
                raise UserError(
                    f"all workers of the Dask scheduler at {client.scheduler.address} are gone;"
                    " start some and run the same command"
                )

    def _restore_environment(self) -> None:
        """Undoes what starting a worker did to this process: its variables, one thread for all,
        would hold here as well.
        """
        for name, value in self._own_environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def close(self) -> None:
        """Stops the workers that this pool started."""
        with after_failure():
            self._closing.close()
        self._client = None


def failure(error: BaseException) -> Failure:
    """What is told of a job that raised this, or whose workers died (`KilledWorker`)."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        died = f"mostly that is for lack of memory: {LESS_AT_ONCE}"
        return Failure("its worker process died", killed=True, remedy=died)
    trace = "".join(traceback.format_exception(error))
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Failure(reason, may_pass=_may_pass(error), trace=trace, remedy=remedy(error))


def _may_pass(error: BaseException) -> bool:
    """Faults of the network and of devices; not what a person must mend first, such as a full
    disk or a file that is absent.
    """
    return isinstance(error, OSError) and not isinstance(
        error, (StorageError, FileNotFoundError, PermissionError)
    )


def killing_items(
    pool: Pool, trial: Callable[[list], Any], items: list
) -> dict[Any, str] | Failure:
    """Which items kill a worker, found by halving.

    To be called with nothing else in flight: Dask blames a worker's death on every job that waited
    there, and an innocent item in such company would be set aside too. For the same reason one half
    is tried at a time.

    Parameters
    ----------
    trial: does the work on some items and writes nothing.

    Returns
    -------
    The killing items, each with the reason. A Failure where workers die of `trial([])` already,
    which works on nothing of the data set: then no item is to blame.
    """
    control = run_singly(pool, trial, [])
    if isinstance(control, Failure) and control.killed:
        return Failure("worker processes die, whatever they work on", remedy=control.remedy)
    killing: dict[Any, str] = {}
    groups = [items] if items else []
    while groups:
        group = groups.pop()
        result = run_singly(pool, trial, group)
        if isinstance(result, Failure) and result.killed:
            if len(group) == 1:
                killing[group[0]] = result.reason
            else:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
    return killing


def run_singly(pool: Pool, function: Callable[[Any], Any], job: Any) -> Any:
    """The result (or Failure) of one job."""
    ((_, result),) = pool.run(function, [job])
    return result
