"""Small files of a workspace, on a local folder or any fsspec URL: every write appears whole or not
at all.

Locally a file is written under a hidden temporary name in the same folder, flushed to the disk and
renamed, and the folder is flushed too: what was written outlives a power loss. Remotely it is one
PUT, which object stores make visible as a whole. Paths are relative to the workspace and use `/`.
"""

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage.errors import writing
from storage.ids import plain

TEMPORARY = ".tmp"
STALE_AFTER_S = 3600
FLUSHES_AT_ONCE = 16


def is_url(location: str) -> bool:
    """Whether `location` names something other than a local folder: `s3://…`, `memory://…`."""
    return "://" in location and not location.startswith("file://")


@dataclass(frozen=True)
class Files:
    """The files below one location: a folder or an fsspec URL. Creates nothing until it writes."""

    location: str

    @property
    def is_local(self) -> bool:
        return not is_url(self.location)

    @property
    def filesystem(self):
        """The fsspec file system of the location (fsspec itself keeps one per process)."""
        import fsspec

        if self.is_local:
            return fsspec.filesystem("file")
        return fsspec.core.url_to_fs(self.location, **self._options)[0]

    @property
    def _options(self) -> dict:
        # Workers write what the flow reads: a listing remembered from before would hide their
        # files.
        options = {"use_listings_cache": False}
        # Our files are small: to fetch one in parts, s3fs would ask for its size first, twice as
        # many requests.
        return (
            options | {"max_concurrency": 1}
            if self.location.startswith(("s3://", "s3a://"))
            else options
        )

    def path(self, name: str = "") -> str:
        """Where `name` lies, as the file system (local or fsspec) wants to be told."""
        root = self.location if self.is_local else self.filesystem._strip_protocol(self.location)
        return f"{root.rstrip('/')}/{name}" if name else root

    def url(self, name: str) -> str:
        """Where `name` lies, as a person or another library writes it."""
        return f"{self.location.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        return self.filesystem.cat_file(self.path(name))

    def read_many(self, names: list[str]) -> list[bytes | None]:
        """The bytes of several files, at once where the file system can; None for one that is
        absent.
        """
        paths = [self.path(name) for name in names]
        found = self.filesystem.cat_ranges(paths, None, None, on_error="return")
        for data in found:
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                raise data
        return [data if isinstance(data, bytes) else None for data in found]

    def write(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """Makes `name` hold `data`; a reader sees the old file or the new one, never a part.

        flush: whether it is on the disk when this returns; of many files all at once by `flush` is
        quicker.
        """
        if self.is_local:
            write_whole(Path(self.path(name)), data, flush=flush)
        else:
            self.filesystem.pipe_file(self.path(name), data)

    def update(self, name: str, data: bytes) -> None:
        """`write`, but a file that holds `data` already is left alone."""
        if self.read_many([name]) != [data]:
            self.write(name, data)

    def flush(self, names: Iterable[str]) -> None:
        """Returns once these files and the folders that lead to them are safe from a power loss.

        To be called before the mark that makes them count. Does nothing for an object store.
        """
        if not self.is_local:
            return
        names = list(names)
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
        # Side by side: the file system waits for the disk once for many of them.
        with writing(self.location), ThreadPoolExecutor(FLUSHES_AT_ONCE) as pool:
            list(pool.map(_flush, map(self.path, names)))
            list(
                pool.map(
                    _flush_folder,
                    (self.path("" if folder == "." else folder) for folder in folders),
                )
            )

    def write_json(self, name: str, value) -> None:
        """`write` of canonical JSON: sorted keys, so that equal values are equal bytes. NaN
        becomes null.
        """
        self.write(name, canonical_json(value))

    def read_json(self, name: str):
        """The value in a JSON file, or None where it is absent or torn: both mean that it was
        never finished.
        """
        try:
            return json.loads(self.read(name))
        except (FileNotFoundError, ValueError):
            return None

    def exists(self, name: str) -> bool:
        return self.filesystem.exists(self.path(name))

    def remove(self, name: str) -> None:
        """Removes a file; one that is already gone is no error."""
        path = self.path(name)
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(path)
            if self.is_local:
                _flush_folder(os.path.dirname(path))

    def remove_tree(self, name: str) -> None:
        """Removes a folder and all that is in it; one that is already gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self.path(name), recursive=True)

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder, hidden ones left out; empty for a folder that is absent."""
        try:
            if self.is_local:
                found = os.listdir(self.path(folder))
            else:
                found = [
                    entry.rstrip("/").rsplit("/", 1)[-1]
                    for entry in self.filesystem.ls(self.path(folder), detail=False)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if name and not name.startswith("."))

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970; 0 for one that is absent."""
        try:
            return self.filesystem.modified(self.path(name)).timestamp()
        except (FileNotFoundError, NotImplementedError):
            return 0.0

    def newest(self, folder: str) -> float:
        """When a file in a folder was last written, in seconds since 1970; 0 for a folder that
        is empty or absent.
        """
        try:
            found = self.filesystem.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return 0.0
        times = [
            entry.get("LastModified") or entry.get("mtime") or entry.get("created")
            for entry in found
        ]
        return max((_seconds(time) for time in times if time), default=0.0)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where it is absent."""
        try:
            return self.filesystem.size(self.path(name))
        except FileNotFoundError:
            return None

    def walk(self, folder: str) -> list[str]:
        """All files below a folder, hidden ones too, as names relative to the workspace, sorted."""
        root = self.path(folder)
        if self.is_local:
            found = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
        else:
            found = self.filesystem.find(root) if self.filesystem.exists(root) else []
        start = len(self.path().rstrip("/")) + 1
        return sorted(path[start:].replace(os.sep, "/") for path in found)

    def stale_temporaries(self) -> list[str]:
        """Temporary files that an interrupted write left behind. Young ones may still be in use."""
        if not self.is_local:
            return []
        limit = time.time() - STALE_AFTER_S
        return [
            name
            for name in self.walk("")
            if name.endswith((TEMPORARY, ".partial")) and self.modified(name) <= limit
        ]

    def zarr(self, name: str, *, read_only: bool):
        """The folder `name` as a Zarr store."""
        from zarr.storage import FsspecStore, LocalStore

        if self.is_local:
            if not read_only:
                make_folder(Path(self.location))
            return LocalStore(self.path(name), read_only=read_only)
        return FsspecStore.from_url(
            self.url(name), read_only=read_only, storage_options=self._options
        )


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


def write_whole(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Makes a local file hold `data`, whole or not at all, with `flush` also after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")
    with writing(path):
        make_folder(path.parent)
        try:
            temporary.write_bytes(data)
            if flush:
                _flush(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if flush:
            _flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a local folder and those above it, where they are absent, safe from a power loss."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in absent:
        _flush_folder(path.parent)


def _flush(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: str | Path) -> None:
    """Writes a folder's names to the disk where its file system can (some network ones cannot)."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def _seconds(time) -> float:
    return time.timestamp() if hasattr(time, "timestamp") else float(time)


def canonical_json(value) -> bytes:
    """`value` as JSON with sorted keys; what reads back as equal is the same bytes, a tuple and
    a list among them. NaN and infinity become null: JSON has neither.
    """
    parsed = json.loads(json.dumps(value, default=plain), parse_constant=lambda _: None)
    return (json.dumps(parsed, indent=1, sort_keys=True) + "\n").encode()
