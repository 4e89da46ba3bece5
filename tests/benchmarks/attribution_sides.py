"""Two processes that compute in turns: each has its own Keras backend and, while it works, the
machine to itself.

A `Side` is a class of another module that lives in a process of its own, asked one question at a
time. Whoever asks waits for the answer, so that the sides never compute at the same time. A side
that dies costs the part that asked it.
"""

import importlib
import multiprocessing
import os
import tempfile
import time
import traceback
from typing import Any


class SideFailed(RuntimeError):
    """A side could not answer; the message is its last line, the whole story is in `story`."""

    def __init__(self, message: str, story: str = "") -> None:
        super().__init__(message)
        self.story = story


class Side:
    """`module.Side(**setup)` in a fresh process under the given environment, started when it is
    first asked.
    """

    def __init__(self, module: str, environment: dict[str, str], setup: dict[str, Any]) -> None:
        self.module, self.environment, self.setup = module, environment, setup
        self.process = self.connection = None
        # Frameworks talk a lot while they start, past every log level; it is kept for the day one
        # of them dies.
        self.noise = tempfile.NamedTemporaryFile()  # noqa: SIM115 – open as long as the process

    def ask(self, question: str, **arguments: Any) -> Any:
        """The answer of the method named `question`. Raises SideFailed."""
        if self.process is None or not self.process.is_alive():
            self._start()
        try:
            self.connection.send((question, arguments))
            kind, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            code = self.process.exitcode
            self.process = None
            self.noise.seek(0)
            story = self.noise.read().decode(errors="replace")[-2000:]
            raise SideFailed(
                f"{self.module}: the process ended ({code}) during {question!r}", story
            ) from error
        if kind == "failed":
            raise SideFailed(
                f"{self.module}, {question!r}: {answer.strip().splitlines()[-1]}", answer
            )
        return answer

    def close(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.connection.close()
            self.process.join(10)
            if self.process.is_alive():
                self.process.terminate()
        self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            self.process = context.Process(
                target=_serve, args=(theirs, self.module, self.setup, self.noise.name), daemon=True
            )
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()


def peak_memory_bytes() -> int:
    """The most memory this process has held so far. Not ru_maxrss, which on Linux starts at the
    parent's.
    """
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def quickest(work: Any, repeats: int = 3) -> float:
    """Seconds of the fastest of a few runs: what else the machine does can only add."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _serve(connection: Any, module: str, setup: dict[str, Any], noise: str) -> None:
    with open(noise, "ab") as file:
        os.dup2(file.fileno(), 2)
    side = None
    while True:
        try:
            question, arguments = connection.recv()
        except EOFError:
            return
        try:
            if side is None:
                side = importlib.import_module(module).Side(**setup)
            answer = ("answer", getattr(side, question)(**arguments))
        except Exception:
            answer = ("failed", traceback.format_exc())
        connection.send(answer)
