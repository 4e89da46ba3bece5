"""The one exception whose message is meant for the person at the keyboard, and what that person can
do about others.
"""

from storage.errors import StorageError

AGAIN = "run the same command again"
LESS_AT_ONCE = f"give dask.workers or attribution.batch_size a smaller number and {AGAIN}"
# How libraries of arrays and devices say so; TensorFlow's and JAX's errors are of no common class.
MEMORY_WORDS = (
    "resourceexhausted",
    "resource_exhausted",
    "out of memory",
    "cannot allocate",
    "unable to allocate",
    "bad_alloc",
)


class UserError(Exception):
    """Something a person can put right. The message is one line: what is wrong, and what to do."""


def remedy(error: BaseException) -> str:
    """What to do about an error of a worker.

    >>> remedy(MemoryError()) == remedy(
    ...     RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    ... )
    True
    """
    said = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(words in said for words in MEMORY_WORDS):
        return f"out of memory: {LESS_AT_ONCE}"
    if isinstance(error, (UserError, StorageError, OSError)):
        return f"mend that and {AGAIN}"
    return (
        f"{AGAIN}; if it fails here again it is a fault of the program: the run's log has the stack"
        " trace for a report"
    )
