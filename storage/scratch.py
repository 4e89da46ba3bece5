"""Folders on this machine for work in progress, such as training checkpoints: nothing in them is a result.

For a local workspace they lie inside it, so that a run on another day goes on from them; for a remote one in the user's
cache, since checkpoints are written often and large.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.workspace import Workspace


def scratch_folder(ws: "Workspace", name: str) -> Path:
    """The scratch folder of that name, made if absent."""
    folder = _root(ws) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_scratch(ws: "Workspace", name: str) -> None:
    """Removes a scratch folder; one that is already gone is no error."""
    shutil.rmtree(_root(ws) / name, ignore_errors=True)


def _root(ws: "Workspace") -> Path:
    if ws.is_local:
        return Path(ws.location) / ".scratch"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dr-explain" / "scratch" / hashlib.sha256(ws.location.encode()).hexdigest()[:12]
