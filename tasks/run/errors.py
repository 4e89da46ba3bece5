"""The one exception whose message is meant for the person at the keyboard, and what that person can
do about others.
"""

from dr_lib.network.backend import BackendError
from dr_lib.network.memory import is_out_of_memory
from storage.errors import StorageError

AGAIN = "run the same command again"
LESS_AT_ONCE = f"give dask.workers or attribution.batch_size a smaller number and {AGAIN}"
FAULT = (
    "if it fails here again it is a fault of the program: the run's log has the stack trace for a"
    " report"
)


class UserError(Exception):
    """Something a person can put right. The message is one line: what is wrong, and what to do."""


# Whatever a person can put right: the message says what to do already.
MENDABLE = (UserError, StorageError, BackendError)


def remedy(error: BaseException) -> str:
    """What to do about an error of a worker.

    >>> remedy(MemoryError()) == remedy(
    ...     RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    ... )
    True
    """
    if is_out_of_memory(error):
        return f"out of memory: {LESS_AT_ONCE}"
    if isinstance(error, (*MENDABLE, OSError)):
        return f"mend that and {AGAIN}"
    return f"{AGAIN}; {FAULT}"
