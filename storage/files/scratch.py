"""Folders on this machine for work in progress, such as training checkpoints: nothing in them is a
result.

For a local workspace they lie inside it, so that a run on another day goes on from them; for a
remote one in the user's cache, since checkpoints are written often and large.
"""

import contextlib
import os
import shutil
from pathlib import Path

from storage.files.files import Files, make_folder
from storage.ids import ID_DIGITS, digest_bytes
from storage.layout import SCRATCH


def scratch_folder(files: Files, name: str) -> Path:
    """The scratch folder of that name, made if absent."""
    folder = _root(files) / name
    make_folder(folder)
    return folder


def remove_scratch(files: Files, name: str) -> None:
    """Removes a scratch folder; one that is already gone is no error."""
    shutil.rmtree(_root(files) / name, ignore_errors=True)


def scratch_folders(files: Files) -> list[Path]:
    """Every scratch folder there is."""
    return sorted(_root(files).glob("*/"))


def remember(name: str, value: dict) -> None:
    """Keeps a small JSON value in the user's cache, outside every workspace. What cannot be kept
    there is no error.
    """
    with contextlib.suppress(OSError):
        Files(str(cache_folder())).write_json(f"remembered/{name}.json", value)


def recall(name: str) -> dict | None:
    """What `remember` kept under a name, or None."""
    with contextlib.suppress(OSError):
        return Files(str(cache_folder())).read_json(f"remembered/{name}.json")


def _root(files: Files) -> Path:
    if files.is_local:
        return Path(files.location) / SCRATCH
    return cache_folder() / "scratch" / digest_bytes(files.location.encode())[:ID_DIGITS]


def cache_folder() -> Path:
    """This program's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dr-explain"
