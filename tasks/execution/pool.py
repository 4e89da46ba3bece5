"""Dask workers behind one method: plain functions in, results out in the order they finish.

What is true here: at most two jobs a worker are in flight, so the scheduler's memory does not grow
with the run; a worker that dies costs its job a retry and never the run; a job that keeps killing
workers comes back as a `Failure` instead of an exception; a scheduler or all workers that are gone
end the run with a line instead of a wait without end. Workers run plain functions only: a Prefect
task on a worker would start a Prefect server there.
"""

import contextlib
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
# Dask's own threshold of 64 KiB gives every freed image back to the system, to be asked for again:
# a third of the time of preprocessing. These are the values that glibc itself comes to.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": 64 * 2**20, "MALLOC_MMAP_THRESHOLD_": 32 * 2**20}
DEATHS_BEFORE_GIVING_UP = 2
START_S = 20  # for a given scheduler to answer, and for a first worker to join it
DESERTED_S = 60  # without any worker; one that is started anew after its death is back sooner
LOOK_S = 5  # how often that is looked at, where no job ends sooner


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


def arguments(job: Any) -> tuple:
    """What a job's function is called with: a tuple's items, or any other object as it is."""
    return job if isinstance(job, tuple) else (job,)


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

        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": DEATHS_BEFORE_GIVING_UP,
                # A worker that is not there 15 s after a death, even an earlier one, would be given
                # up, and never replaced.
                "distributed.deploy.lost-worker-timeout": "10000 hours",
                **{
                    f"distributed.nanny.pre-spawn-environ.{name}": value
                    for name, value in MALLOC.items()
                },
                "distributed.admin.tick.limit": (
                    "60s"
                ),  # a network's forward pass holds the event loop for seconds
                # As they come, looking after themselves takes scheduler and nannies 7 % of a core
                # that a worker wants.
                "distributed.admin.tick.interval": "1s",
                "distributed.admin.system-monitor.interval": "5s",
                "distributed.worker.profile.enabled": (
                    False
                ),  # an hour of call stacks, kept in every worker's memory
                "distributed.worker.memory.terminate": False,  # the engine bounds its own memory
                "distributed.worker.memory.pause": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.target": False,
            }
        )
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
            logging.getLogger(name).setLevel(
                logging.CRITICAL
            )  # a lost scheduler is told in a line, not in its stack traces
        try:
            get_backend(
                parse_address(address, strict=True)[0]
            )  # before a client starts threads for it
            client = self._closing.enter_context(
                Client(address, timeout=START_S, set_as_default=False)
            )
        except ValueError as error:
            raise UserError(
                f"dask.address = {address!r}: {error}; it should look like tcp://host:8786"
            ) from None
        except OSError:
            message = (
                f"no Dask scheduler answers at {address}; start one with `dask scheduler` or leave"
                " dask.address empty"
            )
            raise UserError(message) from None
        try:
            client.wait_for_workers(1, timeout=START_S)
        except TimeoutError:
            message = (
                f"the Dask scheduler at {address} has no workers; start some with `dask worker"
                f" {address} --nworkers auto --nthreads 1`"
            )
            raise UserError(message) from None
        for worker, theirs in client.run(backend.chosen).items():
            if theirs != backend.chosen():
                raise UserError(
                    f"the Dask worker {worker} runs Keras on {theirs}, this process on"
                    f" {backend.chosen()}; start it with KERAS_BACKEND={backend.chosen()}"
                )
        self.workers = len(client.scheduler_info(n_workers=-1)["workers"])
        return client

    def run(self, function: Callable[..., Any], jobs: Iterable[Any]) -> Generator[tuple[Any, Any]]:
        """Yields (job, result or Failure) as jobs finish. A job is what `function` takes: one
        object, or a tuple of its arguments.
        """
        waiting = iter(jobs)
        client = self.connect()
        running: dict[Any, Any] = {}

        def submit_next() -> None:
            job = next(waiting, None)
            if job is not None:
                running[client.submit(function, *arguments(job), pure=False)] = job

        try:
            for _ in range(2 * self.workers):
                submit_next()
            while running:
                for future in self._finished(client, list(running)):
                    job = running.pop(future)
                    result = _outcome(future)
                    future.release()
                    submit_next()
                    yield job, result
        except CancelledError:  # nobody here cancels a job that is waited for
            message = (
                f"the Dask scheduler at {client.scheduler.address} is gone; start it again and run"
                " the same command"
            )
            raise UserError(message) from None
        finally:
            # Reached with jobs running only on Ctrl-C or an error: what has not started never will.
            with after_failure(), contextlib.suppress(OSError):
                client.cancel(list(running), force=True)
            self._restore_environment()

    def _finished(self, client, futures: list) -> set:
        """The jobs that have ended, once there is one. Raises UserError where nobody is left to
        end any.
        """
        from distributed import wait

        deserted_since = None
        while True:
            try:
                with client.as_current():
                    return wait(futures, timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if client.scheduler_info(n_workers=1)["n_workers"]:
                    deserted_since = None
                    continue
            deserted_since = deserted_since or time.monotonic()
            if time.monotonic() - deserted_since > DESERTED_S:
                message = (
                    f"all workers of the Dask scheduler at {client.scheduler.address} are gone;"
                    " start some and run the same command"
                )
                raise UserError(message)

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


def _outcome(future) -> Any:
    error = future.exception()
    return future.result() if error is None else failure(error)


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
    pool: Pool, trial: Callable[..., Any], rows: list, *fixed: Any
) -> dict[Any, str] | Failure:
    """Which rows kill a worker, found by halving: {row: reason}. `trial(rows, *fixed)` does the
    work and writes nothing.

    One half at a time, and to be called with nothing else in flight: Dask blames a worker's death
    on every job that waited there, and an innocent row in such company would be set aside too. A
    Failure where workers die of `trial([], *fixed)` already, which works on nothing of the data
    set: then no row is to blame.
    """
    control = run_singly(pool, trial, [], *fixed)
    if isinstance(control, Failure) and control.killed:
        return Failure("worker processes die, whatever they work on", remedy=control.remedy)
    found: dict[Any, str] = {}
    groups = [rows] if rows else []
    while groups:
        group = groups.pop()
        result = run_singly(pool, trial, group, *fixed)
        if isinstance(result, Failure) and result.killed:
            if len(group) == 1:
                found[group[0]] = result.reason
            else:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
    return found


def run_singly(pool: Pool, function: Callable[..., Any], *job: Any) -> Any:
    """The result (or Failure) of one job."""
    ((_, result),) = pool.run(function, [job if len(job) > 1 else job[0]])
    return result


# TensorFlow, its compiled functions and the libraries of a worker, before any image (measured: 0.7
# to 0.9 GiB).
WORKER_BASE_BYTES = 1 << 30
