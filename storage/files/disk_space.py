"""How much more a workspace's place can take."""

import shutil
from pathlib import Path

from storage.files.files import Files


def free_bytes(files: Files) -> tuple[str, int | None]:
    """The folder whose disk a workspace fills, and that disk's free bytes; None for an object
    store, which has no such end.

    The workspace need not exist yet: then it is the nearest folder above it that does.
    """
    if not files.is_local:
        return files.location, None
    place = Path(files.location)
    while not place.exists():
        place = place.parent
    return str(place), shutil.disk_usage(place).free
