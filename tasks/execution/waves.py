"""Shards in waves: Prefect sees a wave (minutes of work), Dask sees a shard, nobody sees a single
image.

A wave ends when its own shards have; by then the next one's are running. What failed is tried once
more after the last wave, when nothing else runs: a search for an image that kills workers would
otherwise accuse its company too.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from dr_lib.formatting import counted
from tasks.execution.failures import Failure
from tasks.execution.network import Workers
from tasks.execution.worker import afresh
from tasks.run.errors import UserError
from tasks.run.progress import artifact_key, progress

MOST_WAVES = 50  # task runs cost Prefect 0.1–0.25 s each, and a page of them must stay readable
TRY_AGAIN_AFTER_S = 10


@dataclass(frozen=True)
class Rescue:
    """How a shard that kills its workers is done without the images that do so.

    items: a job's images that have work to do. trial: the work on some of them, which writes
    nothing (`killing_items`). without: the job that sets these images aside, each with its reason.
    """

    items: Callable[[Any], list]
    trial: Callable[[list], Any]
    without: Callable[[Any, dict[Any, str]], Any]


@task(name="wave", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_wave(name: str, work: Callable[[], None]) -> None:
    """Some of a step's work, under the name that Prefect's page shows."""
    work()


def run_in_waves(
    pool: Workers,
    step: str,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    *,
    images_of: Callable[[Any], int],
    rescue: Rescue | None = None,
    table: Callable[[list[Any]], list[dict[str, Any]]] | None = None,
    collect: Callable[[Any], Any] | None = None,
) -> list[Any]:
    """Runs `function(job)` on the pool's workers for each job.

    Parameters
    ----------
    pool: the workers; `Pool.network` for what runs the network.
    images_of: how many images a job has to do.
    rescue: what is done about a job that kills its workers.
    table: makes the rows that Prefect's page shows of a wave from its results.
    collect: takes each result in the jobs' order, as soon as those before it are there; what it
        returns is kept in the result's place, so that large results need not be held until the end.

    Returns
    -------
    Every job's result, in the jobs' order.

    Raises
    ------
    UserError: if a job failed for good; when all others are done, so that one bad shard never
        costs the rest. What may pass (a lost connection, a time-out), and what ran out of memory
        beside others, has been tried twice then.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    numbers = {id(job): number for number, job in enumerate(jobs)}
    results: dict[int, Any] = {}
    pool.connect()  # a given scheduler says how many workers there are
    size = max(2 * pool.workers, math.ceil(len(jobs) / MOST_WAVES))
    waves = [range(start, min(start + size, len(jobs))) for start in range(0, len(jobs), size)]

    def images(wave: Sequence[int]) -> str:
        return counted(sum(images_of(jobs[index]) for index in wave), "image")

    with (
        progress(step, sum(map(images_of, jobs))) as advance,
        contextlib.closing(pool.run(function, jobs)) as stream,
    ):
        collected = 0

        def note(index: int, result: Any) -> None:
            nonlocal collected
            results[index] = result
            while collect and collected in results:
                if isinstance(results[collected], Failure):
                    break
                results[collected] = collect(results[collected])
                collected += 1

        def work(number: int, wave: Sequence[int]) -> None:
            while not all(index in results for index in wave):
                job, result = next(stream)
                note(numbers[id(job)], result)
                if isinstance(result, Failure):
                    get_run_logger().warning("a shard failed: %s", result.reason)
                else:
                    advance(images_of(job), pool.load())
            done = [results[index] for index in wave if not isinstance(results[index], Failure)]
            if table and done:
                create_table_artifact(
                    table(done),
                    key=artifact_key(step, "waves"),
                    description=f"wave {number} of {len(waves)}",
                )

        def try_again() -> None:
            passing = [jobs[index] for index in failed if results[index].may_pass]
            if passing:
                time.sleep(TRY_AGAIN_AFTER_S)
                for job, result in pool.run(function, passing):
                    results[numbers[id(job)]] = result
            for index in failed:
                result = results[index]
                if isinstance(result, Failure) and result.out_of_memory:
                    result = run_singly(pool, functools.partial(afresh, function), jobs[index])
                if isinstance(result, Failure) and result.killed and rescue:
                    result = killing_items(pool, rescue.trial, rescue.items(jobs[index]))
                    if not isinstance(result, Failure):
                        others = rescue.without(jobs[index], result)
                        result = run_singly(pool, function, others)
                if isinstance(result, Failure):
                    get_run_logger().error("%s", result.trace or result.reason)
                note(index, result)
                advance(images_of(jobs[index]))

        for number, wave in enumerate(waves, 1):
            name = f"{step}: wave {number} of {len(waves)}, {images(wave)}"
            run_wave(name, lambda number=number, wave=wave: work(number, wave))
        failed = [index for index in range(len(jobs)) if isinstance(results[index], Failure)]
        if failed:
            run_wave(f"{step}: what failed once more, {images(failed)}", try_again)
    done = [results[index] for index in range(len(jobs))]
    failures = [result for result in done if isinstance(result, Failure)]
    if failures:
        raise UserError(
            f"{step}: {len(failures)} of {len(jobs)} shards failed and the others are done; "
            f"the first said: {failures[0].reason}; {failures[0].remedy}"
        )
    return done


def killing_items(
    pool: Workers, trial: Callable[[list], Any], items: list
) -> dict[Any, str] | Failure:
    """Which items kill a worker, found by halving.

    To be called with nothing else in flight: Dask blames a worker's death on every job that waited
    there, and an innocent item in such company would be set aside too. For the same reason one half
    is tried at a time.

    Parameters
    ----------
    trial: does the work on some items and writes nothing.

    Returns
    -------
    The killing items, each with the reason. A Failure where workers die of `trial([])` already,
    which works on nothing of the data set: then no item is to blame.
    """
    control = run_singly(pool, trial, [])
    if isinstance(control, Failure) and control.killed:
        return Failure("worker processes die, whatever they work on", remedy=control.remedy)
    killing: dict[Any, str] = {}
    groups = [items] if items else []
    while groups:
        group = groups.pop()
        result = run_singly(pool, trial, group)
        if isinstance(result, Failure) and result.killed:
            if len(group) == 1:
                killing[group[0]] = result.reason
            else:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
    return killing


def run_singly(pool: Workers, function: Callable[[Any], Any], job: Any) -> Any:
    """The result (or Failure) of one job."""
    ((_, result),) = pool.run(function, [job])
    return result
