"""Shards in waves: Prefect sees a wave (minutes of work), Dask sees a shard, nobody sees a single image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.errors import UserError
from tasks.pool import Failure, Pool
from tasks.progress import artifact_key, progress

MOST_WAVES = 50  # task runs cost Prefect 0.1–0.25 s each, and a page of them must stay readable
TRIES_AGAIN_S = 10


class ShardsFailed(Exception):
    """Shards of a wave failed for a reason that may pass, such as a lost connection; its second try is the last."""


def _may_pass(task: Any, run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), ShardsFailed)


@task(
    name="wave",
    task_run_name="{stage}: wave {number} of {count}, {images}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=TRIES_AGAIN_S,
    retry_condition_fn=_may_pass,
)
def run_wave(stage: str, number: int, count: int, images: str, work: Callable[[], int]) -> int:
    """Runs one wave's shards; returns how many finished. Its name and state are what Prefect's page shows.

    work: called a second time where it raises ShardsFailed; the run's log has that reason.
    """
    return work()


def run_in_waves(
    pool: Pool,
    stage: str,
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    *,
    images_of: Callable[[tuple], int],
    rescue: Callable[[tuple, Failure], Any] | None = None,
    table: Callable[[list[Any]], list[dict[str, Any]]] | None = None,
) -> list[Any]:
    """Every job's result, in the jobs' order; jobs are argument tuples for `function`, run on the pool's workers.

    A job that fails goes to `rescue(job, failure)` at its wave's end; that may do it another way and return its result.
    What it cannot rescue and may pass (a lost connection, a time-out) is tried once more. What fails then is raised as
    UserError when all others are done, so that one bad shard never costs the rest.
    table: makes the rows that Prefect's page shows of a wave from its results.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    results: dict[int, Any] = {}
    tried: set[int] = set()
    pool.connect()  # a given scheduler says how many workers there are
    size = max(2 * pool.workers, math.ceil(len(jobs) / MOST_WAVES))
    waves = [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]

    with progress(stage, sum(map(images_of, jobs))) as advance:
        for number, wave in enumerate(waves, 1):

            def work(number=number, wave=wave) -> int:
                last_try = number in tried
                tried.add(number)
                to_do = [index for index in wave if index not in results]
                places = {id(jobs[index]): index for index in to_do}
                failed, waiting = [], []

                def settle(job: tuple, result: Any) -> None:
                    if isinstance(result, Failure):
                        get_run_logger().error("%s", result.trace or result.reason)
                        if result.may_pass and not last_try:
                            waiting.append(result)
                            return
                    results[places[id(job)]] = result
                    advance(images_of(job))

                for job, result in pool.run(function, [jobs[index] for index in to_do]):
                    if isinstance(result, Failure) and rescue:
                        failed.append((job, result))
                    else:
                        settle(job, result)
                # Only now, with nothing else in flight: a search for what kills workers would accuse its company too.
                for job, failure in failed:
                    settle(job, rescue(job, failure))
                if waiting:
                    raise ShardsFailed(
                        f"{len(waiting)} of {len(wave)} shards failed: {waiting[0].reason}; only these are tried again"
                    )
                done = [results[index] for index in wave if not isinstance(results[index], Failure)]
                if table and done:
                    create_table_artifact(
                        table(done), key=artifact_key(stage, "waves"), description=f"wave {number} of {len(waves)}"
                    )
                return len(wave)

            images = sum(images_of(jobs[index]) for index in wave)
            run_wave(stage, number, len(waves), f"{images:,} image{'s' * (images != 1)}", work)
    failures = [result.reason for _, result in sorted(results.items()) if isinstance(result, Failure)]
    if failures:
        raise UserError(
            f"{stage}: {len(failures)} of {len(jobs)} shards failed and the others are done; the first said: {failures[0]}; "
            "mend that and run the same command again"
        )
    return [results[index] for index in range(len(jobs))]
