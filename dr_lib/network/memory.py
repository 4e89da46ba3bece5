"""Memory that the machine can still give, and what running out of a device's memory looks like."""

from pathlib import Path

_MEMORY_WORDS = (
    "resourceexhausted",
    "resource_exhausted",
    "out of memory",
    "cannot allocate",
    "unable to allocate",
    "bad_alloc",
)


def host_free_bytes() -> int:
    """Bytes of memory that the machine can still give, within its container's limit."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_cgroup_free_bytes()])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the framework or a library of arrays gave up for want of memory, so that a smaller
    batch may succeed; their errors are of no common class.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("shapes differ"))
    (True, False)
    """
    said = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(words in said for words in _MEMORY_WORDS)


def halved(batch_size: int, error: Exception) -> int:
    """The size of a batch where this one ran out of memory. Raises any other error, and where one
    row is too much.
    """
    if batch_size == 1 or not is_out_of_memory(error):
        raise error
    return batch_size // 2


def _cgroup_free_bytes(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What a container's own limit leaves, if it has one: the machine's free memory says nothing
    about that.
    """
    try:
        limit, used = (
            (root / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        return [] if limit == "max" else [max(int(limit) - int(used), 0)]
    except (OSError, ValueError):
        return []
