"""Dask workers behind one method: plain functions in, results out in the order they finish.

There are two kinds of workers. Some own a GPU each (Dask's resource `GPU`) and run the network,
where there is any; the others see none and do everything else. This process computes on no GPU.

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
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import CancelledError
from statistics import mean
from types import MappingProxyType
from typing import Any

from dr_lib.network import backend
from storage.errors import after_failure
from storage.files.text import shipped_toml
from tasks.execution.failures import failure
from tasks.execution.gpu import gpus_here, lock_folder, take_gpus
from tasks.run.errors import UserError
from tasks.run.progress import say
from tasks.run.settings import DaskParams

GPU = {"GPU": 1}  # Dask's resource of a worker that has one, also on a cluster
CPU = {"CPU": 1}  # of the other workers on this machine
GPU_EXTRAS = {"tensorflow": "gpu", "jax": "jax-gpu"}  # of the package, with the framework's CUDA
START_S = 20  # for a given scheduler to answer, and for a first worker to join it
DESERTED_S = 60  # without any worker; one that is started anew after its death is back sooner
LOOK_S = 5  # how often that is looked at, where no job ends sooner
_WORKERS = shipped_toml("tasks.execution", "workers.toml")
ONE_THREAD, DASK_CONFIG = _WORKERS["environment"], _WORKERS["dask"]
# TensorFlow, its compiled functions and the libraries of a worker, before any image (measured: 0.7
# to 0.9 GiB).
WORKER_BASE_BYTES = 1 << 30


class Pool:
    """A Dask client that starts on first use, so that a run with nothing to do starts no
    cluster.
    """

    def __init__(self, params: DaskParams):
        self.params = params
        self.workers = params.workers or os.cpu_count() or 1
        # Workers with a GPU: as far as is known until they are there.
        self.gpus = 0
        self._gpus_here = [] if params.address or params.gpus == 0 else gpus_here()
        if not params.address:
            self.gpus = len(self._gpus_here) if params.gpus == "auto" else int(params.gpus)
            self._check_gpus(len(self._gpus_here), "on this machine")
        self._gpus_tried = False
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._client = None
        self._closing = contextlib.ExitStack()
        self._own_environment: dict[str, str | None] = {}

    def _check_gpus(self, there: int, where: str) -> None:
        """Dask would wait for ever for a resource that no worker has."""
        if self.params.gpus != "auto" and self.params.gpus > there:
            raise UserError(
                f"dask.gpus = {self.params.gpus}, but {there} can be used {where}; set a smaller"
                ' number, or "auto"'
            )

    def connect(self):
        """The connected `distributed.Client`; `workers` and `gpus` are then their true numbers.

        Raises UserError if a given scheduler does not answer, or has no workers, or fewer GPUs than
        are asked for.
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
        least = 1 if self.params.gpus == "auto" else self.gpus
        held = take_gpus(self._gpus_here, least, self.gpus, lock_folder()) if self.gpus else {}
        for handle in held.values():
            self._closing.callback(os.close, handle)
        self.gpus = len(held)
        cluster = self._closing.enter_context(
            LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # a free port, and for nobody but this machine
                memory_limit=0,
                silence_logs=50,
                env=ONE_THREAD,
                resources=CPU,
            )
        )
        options = cluster.new_spec["options"]
        for number, gpu in enumerate(held, self.workers + 1):
            own = {"env": ONE_THREAD | {"CUDA_VISIBLE_DEVICES": gpu.uuid}, "resources": GPU}
            cluster.new_spec = {**cluster.new_spec, "options": {**options, **own}}
            cluster.scale(number)
        # Not the default: whoever opens arrays lazily in this process would send its work to a
        # client that is closed by then.
        client = self._closing.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(self.workers + self.gpus)
        self._restore_environment()
        return client

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
        self.workers = len(_workers_of(client))
        self.gpus = len(_workers_of(client, GPU)) if self.params.gpus else 0
        self._check_gpus(self.gpus, f"at {address} (workers started with --resources GPU=1)")
        return client

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Iterable[Any],
        *,
        network: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Generator[tuple]:
        """Runs `function(job)` on a worker for each job; yields (job, result or Failure) as jobs
        finish.

        Parameters
        ----------
        network: whether it runs the network, on a worker that has a GPU, where there is any.
        meanwhile: is called every few seconds.

        Raises
        ------
        UserError: where the scheduler, or all workers that could do it, are gone.
        """
        waiting = iter(jobs)
        client = self.connect()
        needed = self._resource(network)
        if needed == GPU and not self._gpus_tried:
            self._gpus_tried = True
            if without := self.without_their_gpu():
                say(without)
        running: dict[Any, Any] = {}

        def submit(most: int) -> None:
            for job in itertools.islice(waiting, most):
                running[client.submit(function, job, pure=False, resources=needed)] = job

        try:
            submit(2 * (self.gpus if needed == GPU else self.workers))
            while running:
                for future in self._finished(client, list(running), needed, meanwhile):
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

    def _resource(self, network: bool) -> dict[str, int]:
        """What a worker must have; on a cluster any will do for what needs no GPU."""
        return GPU if network and self.gpus else {} if self.params.address else CPU

    def without_their_gpu(self) -> str:
        """That workers have a GPU on which they cannot compute, and what to do; empty where none
        does. Each would compute on one core, and nobody would know.
        """
        from distributed import wait

        client = self.connect()
        # A worker that dies meanwhile is not waited for: another may answer in its place.
        devices = [
            client.submit(
                backend.device,
                pure=False,
                workers=[worker],
                allow_other_workers=True,
                resources=GPU,
            )
            for worker in _workers_of(client, GPU)
        ]
        with client.as_current(), contextlib.suppress(TimeoutError):
            wait(devices, timeout=DESERTED_S)
        slow = sum(one.status == "finished" and one.result() == "CPU" for one in devices)
        if not slow:
            return ""
        extra = GPU_EXTRAS[backend.chosen()]
        return (
            f"{slow} of {len(devices)} workers with a GPU compute on their processor; install"
            f" .[{extra}] there, by the same constraints.txt"
        )

    def load(self, network: bool = False) -> str:
        """How busy the workers are, with their GPUs or their cores, such as `GPU 87 %`."""
        needed = self._resource(network)
        metrics = [worker["metrics"] for worker in _workers_of(self.connect(), needed).values()]
        if needed == GPU:  # told only where nvidia-ml-py is installed
            busy = [one["gpu"]["utilization"] for one in metrics if one.get("gpu")]
        else:
            busy = [one["cpu"] for one in metrics]
        return f"{'GPU' if needed == GPU else 'CPU'} {round(mean(busy))} %" if busy else ""

    def _finished(
        self, client, futures: list, needed: dict[str, int], meanwhile: Callable[[], None]
    ) -> set:
        """The jobs that have ended, once there is one. Raises UserError where no worker that could
        do them has been left for DESERTED_S.
        """
        from distributed import wait

        last_seen = time.monotonic()
        while True:
            with client.as_current(), contextlib.suppress(TimeoutError):
                return wait(futures, timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            meanwhile()
            if _workers_of(client, needed):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > DESERTED_S:
                gone = "all workers with a GPU" if needed == GPU else "all workers"
                raise UserError(
                    f"{gone} of the Dask scheduler at {client.scheduler.address} are gone;"
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


def _workers_of(client, needed: Mapping[str, int] = MappingProxyType({})) -> dict[str, Any]:
    """What the scheduler says of those of its workers that have the resource, by address."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {
        address: worker
        for address, worker in workers.items()
        if needed.keys() <= worker["resources"].keys()
    }
