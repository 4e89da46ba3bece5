"""The one exception whose message is meant for the person at the keyboard, and what that person can
do about others.
"""

from dr_lib.network.memory import is_out_of_memory
from storage.errors import StorageError

AGAIN = "run the same command again"
LESS_AT_ONCE = f"give dask.workers or attribution.batch_size a smaller number and {AGAIN}"


class UserError(Exception):
    """Something a person can put right. The message is one line: what is wrong, and what to do."""


def remedy(error: BaseException) -> str:
    """What to do about an error of a worker.

    >>> remedy(MemoryError()) == remedy(
    ...     RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    ... )
    True
    """
    if is_out_of_memory(error):
        return f"out of memory: {LESS_AT_ONCE}"
    if isinstance(error, (UserError, StorageError, OSError)):
        return f"mend that and {AGAIN}"
    return (
        f"{AGAIN}; if it fails here again it is a fault of the program: the run's log has the stack"
        " trace for a report"
    )
