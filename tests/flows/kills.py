"""Runs that are killed: a warm process that forks them, and a seeded schedule of kill -9s at random
progress.

Importing TensorFlow takes seconds, so a test of twenty kills would be minutes of imports. One
process imports everything once, starts no thread, and forks each run from itself; Dask's workers
are forked from a second such process. All else is the product's own: `dr attribute` and `dr
aggregate` with a cluster of their own, in a process group of their own.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np
import psutil

from dr_lib.network.model import BACKBONES
from dr_lib.network.small import small_trunk

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE_S = 300
TINY_BLOCKS = (8,)
# What a worker would import.
PRELOAD = (
    "keras",
    "distributed",
    "flows.pipeline",
    "skimage.feature",
    "skimage.measure",
    "skimage.metrics",
    "sklearn.metrics",
)
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Runs:
    """Starts runs of `dr` and kills them. `server` is the Prefect server that they report to."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.pid, self._count = folder, 0, 0
        self.server = Server(folder / "prefect")
        environment = {
            **os.environ,
            **ONE_THREAD,
            "PREFECT_API_URL": self.server.api,
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.kills"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._workers_parent = int(self._warm.stdout.readline())
        self.server.wait()

    def start(self, *commands: Sequence[str]) -> None:
        """Starts a run of commands such as ("attribute", "config.toml"), one after the other
        until one fails.
        """
        self._count += 1
        self._code = self.folder / f"run-{self._count}.code"
        self._warm.stdin.write(
            f"{self._code}\t" + "\t".join(" ".join(command) for command in commands) + "\n"
        )
        self._warm.stdin.flush()
        self.pid = int(self._warm.stdout.readline())

    @property
    def running(self) -> bool:
        return psutil.pid_exists(self.pid)

    def code(self) -> int | None:
        """The exit code of the run, once it has ended by itself."""
        return int(self._code.read_text()) if self._code.exists() else None

    def output(self) -> str:
        return self._code.with_suffix(".log").read_text()

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._workers_parent).children(recursive=True)
        return []

    def kill(self) -> None:
        """Kills the run and all its workers at once, as the kill of its process group does."""
        workers = self.workers()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in workers:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_until(lambda: not self.running)

    def kill_worker(self, random: np.random.Generator) -> bool:
        """Kills one worker, if there is any."""
        found = self.workers()
        if found:
            with contextlib.suppress(psutil.Error):
                found[int(random.integers(len(found)))].kill()
        return bool(found)

    def stop(self) -> None:
        """Kills what a test that failed has left running."""
        if self.pid and self.running:
            self.kill()

    def close(self) -> None:
        self.stop()
        self._warm.stdin.close()
        self._warm.wait(60)
        self._warm.stdout.close()
        self.server.kill()


class Server:
    """A Prefect server of our own, to be killed and started again at the same address with its
    history.
    """

    def __init__(self, home: pathlib.Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.api = home, f"http://127.0.0.1:{self.port}/api"
        home.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        environment.pop("PREFECT_API_URL", None)
        command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        wait_until(self._answers)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.api}/health", timeout=2).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True


def shrink_trunk() -> None:
    """Leaves the small trunk of this process one block of few filters: what a worker takes to
    start is tracing layer by layer.
    """
    BACKBONES["small"] = small_trunk(TINY_BLOCKS)


def dask_setup(worker: object) -> None:
    """Dask calls this in every worker as it starts."""
    shrink_trunk()


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for something that always comes; the limit is far away, so that only a hang meets
    it.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for minutes"
        time.sleep(0.02)


def killed_run(
    runs: Runs,
    commands: Sequence[Sequence[str]],
    ledger: pathlib.Path,
    shards: int,
    kinds: Sequence[str],
    seed: int,
) -> list[str]:
    """Runs the commands, again after each kill, until they end well; returns a line for each kill.

    kinds: what is killed, in this order: "run" (its whole process group), "worker" or "server".
    Each comes at a random progress, and a random moment after that; a machine so fast that the
    commands end before leaves the rest of them to another call. Fails if a shard that was marked is
    ever marked again.
    """
    random = np.random.default_rng(seed)
    marked: dict[str, int] = {}
    told = []
    # Spread over the whole run: each start brings the shards in flight, and drawn one after another
    # all would lie at the end.
    points = np.sort(random.integers(0, shards - 4, len(kinds)))
    runs.start(*commands)
    for kind, point in zip(kinds, points, strict=True):
        moment_s = float(random.uniform(0, 0.1))
        wait_until(
            lambda point=point: _look(ledger, marked) >= point or _ended_well(runs, commands)
        )
        time.sleep(moment_s)
        wait_until(lambda kind=kind: _kill(runs, kind, random) or _ended_well(runs, commands))
        if _ended_well(runs, commands):
            break
        told.append(f"{kind} after {_look(ledger, marked)} of {shards} shards")
    wait_until(lambda: _look(ledger, marked) >= 0 and _ended_well(runs, commands))
    _look(ledger, marked)
    return told


def _look(ledger: pathlib.Path, marked: dict[str, int]) -> int:
    """How many shards are marked; notes when each was, and that none is ever marked anew."""
    names = {path.name: path for path in ledger.glob("*.json")} if ledger.is_dir() else {}
    assert marked.keys() <= names.keys(), f"marks vanished: {marked.keys() - names.keys()}"
    for name, path in names.items():
        when = path.stat().st_mtime_ns
        assert marked.setdefault(name, when) == when, f"{name} was finished and is computed again"
    return len(names)


def _kill(runs: Runs, kind: str, random: np.random.Generator) -> bool:
    if kind == "worker":
        return runs.kill_worker(random)
    if not runs.running:
        return False
    if kind == "run":
        runs.kill()
    else:
        runs.server.kill()
        runs.server.start()
    return True


def _go_on(runs: Runs, commands: Sequence[Sequence[str]]) -> None:
    """Starts the same commands again, where the run was killed or gave up."""
    if not runs.running and runs.code() != 0:
        runs.server.wait()
        runs.start(*commands)


def _ended_well(runs: Runs, commands: Sequence[Sequence[str]]) -> bool:
    _go_on(runs, commands)
    return not runs.running and runs.code() == 0


# The warm process


def _serve() -> None:
    """Prints the pid of the workers' parent; then forks a run for every line on stdin and prints
    its pid.
    """
    import multiprocessing
    from multiprocessing import forkserver

    import keras  # noqa: F401 - what takes the time

    import flows.pipeline
    import flows.service.server  # noqa: F401

    shrink_trunk()
    multiprocessing.set_forkserver_preload(list(PRELOAD))
    forkserver.ensure_running()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a killed run
    print(forkserver._forkserver._forkserver_pid, flush=True)
    for line in sys.stdin:
        code, *commands = line.rstrip("\n").split("\t")
        if pid := os.fork():
            print(pid, flush=True)
            continue
        with contextlib.suppress(BaseException):
            _run(pathlib.Path(code), [command.split(" ") for command in commands])
        os._exit(1)


def _run(code_file: pathlib.Path, commands: list[list[str]]) -> None:
    """In the forked process: the commands as `dr` runs them, their output in a file, and at the
    end their exit code.
    """
    from multiprocessing import forkserver

    import dask

    from flows.cli.main import main

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with code_file.with_suffix(".log").open("w") as log, _redirected(log):
        # The parent's fork server is already there; a child may use it but must not wait for it.
        forkserver._forkserver.ensure_running = lambda: None
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        dask.config.set({"distributed.worker.preload": ["tests.flows.kills"]})
        status = 0
        for command in commands:
            sys.argv = ["dr", *command]
            try:
                main()
            except SystemExit as end:
                status = int(end.code or 0)
            if status:
                break
        code_file.write_text(str(status))
        log.flush()
        os._exit(status)


@contextlib.contextmanager
def _redirected(log: IO[str]) -> Iterator[None]:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    yield


if __name__ == "__main__":
    _serve()
