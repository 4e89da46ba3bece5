"""How much more a workspace's place can take."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.workspace import Workspace


def free_bytes(ws: "Workspace") -> tuple[str, int | None]:
    """The folder whose disk a workspace fills, and that disk's free bytes; None for an object
    store, which has no such end.

    The workspace need not exist yet: then it is the nearest folder above it that does.
    """
    if not ws.is_local:
        return ws.location, None
    place = Path(ws.location)
    while not place.exists():
        place = place.parent
    return str(place), shutil.disk_usage(place).free
