"""One process a GPU: which one this process has, and waiting for it.

Two guards. A file for each GPU, which the kernel locks for one process and frees when that process
ends, however it ends: it holds between any two runs on this machine. And a concurrency limit
`gpu-<host>` in Prefect while the GPU computes: it shows on Prefect's page who computes. TensorFlow
gives a GPU's memory back only when its process ends, so the process keeps the file until then.
"""

import contextlib
import fcntl
import functools
import os
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from dr_lib.network import backend
from storage.errors import after_failure
from tasks.run.progress import inside_run, say

LOOK_AGAIN_S = 1.0
# A run that was killed leaves its slot taken for five minutes, or for ever where its server died
# with it. The file is freed at once and is the surer guard, so nothing waits long for a slot.
SLOT_WAIT_S = 60.0


@dataclass(frozen=True)
class HeldGpu:
    """A GPU that is this process's own as long as `handle` is open."""

    number: int
    handle: int


@contextlib.contextmanager
def gpu_turn() -> Generator[None]:
    """Computes on a GPU that no other process computes on, or on the CPU where there is none.

    The first call of a process waits for a free GPU and says who has it; call it before the first
    tensor is made.
    """
    count = len(backend.accelerators())
    if not count:
        yield
        return
    backend.use_accelerator(_own_gpu().number)
    with _slot(count):
        yield


@functools.cache
def _own_gpu() -> HeldGpu:
    return take_gpu(backend.accelerators(), lock_folder())


def lock_folder() -> Path:
    """Where the files lie: the same folder for every user of this machine."""
    return Path(tempfile.gettempdir()) / "dr-explain-gpu"


def take_gpu(numbers: Sequence[int], folder: Path, look_again_s: float = LOOK_AGAIN_S) -> HeldGpu:
    """Takes the first GPU that no other process holds; waits for one, saying once who holds them.

    Parameters
    ----------
    numbers: of the GPUs that may be taken, as this process counts them.
    folder: where the lock files lie. look_again_s: seconds between two looks.
    """
    announced = False
    while True:
        holders = []
        for number in numbers:
            handle = _open(folder, f"{device_name(number)}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holders.append(
                    f"GPU {device_name(number)} is used by"
                    f" {os.pread(handle, 200, 0).decode() or 'another process'}"
                )
                os.close(handle)
                continue
            os.ftruncate(handle, 0)
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
            holder = f"process {os.getpid()} ({command}) since {time.strftime('%Y-%m-%d %H:%M')}"
            os.pwrite(handle, holder.encode()[:200], 0)
            return HeldGpu(number, handle)
        if not announced:
            say(
                f"{'; '.join(holders)}: waiting for it to end (Ctrl-C stops;"
                " CUDA_VISIBLE_DEVICES=-1 computes on the CPU)"
            )
            announced = True
        time.sleep(look_again_s)


def device_name(number: int) -> str:
    """What the machine calls a GPU of this process: CUDA_VISIBLE_DEVICES may show each process
    other ones as 0, 1, ….

    >>> device_name(1)
    '1'
    """
    shown = [
        name.strip()
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if name.strip()
    ]
    name = shown[number] if number < len(shown) else str(number)
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in name)


def _open(folder: Path, name: str) -> int:
    """An open file that every user may lock. It stays: removing it would let two processes lock
    two files of one name.
    """
    path = folder / name
    if not folder.exists():
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o777)
    try:
        # Not O_CREAT at once: Linux refuses that for another user's file in a folder that all may
        # write to.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.fchmod(handle, 0o666)
        return handle


@contextlib.contextmanager
def _slot(count: int) -> Generator[None]:
    """A slot of Prefect's limit for this machine's GPUs, inside a run; the limit is made with
    `count` slots if it is absent.
    """
    if not inside_run():
        yield
        return
    limit = f"gpu-{socket.gethostname()}"
    with get_client(sync_client=True) as client:
        limits = client.read_global_concurrency_limits(limit=200)
        if limit not in {known.name for known in limits}:
            client.upsert_global_concurrency_limit_by_name(limit, count)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(concurrency(limit, timeout_seconds=SLOT_WAIT_S))
        except TimeoutError:
            say(
                f"Prefect's limit {limit} has no free slot, but this process holds its GPU's lock:"
                " going on"
            )
        try:
            yield
        finally:
            with after_failure():
                held.close()
