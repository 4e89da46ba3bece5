"""A pool without processes: jobs run where they are called, so that a test can see, count and spoil what a worker does."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tasks.pool import Failure
from tasks.settings import DaskParams


class WorkerDied(BaseException):
    """Raised by a job in the place of taking its process down."""


class InlinePool:
    """`tasks.pool.Pool` as the stages use it, with two workers that are this process."""

    def __init__(self, params: DaskParams | None = None):
        self.params, self.workers = params or DaskParams(workers=2), 2
        self.jobs: list[tuple] = []

    def connect(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to close."""

    def run(self, function: Callable[..., Any], jobs: Iterable[tuple]) -> Iterator[tuple[tuple, Any]]:
        for job in jobs:
            self.jobs.append((function.__name__, job))
            try:
                result = function(*job)
            except WorkerDied:
                result = Failure("its worker process died", killed=True)
            except Exception as error:
                result = Failure(f"{type(error).__name__}: {error}")
            yield job, result
