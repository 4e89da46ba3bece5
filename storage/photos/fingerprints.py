"""What tells, without reading a file, that it is the one that was read before: its size and its
stamp.

A file's stamp is its modification time. An archive's entry is stamped with the CRC-32 that the
archive's directory states: that follows the content, where the entry's time is the packer's and its
place says nothing of it, so an archive may be copied, touched or packed anew. A stamp proves
nothing: whoever puts back size and modification time hides a change.
"""

import os
import time
from collections.abc import Iterable

MODIFIED = "mtime_ns="
CHECKSUM = "crc32="
SECOND_NS = 10**9
# Two writes closer than this may get the same modification time. Linux counts in ticks of up to 10
# ms; where only whole seconds are kept, a time is a multiple of them, and FAT keeps every second
# one.
FINE_TICK_NS = 50_000_000
COARSE_TICK_NS = 2 * SECOND_NS


def file_stamp(status: os.stat_result) -> str:
    """The stamp of a file of its own."""
    return f"{MODIFIED}{status.st_mtime_ns}"


def entry_stamp(crc32: int) -> str:
    """The stamp of an archive's entry.

    >>> entry_stamp(255)
    'crc32=000000ff'
    """
    return f"{CHECKSUM}{crc32:08x}"


def wait_until_settled(stamps: Iterable[str]) -> None:
    """Returns once a further write would give any of these files another stamp: after 50 ms, or 2 s
    by a coarse clock.

    A file that is read in the tick of its last change could be changed again in that tick, and the
    change never be seen: what git calls racily clean. Waiting costs nothing for files older than a
    tick. The file server's clock is taken to be right within two seconds.
    """
    now_ns = time.time_ns()
    modified_ns = (
        int(stamp.removeprefix(MODIFIED)) for stamp in stamps if stamp.startswith(MODIFIED)
    )
    # A time further ahead is a wrong clock's; the next write gets a right one, or at least another.
    settled_ns = max(
        (
            at + (FINE_TICK_NS if at % SECOND_NS else COARSE_TICK_NS)
            for at in modified_ns
            if at < now_ns + COARSE_TICK_NS
        ),
        default=now_ns,
    )
    if settled_ns > now_ns:
        time.sleep((settled_ns - now_ns) / SECOND_NS)
