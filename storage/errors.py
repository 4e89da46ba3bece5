"""What the workspace says when it cannot do what was asked: one line, what is wrong and what to
do.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Generator


class StorageError(Exception):
    """A fault of the place or of what was asked of it, not of the code. The message is for a
    person.
    """


class NotThere(StorageError, FileNotFoundError):
    """Something that an earlier step makes has not been made yet, or the data folder is absent."""


class Refused(StorageError, ValueError):
    """What is there, or was asked for, is not what it should be, so it is not used."""


class OtherFormat(StorageError):
    """Written by another version of this program, which this one cannot read."""


class WorkspaceLocked(StorageError):
    """Another process holds the lock; the message names it."""


class CannotWrite(StorageError, OSError):
    """The place takes no more: it is full, or may not be written to."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its type's name if it says nothing.

    >>> one_line(ValueError("too large\\nbecause")), one_line(TimeoutError())
    ('too large', 'TimeoutError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def after_failure() -> Generator[None]:
    """Around what is noted or cleared up after a failure: if that fails too, the first error goes
    on.

    The second is added to the first as a note; it is raised where there is no first error.
    """
    first = sys.exception()
    try:
        yield
    except Exception as second:
        if first is None:
            raise
        first.add_note(f"After that: {type(second).__name__}: {second}")


ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EROFS: "mount it for writing or choose another workspace",
    errno.EACCES: "allow this user to write there or choose another workspace",
    errno.EPERM: "allow this user to write there or choose another workspace",
}


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Generator[None]:
    """Says what to do where the block cannot write `path` for a reason that a person can mend."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in ADVICE:
            raise
        reason = os.strerror(error.errno)
        raise CannotWrite(
            f"{os.fspath(path)} cannot be written: {reason}; {ADVICE[error.errno]}, then run again"
        ) from error
