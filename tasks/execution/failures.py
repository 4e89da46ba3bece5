"""What a job that failed leaves behind, and which of its items killed its worker."""

import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dr_lib.network import memory
from storage.errors import StorageError
from tasks.run.errors import AGAIN, LESS_AT_ONCE, remedy


class Workers(Protocol):
    """A pool, or those of its workers that run the network."""

    @property
    def workers(self) -> int: ...
    def connect(self) -> Any: ...
    def run(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Generator[tuple]: ...
    def load(self) -> str: ...


@dataclass(frozen=True)
class Failure:
    """Why a job has no result: `killed` when it took its workers down, otherwise what it raised,
    and where.

    may_pass: whether what it raised is of the kind that a second try may not meet: a connection, a
    time-out, a busy device. out_of_memory: whether it may have the memory when it is alone.
    remedy: what a person can do about it.
    """

    reason: str
    killed: bool = False
    may_pass: bool = field(default=False, compare=False)
    out_of_memory: bool = field(default=False, compare=False)
    trace: str = field(default="", compare=False)
    remedy: str = field(default=f"mend that and {AGAIN}", compare=False)


def failure(error: BaseException) -> Failure:
    """What is told of a job that raised this, or whose workers died (`KilledWorker`)."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        died = f"mostly that is for lack of memory: {LESS_AT_ONCE}"
        return Failure("its worker process died", killed=True, remedy=died)
    trace = "".join(traceback.format_exception(error))
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Failure(
        reason,
        may_pass=_may_pass(error),
        out_of_memory=memory.is_out_of_memory(error),
        trace=trace,
        remedy=remedy(error),
    )


def _may_pass(error: BaseException) -> bool:
    """Faults of the network and of devices; not what a person must mend first, such as a full
    disk or a file that is absent.
    """
    return isinstance(error, OSError) and not isinstance(
        error, (StorageError, FileNotFoundError, PermissionError)
    )


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
