"""What a job that failed leaves behind."""

import traceback
from dataclasses import dataclass, field

from dr_lib.network import memory
from storage.errors import StorageError, one_line
from tasks.run.errors import AGAIN, LESS_AT_ONCE, remedy


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
    return Failure(
        f"{type(error).__name__}: {one_line(error)}",
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
