"""Shards in waves: Prefect sees a wave (minutes of work), Dask sees a shard, nobody sees a single
image.

A wave ends when its own shards have; by then the next one's are running.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.execution.pool import Failure, Pool
from tasks.run.errors import UserError
from tasks.run.progress import artifact_key, progress

MOST_WAVES = 50  # task runs cost Prefect 0.1–0.25 s each, and a page of them must stay readable
TRIES_AGAIN_S = 10


class ShardsFailed(Exception):
    """Shards of a wave failed for a reason that may pass, such as a lost connection; its second
    try is the last.
    """


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), ShardsFailed)


@task(
    name="wave",
    task_run_name="{step}: wave {number} of {count}, {images}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=TRIES_AGAIN_S,
    retry_condition_fn=_may_pass,
)
def run_wave(step: str, number: int, count: int, images: str, work: Callable[[], int]) -> int:
    """Runs one wave's shards; returns how many finished. Its name and state are what Prefect's page
    shows.

    work: called a second time where it raises ShardsFailed; the run's log has that reason.
    """
    return work()


class _Stream:
    """Jobs on their way through the pool, across the borders of waves: no worker waits for the
    last shard of a wave.
    """

    def __init__(self, pool: Pool, function: Callable[..., Any], jobs: Sequence[Any]) -> None:
        self._pool, self._function, self._jobs = pool, function, jobs
        self._numbers = {id(job): number for number, job in enumerate(jobs)}
        self._waiting = deque(range(len(jobs)))
        self._results: Generator[tuple[Any, Any]] | None = None
        self._held = False

    def next(self) -> tuple[int, Any] | None:
        """Number and result of the next job that ends; None where none is left to run."""
        while self._results or (self._waiting and not self._held):
            self._results = self._results or self._pool.run(self._function, self._given())
            if found := next(self._results, None):
                return self._numbers[id(found[0])], found[1]
            self._results = None
        return None

    def drained(self) -> Iterator[tuple[int, Any]]:
        """What is in flight as it ends; nothing new is started before all of it has."""
        self._held = True
        yield from iter(self.next, None)
        self._held = False

    def again(self, numbers: Sequence[int]) -> None:
        """Runs these once more, before all that waits."""
        self._waiting.extendleft(reversed(numbers))

    def close(self) -> None:
        if self._results:
            self._results.close()

    def _given(self) -> Iterator[Any]:
        while self._waiting and not self._held:
            yield self._jobs[self._waiting.popleft()]


def run_in_waves(
    pool: Pool,
    step: str,
    function: Callable[..., Any],
    jobs: Sequence[Any],
    *,
    images_of: Callable[[Any], int],
    rescue: Callable[[Any, Failure], Any] | None = None,
    table: Callable[[list[Any]], list[dict[str, Any]]] | None = None,
    collect: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Every job's result, in the jobs' order; a job is what `function` takes (`Pool.run`), and runs
    on one of the pool's workers.

    A job that fails goes to `rescue(job, failure)` at its wave's end; that may do it another way
    and return its result. What it cannot rescue and may pass (a lost connection, a time-out) is
    tried once more. What fails then is raised as UserError when all others are done, so that one
    bad shard never costs the rest. table: makes the rows that Prefect's page shows of a wave from
    its results. collect: takes
    each result in the jobs' order, as soon as it and those before it are there; what it returns is
    kept in the result's place, so that large results need not be held until the end.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    results: dict[int, Any] = {}
    failed: dict[int, Failure] = {}
    tried: set[int] = set()
    pool.connect()  # a given scheduler says how many workers there are
    size = max(2 * pool.workers, math.ceil(len(jobs) / MOST_WAVES))
    waves = [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]

    with (
        progress(step, sum(map(images_of, jobs))) as advance,
        contextlib.closing(_Stream(pool, function, jobs)) as stream,
    ):
        collected = 0

        def settle(index: int, result: Any) -> None:
            nonlocal collected
            results[index] = result
            advance(images_of(jobs[index]))
            while collect and collected in results:
                if not isinstance(results[collected], Failure):
                    results[collected] = collect(results[collected])
                collected += 1

        def note(index: int, result: Any) -> None:
            if isinstance(result, Failure):
                failed[index] = result
            else:
                settle(index, result)

        for number, wave in enumerate(waves, 1):

            def work(number=number, wave=wave) -> int:
                last_try = number in tried
                tried.add(number)
                if last_try:
                    stream.again([index for index in wave if index not in results])
                while not all(index in results or index in failed for index in wave):
                    ended = stream.next()
                    assert ended is not None  # a job of this wave is still on its way
                    note(*ended)
                mine = {index: failed.pop(index) for index in wave if index in failed}
                if mine and rescue:
                    # Nothing else may be in flight: a search for what kills workers would accuse
                    # its company too.
                    for found in stream.drained():
                        note(*found)
                    mine = {index: rescue(jobs[index], failure) for index, failure in mine.items()}
                waiting = []
                for index, result in mine.items():
                    if isinstance(result, Failure):
                        get_run_logger().error("%s", result.trace or result.reason)
                        if result.may_pass and not last_try:
                            waiting.append(result)
                            continue
                    settle(index, result)
                if waiting:
                    raise ShardsFailed(
                        f"{len(waiting)} of {len(wave)} shards failed: {waiting[0].reason}; only"
                        " these are tried again"
                    )
                done = [results[index] for index in wave if not isinstance(results[index], Failure)]
                if table and done:
                    create_table_artifact(
                        table(done),
                        key=artifact_key(step, "waves"),
                        description=f"wave {number} of {len(waves)}",
                    )
                return len(wave)

            images = sum(images_of(jobs[index]) for index in wave)
            run_wave(step, number, len(waves), f"{images:,} image{'s' * (images != 1)}", work)
    failures = [result for _, result in sorted(results.items()) if isinstance(result, Failure)]
    if failures:
        raise UserError(
            f"{step}: {len(failures)} of {len(jobs)} shards failed and the others are done; "
            f"the first said: {failures[0].reason}; {failures[0].remedy}"
        )
    return [results[index] for index in range(len(jobs))]
