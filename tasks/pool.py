"""Dask workers behind one method: plain functions in, results out in the order they finish.

What is true here: at most two jobs a worker are in flight, so the scheduler's memory does not grow with the run;
a worker that dies costs its job a retry and never the run; a job that keeps killing workers comes back as a
`Failure` instead of an exception. Workers run plain functions only: a Prefect task on a worker would start a
Prefect server there.
"""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import UserError
from tasks.settings import DaskParams

# A worker is one process with its share of the cores: OpenCV, BLAS, TensorFlow and Zarr threads must not multiply.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",  # a worker without the GPU resource must not take the GPU's memory
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
DEATHS_BEFORE_GIVING_UP = 2


@dataclass(frozen=True)
class Failure:
    """Why a job has no result: `killed` when it took its workers down, otherwise what it raised, and where."""

    reason: str
    killed: bool = False
    trace: str = field(default="", compare=False)


class Pool:
    """A Dask client that starts on first use, so that a run with nothing to do starts no cluster."""

    def __init__(self, params: DaskParams):
        self.params = params
        self.workers = params.workers or os.cpu_count() or 1
        self._client = None
        self._closing = contextlib.ExitStack()

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
                "distributed.admin.tick.limit": "60s",  # a network's forward pass holds the event loop for seconds
                "distributed.worker.memory.terminate": False,  # the engine bounds its own memory
                "distributed.worker.memory.pause": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.target": False,
            }
        )
        if self.params.address:
            try:
                client = self._closing.enter_context(Client(self.params.address, timeout="20s"))
            except OSError:
                message = f"no Dask scheduler answers at {self.params.address}; start one with `dask scheduler` or leave dask.address empty"
                raise UserError(message) from None
            self.workers = len(client.scheduler_info(n_workers=-1)["workers"])
            if not self.workers:
                raise UserError(
                    f"the Dask scheduler at {self.params.address} has no workers; start some with `dask worker {self.params.address} --nworkers auto --nthreads 1`"
                )
            return client
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
        return self._closing.enter_context(Client(cluster))

    def run(self, function: Callable[..., Any], jobs: Iterable[tuple]) -> Iterator[tuple[tuple, Any]]:
        """Yields (job, result or Failure) as jobs finish; each job is the tuple of `function`'s arguments."""
        from distributed import as_completed

        waiting = iter(jobs)
        client = self.connect()
        running: dict[str, tuple] = {}
        finished = as_completed()

        def submit_next() -> None:
            job = next(waiting, None)
            if job is not None:
                future = client.submit(function, *job, pure=False)
                running[future.key] = job
                finished.add(future)

        try:
            for _ in range(2 * self.workers):
                submit_next()
            while running:
                future = next(finished)
                job = running.pop(future.key)
                result = _outcome(future)
                future.release()
                submit_next()
                yield job, result
        finally:
            # Reached with jobs running only on Ctrl-C or an error: what has not started never will.
            client.cancel(list(finished.futures), force=True)

    def close(self) -> None:
        """Stops the workers that this pool started."""
        self._closing.close()
        self._client = None


def _outcome(future) -> Any:
    from distributed.scheduler import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return Failure("its worker process died", killed=True)
    trace = "".join(traceback.format_exception(error))
    return Failure(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}", trace=trace)


def culprits(pool: Pool, trial: Callable[..., Any], rows: list, *fixed: Any) -> dict[Any, str]:
    """Which rows kill a worker, found by halving: {row: reason}. `trial(rows, *fixed)` does the work and writes nothing."""
    found = {}
    groups = [rows]
    while groups:
        halves = []
        for (group, *_), result in pool.run(trial, [(group, *fixed) for group in groups]):
            if isinstance(result, Failure) and result.killed:
                if len(group) == 1:
                    found[group[0]] = result.reason
                else:
                    halves += [group[: len(group) // 2], group[len(group) // 2 :]]
        groups = halves
    return found
