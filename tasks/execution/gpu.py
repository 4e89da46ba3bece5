"""The GPUs of this machine: which there are, and which of them are this run's.

A file stands for each GPU. The kernel locks it for one process and frees it when that process ends,
however it ends. A run's own process holds the locks and computes on no GPU itself: its Dask workers
do, one on each.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.files.lock import take
from tasks.run.progress import say

LOOK_AGAIN_S = 1.0
# What a person chose, before this process hides GPUs from itself.
CHOSEN = os.environ.get("CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. uuid: what CUDA_VISIBLE_DEVICES calls it. model: NVIDIA H100 or so."""

    uuid: str
    model: str


def gpus_here(chosen: str | None = CHOSEN) -> list[Gpu]:
    """The GPUs that the driver knows, of which CUDA_VISIBLE_DEVICES (`chosen`) may leave some, by
    their numbers or names.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no driver, or one that does not answer
        return []
    known = {}
    for line in filter(str.strip, answer.stdout.splitlines()):
        number, uuid, model = (part.strip() for part in line.split(",", 2))
        known[number] = known[uuid] = Gpu(uuid, model)
    if chosen is None:
        return list(dict.fromkeys(known.values()))
    names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    # A part of a GPU (MIG) is not in the list; it is taken by its name.
    return list(dict.fromkeys(known.get(name) or Gpu(name, "GPU") for name in names))


def lock_folder() -> Path:
    """Where the files lie: the same folder for every user of this machine."""
    return Path(tempfile.gettempdir()) / "dr-explain-gpu"


def take_gpus(
    gpus: Sequence[Gpu],
    least: int,
    most: int,
    folder: Path,
) -> dict[Gpu, int]:
    """Takes up to `most` of the GPUs, those that no other process holds; waits until there are
    `least`, saying once who holds them.

    Parameters
    ----------
    gpus: those that may be taken. folder: where the lock files lie.

    Returns
    -------
    Each GPU and the open file by which this process holds it, until it is closed.
    """
    announced = False
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
    while True:
        mine = f"process {os.getpid()} ({command}) since {time.strftime('%Y-%m-%d %H:%M')}"
        taken, holders = {}, []
        for gpu in gpus:
            if len(taken) == most:
                break
            handle = _open(folder, f"{gpu.uuid.replace('/', '-')}.lock")
            if take(handle, mine.encode()[:200]):
                taken[gpu] = handle
                continue
            holder = os.pread(handle, 200, 0).decode() or "another process"
            holders.append(f"{gpu.model} {gpu.uuid} is used by {holder}")
            os.close(handle)
        if len(taken) >= least:
            return taken
        # None is kept while waiting: two runs that each had half of what they need would wait for
        # ever.
        for handle in taken.values():
            os.close(handle)
        if not announced:
            say(
                f"{'; '.join(holders)}: waiting for it to end (Ctrl-C stops; dask.gpus = 0 computes"
                " on the CPU)"
            )
            announced = True
        time.sleep(LOOK_AGAIN_S)


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
