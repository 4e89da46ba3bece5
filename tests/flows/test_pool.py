"""Work goes on when a job fails and when a worker dies."""

import contextlib
import errno
import functools
import os
import signal
import time

import pytest

from storage.errors import CannotWrite
from tasks.execution.failures import Failure, failure
from tasks.execution.pool import Pool
from tasks.execution.waves import killing_items
from tasks.run.errors import UserError
from tasks.run.settings import DaskParams


def square(number):
    return number * number


def fail_on_three(number):
    if number == 3:
        raise ValueError("three is not for me\nand a second line")
    return number


def die_on(numbers, fatal):
    if set(numbers) & set(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    return len(numbers)


def die_always(numbers):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.fixture(scope="module")
def pool():
    pool = Pool(DaskParams(workers=2))
    yield pool
    pool.close()


def test_results_come_with_their_jobs(pool):
    assert sorted(pool.run(square, range(9))) == [(n, n * n) for n in range(9)]


def test_an_error_is_a_failure_of_one_job_in_one_line(pool):
    results = dict(pool.run(fail_on_three, range(5)))
    assert results[3] == Failure("ValueError: three is not for me")
    assert [results[n] for n in (0, 1, 2, 4)] == [0, 1, 2, 4]


def test_a_worker_that_dies_costs_a_retry(pool, tmp_path):
    assert [result for _, result in pool.run(die_once, [str(tmp_path / "marker")])] == ["done"]


def test_what_kills_workers_is_found_by_halving(pool):
    rows = list(range(7))
    assert set(killing_items(pool, functools.partial(die_on, fatal=[4]), rows)) == {4}


def test_where_workers_die_of_nothing_too_no_row_is_to_blame(pool):
    found = killing_items(pool, die_always, [1, 2])
    assert found == Failure("worker processes die, whatever they work on")
    assert "lack of memory: give dask.workers" in found.remedy


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError("no room"), "give dask.workers or attribution.batch_size a smaller number"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "give dask.workers"),
        (Exception("OOM when allocating tensor: ResourceExhaustedError"), "give dask.workers"),
        (
            OSError(errno.EACCES, "Permission denied", "x"),
            "mend that and run the same command again",
        ),
        (
            CannotWrite("the disk is full; free some space, then run again"),
            "mend that and run the same command again",
        ),
        (KeyError("stage"), "it is a fault of the program: the run's log has the stack trace"),
    ],
)
def test_a_failure_says_what_to_do(error, advice):
    assert advice in failure(error).remedy


def test_jobs_in_flight_are_bounded(pool):
    """The window is two jobs a worker: a generator of jobs is read no further ahead."""
    drawn = []

    def jobs():
        for number in range(20):
            drawn.append(number)
            yield number

    stream = pool.run(square, jobs())
    next(stream)
    time.sleep(0.2)
    assert len(drawn) <= 2 * pool.workers + 1
    list(stream)


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr("tasks.execution.pool.START_S", 0.5)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        Pool(DaskParams(address="tcp://127.0.0.1:9")).connect()


def blas_threads(_):
    from threadpoolctl import threadpool_info

    return {library["num_threads"] for library in threadpool_info()}


def test_a_worker_has_one_thread_and_this_process_keeps_its_own(monkeypatch):
    """Dask would set its workers' OMP_NUM_THREADS=1 here as well, and a network would be trained
    on one core.
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with contextlib.closing(Pool(DaskParams(workers=1))) as another:
        (threads,) = [result for _, result in another.run(blas_threads, [None])]
    assert threads == {1}
    assert "OMP_NUM_THREADS" not in os.environ
