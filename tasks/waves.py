"""Shards in waves: Prefect sees a wave (minutes of work), Dask sees a shard, nobody sees a single image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.errors import UserError
from tasks.pool import Failure, Pool
from tasks.progress import progress

MOST_WAVES = 50  # task runs cost Prefect 0.1–0.25 s each, and a page of them must stay readable


@task(name="wave", task_run_name="{stage}: wave {number} of {count}", cache_policy=NO_CACHE, persist_result=False)
def run_wave(stage: str, number: int, count: int, work: Callable[[], int]) -> int:
    """Runs one wave's shards; returns how many finished. Its name and state are what Prefect's page shows."""
    return work()


def run_in_waves(
    pool: Pool,
    stage: str,
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    *,
    images_of: Callable[[tuple], int],
    rescue: Callable[[tuple, Failure], Any] | None = None,
) -> list[Any]:
    """Every job's result, in the jobs' order; jobs are argument tuples for `function`, run on the pool's workers.

    A job that fails goes to `rescue(job, failure)`, which may do it another way and return its result. What it cannot
    rescue is raised as UserError when all others are done, so that one bad shard never costs the rest.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    results: dict[int, Any] = {}
    failures: list[str] = []
    pool.connect()  # a given scheduler says how many workers there are
    size = max(2 * pool.workers, math.ceil(len(jobs) / MOST_WAVES))
    waves = [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]

    with progress(stage, sum(map(images_of, jobs))) as advance:
        for number, wave in enumerate(waves, 1):

            def work(wave=wave) -> int:
                places = {id(jobs[index]): index for index in wave}
                for job, result in pool.run(function, [jobs[index] for index in wave]):
                    if isinstance(result, Failure) and rescue:
                        result = rescue(job, result)
                    if isinstance(result, Failure):
                        failures.append(result.reason)
                        get_run_logger().error("%s", result.trace or result.reason)
                    results[places[id(job)]] = result
                    advance(images_of(job))
                return len(wave)

            run_wave(stage, number, len(waves), work)
    if failures:
        raise UserError(
            f"{stage}: {len(failures)} of {len(jobs)} shards failed and the others are done; the first said: {failures[0]}; "
            "mend that and run the same command again"
        )
    return [results[index] for index in range(len(jobs))]
