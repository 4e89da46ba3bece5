"""One run at a time: a lock that names its holder, and that a dead run cannot keep.

On a local folder the kernel holds it (flock): it is free the moment its process ends, however that ends, and two runs
can never both take over a dead one's. On an object store it is a file made with "create only"; its holder's pid and host
are in it, and the lock of a dead process of this host is taken over.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from storage.errors import WorkspaceLocked, writing
from storage.files import Files

FOLDER = ".locks"


@contextlib.contextmanager
def lock(files: Files, name: str) -> Iterator[None]:
    """Holds the lock `name` of a workspace inside the `with` block. Raises WorkspaceLocked where another process has it."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{name!r} is no name for a lock")
    with _local(files, name) if files.is_local else _remote(files, name):
        yield


@contextlib.contextmanager
def _local(files: Files, name: str) -> Iterator[None]:
    import fcntl

    path = Path(files.path(f"{FOLDER}/{name}.lock"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would let two processes lock two files of one name.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceLocked(_sentence(files, name, _parse(os.pread(handle, 4096, 0)))) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_myself()).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _remote(files: Files, name: str) -> Iterator[None]:
    path, mine = f"{FOLDER}/{name}.lock", _myself()
    data = json.dumps(mine).encode()
    if not _create(files, path, data):
        holder = files.read_json(path)
        if not _dead(holder):
            raise WorkspaceLocked(_sentence(files, name, holder) + f" (if that run is dead, remove {files.url(path)})")
        files.write(path, data)
        time.sleep(0.2)  # another process may be taking over too: the last writer has it
    if files.read_json(path) != mine:
        raise WorkspaceLocked(_sentence(files, name, files.read_json(path)))
    try:
        yield
    finally:
        if files.read_json(path) == mine:
            files.remove(path)


def _create(files: Files, path: str, data: bytes) -> bool:
    """Makes the file if it is absent; the store decides, not a look beforehand."""
    try:
        files.filesystem.pipe_file(files.path(path), data, mode="create")
    except FileExistsError:
        return False
    return True


def _myself() -> dict:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "born": _born(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "nonce": os.urandom(8).hex(),
    }


def _born(pid: int) -> float | None:
    """When a process started, which tells it from a later one of the same number; None for no such process."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _dead(holder: dict | None) -> bool:
    if not holder:
        return True  # a torn file: its writer never got as far as holding the lock
    return holder["host"] == socket.gethostname() and _born(holder["pid"]) != holder["born"]


def _parse(data: bytes) -> dict | None:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _sentence(files: Files, name: str, holder: dict | None) -> str:
    who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
    return f"{files.location} is in use ({name}): {who}; wait for it or stop it, then run again"
