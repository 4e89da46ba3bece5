"""The workers on which the network runs."""

import functools
import queue
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from tasks.execution.failures import Failure
from tasks.execution.pool import Pool
from tasks.run.errors import UserError


@dataclass(frozen=True)
class NetworkWorkers:
    """Those workers of a pool that run the network: the ones with a GPU, where there is any.
    Stands in the pool's place.
    """

    pool: Pool

    @property
    def workers(self) -> int:
        """How many they are."""
        return self.pool.gpus or self.pool.workers

    @property
    def device(self) -> str:
        """GPU or CPU, as far as is known before the workers are there."""
        return "GPU" if self.pool.gpus else "CPU"

    @property
    def has_gpus(self) -> bool:
        """Whether there is any GPU; asks the scheduler where somebody else started it."""
        if self.pool.params.address:
            self.connect()
        return self.pool.gpus > 0

    def connect(self):
        """As the pool's."""
        return self.pool.connect()

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any], **how: Any) -> Generator:
        """As the pool's."""
        return self.pool.run(function, jobs, network=True, **how)

    def load(self) -> str:
        """As the pool's."""
        return self.pool.load(network=True)

    def run_whole(
        self, function: Callable[[Any, Callable[..., None]], Any], job: Any, report: Callable
    ) -> Any:
        """The result of `function(job, report)`, a work that cannot be divided: on a GPU, or in
        this process with all its cores where there is none.

        Parameters
        ----------
        report: is called here with what the function reports there, numbers and texts alone.

        Raises
        ------
        UserError: what the function raises of the kind, or why it failed.
        """
        if not self.has_gpus:
            return function(job, report)
        reports, topic = queue.SimpleQueue(), uuid.uuid4().hex
        client = self.connect()
        client.subscribe_topic(topic, lambda event: reports.put(event[1]))

        def pass_on() -> None:
            while not reports.empty():
                report(*reports.get())

        work = functools.partial(_reporting, function, topic)
        ((_, result),) = self.run(work, [job], meanwhile=pass_on)
        client.unsubscribe_topic(topic)
        pass_on()
        if isinstance(result, UserError):
            raise result
        if isinstance(result, Failure):
            raise UserError(f"{result.reason}; {result.remedy}")
        return result


Workers = Pool | NetworkWorkers  # as a step chooses them for its work


def _reporting(function: Callable, topic: str, job: Any) -> Any:
    """Runs on a worker: the function's result, or the mistake of a person's that it met."""
    from distributed import get_worker

    try:
        return function(job, lambda *words: get_worker().log_event(topic, words))
    except UserError as error:
        return error
