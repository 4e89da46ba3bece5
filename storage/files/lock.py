"""One run at a time: a lock that names its holder, and that a dead run cannot keep.

On a local folder the kernel holds it (flock): it is free the moment its process ends, however that
ends, and two runs can never both take over a dead one's. On an object store it is a file made with
"create only", and renewed as long as its holder lives. A dead holder's is taken over: at once where
its process can be looked for, that is on its own machine, and on another after a quarter of an hour
without renewal.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Generator
from pathlib import Path

from storage.errors import WorkspaceLocked, after_failure, writing
from storage.files.files import Files, make_folder
from storage.layout import lock_path

RENEWED_EVERY_S = 60.0
LEASE_S = 900.0
SAME_PROCESS_S = 5.0  # the system's reckoning of when a process started moves when its clock is set


def lock(files: Files, name: str) -> contextlib.AbstractContextManager[None]:
    """Holds the lock `name` of a workspace inside the `with` block. Raises WorkspaceLocked where
    another process has it.
    """
    return _local(files, name) if files.is_local else _remote(files, name)


def take(handle: int, holder: bytes) -> bool:
    """Locks an open file for this process until it is closed, and writes into it who `holder` is;
    False where another process has it.
    """
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(handle, 0)
    os.pwrite(handle, holder, 0)
    return True


@contextlib.contextmanager
def _local(files: Files, name: str) -> Generator[None]:
    path = Path(files.path(lock_path(name)))
    with writing(path):
        make_folder(path.parent)
        # The file stays: removing it would let two processes lock two files of one name.
        file = path.open("ab")
    with file:
        with writing(path):
            taken = take(file.fileno(), json.dumps(_myself()).encode())
        if not taken:
            raise WorkspaceLocked(_sentence(files, name))
        yield
        file.truncate(0)


@contextlib.contextmanager
def _remote(files: Files, name: str) -> Generator[None]:
    path, mine = lock_path(name), _myself()
    data = json.dumps(mine).encode()
    try:
        # The store decides whether the file is absent, not a look beforehand.
        files.filesystem.pipe_file(files.path(path), data, mode="create")
    except FileExistsError:
        tag, holder = _tag(files, path), files.read_json(path)
        # Ours: the file was made, but its answer got lost and the client asked again.
        if holder != mine:
            if not _dead(files, path, holder):
                raise WorkspaceLocked(
                    _sentence(files, name) + f" (if that run is dead, remove {files.url(path)})"
                ) from None
            _replace(files, path, data, tag)
    if files.read_json(path) != mine:
        raise WorkspaceLocked(_sentence(files, name))
    lost = threading.Event()
    try:
        with _renewed(files, path, mine, lost):
            yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        message = (
            f"{files.location}: this run lost its lock ({name}), so another may be at work; what is"
            " finished is kept: run again"
        )
        raise WorkspaceLocked(message) from None
    finally:
        with after_failure():
            if files.read_json(path) == mine:
                files.remove(path)


@contextlib.contextmanager
def _renewed(files: Files, path: str, mine: dict, lost: threading.Event) -> Generator[None]:
    """Rewrites the lock's file again and again, which is how other machines see that its holder
    lives.

    A holder that slept too long (a suspended machine, a network that was gone) may find another's
    name in it: then it is interrupted, as by Ctrl-C.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED_EVERY_S):
            try:
                if files.read_json(path) != mine:
                    lost.set()
                    # A run that was started in the background of a shell does not hear SIGINT; `dr`
                    # takes both alike.
                    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                    os.kill(os.getpid(), signal.SIGTERM if deaf else signal.SIGINT)
                    return
                files.write_json(path, mine)
            except OSError:
                continue  # the store is out of reach for now; the next time may be in time

    thread = threading.Thread(target=renew, name=f"lock {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tag(files: Files, path: str) -> str | None:
    """What the store calls this version of a file; None where it has no such names, or no such
    file.
    """
    try:
        return files.filesystem.info(files.path(path)).get("ETag")
    except FileNotFoundError:
        return None


def _replace(files: Files, path: str, data: bytes, tag: str | None) -> None:
    """Puts our name in a dead holder's place; whether another was quicker shows when the file is
    read again.
    """
    if tag is None:
        files.write(path, data)
        time.sleep(0.2)  # another process may be taking over too: the last writer has it
        return
    # S3 writes only where the file is still the dead holder's.
    with contextlib.suppress(OSError):
        files.filesystem.pipe_file(files.path(path), data, IfMatch=tag)


def _myself() -> dict:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "born": _born(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "nonce": os.urandom(8).hex(),
    }


def _machine() -> str:
    """Tells one table of processes from another: names of hosts repeat, and containers of one
    host number theirs anew.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _born(pid: int) -> float | None:
    """When a process started, which tells it from a later one of the same number; None for no
    such process.
    """
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _dead(files: Files, path: str, holder: dict | None) -> bool:
    if not holder:
        return True  # a torn file: its writer never got as far as holding the lock
    if holder.get("machine") == _machine():
        born = _born(holder["pid"])
        return born is None or abs(born - holder["born"]) > SAME_PROCESS_S
    return _age_s(files, path) > LEASE_S


def _age_s(files: Files, path: str) -> float:
    """Seconds since a file was written, both times by the store's own clock: this machine's may
    be wrong.
    """
    probe = lock_path(f"clock-{uuid.uuid4().hex}")
    files.write(probe, b"")
    try:
        return files.modified(probe) - files.modified(path)
    finally:
        files.remove(probe)


def _sentence(files: Files, name: str) -> str:
    who = "another process"
    if holder := files.read_json(lock_path(name)):
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    return f"{files.location} is in use ({name}): {who}; wait for it or stop it, then run again"
