"""Photographs straight out of a zip file, also one that was split into parts (`train.zip.001`,
`.002`, …) as Kaggle's are.
"""

import functools
import io
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from storage.photos.fingerprints import entry_stamp

ARCHIVE = re.compile(r"((?<!\.csv)\.zip|\.zip\.0*1)$", re.IGNORECASE)
FIRST_PART = re.compile(r"\.zip\.0*1$", re.IGNORECASE)
LATER_PART = re.compile(r"\.zip\.\d+$", re.IGNORECASE)
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
# Lesion masks carry the photographs' names; the others are what file managers, zip programs and
# file servers leave behind.
IGNORED = {"mask", "masks", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
OPENING = threading.Lock()  # a second thread waits for the directory instead of reading it too
# What `zipfile` raises for archives that were cut, damaged, encrypted, or made to mislead.
# NotImplementedError is a RuntimeError: a compression that this Python has not got.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def is_archive(name: str) -> bool:
    """Whether a file name is that of a zip file or of the first part of a split one.

    >>> [
    ...     is_archive(name)
    ...     for name in ("test.ZIP", "train.zip.001", "train.zip.002", "trainLabels.csv.zip")
    ... ]
    [True, True, False, False]
    """
    return ARCHIVE.search(name) is not None


def archive_stem(name: str) -> str:
    """`train` of `train.zip` and of `train.zip.001`, in lower case."""
    return re.sub(r"\.zip(\.\d+)?$", "", name.lower())


class Parts(io.RawIOBase):
    """Several files read as one, in order. Seekable, read-only."""

    def __init__(self, paths: list[Path]):
        self._paths = paths
        self._sizes = [path.stat().st_size for path in paths]
        self._files = [path.open("rb") for path in paths]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: sum(self._sizes)}[whence]
        if start + offset < 0:
            raise ValueError("seek before the first part")
        self._at = start + offset
        return self._at

    def readinto(self, buffer) -> int:
        """Reads up to the end of a part; whoever wants more asks again."""
        start = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if start <= self._at < start + size:
                file.seek(self._at - start)
                got = file.readinto(buffer)
                self._at += got
                return got
            start += size
        return 0

    def close(self) -> None:
        for file in getattr(self, "_files", ()):
            file.close()
        super().close()


def part_paths(first: Path) -> list[Path]:
    """The parts of a split zip from its first one. Raises FileNotFoundError naming a part that
    is missing.
    """
    digits = len(first.suffix) - 1
    found = []
    while (path := first.with_suffix(f".{len(found) + 1:0{digits}}")).exists():
        found.append(path)
    later = [
        p.name for p in first.parent.iterdir() if p.stem == first.stem and LATER_PART.search(p.name)
    ]
    if len(later) > len(found):
        raise FileNotFoundError(
            f"{first.parent / path.name} is missing between the parts of {first.stem}"
        )
    return found


class FileEntry(NamedTuple):
    """A file of a folder or archive: its path, its size unpacked, its stamp and, where it must not
    or cannot be read, a short reason and what is wrong.
    """

    path: str
    bytes: int = 0
    stamp: str = ""
    fault: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Archive:
    """The entries of one zip file, safe to read from several threads.

    The archive's directory is read once a process, however many objects name the archive: Kaggle's
    train.zip lists 35,126 files, and a worker opens it for every shard.
    """

    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> list[FileEntry]:
        """Every file in the archive. Raises OSError where it is no whole zip file."""
        return [
            FileEntry(name, info.file_size, entry_stamp(info.CRC), _fault(info))
            for name, info in self._open().entries.items()
        ]

    def read(self, name: str, size: int = -1) -> bytes:
        """The bytes of one entry, or the first `size`. Raises FileNotFoundError, or OSError for
        one that is damaged.
        """
        try:
            zipped = self._open()
            info = zipped.entries[name]
            if fault := _fault(info):
                raise OSError(f"{self.path.name}/{name}: {fault[1]}")
            with zipped.counting:
                entry = zipped.open(info)
            # Outside the lock: zipfile guards the reading position itself, so threads unpack side
            # by side.
            data = entry.read(size)
            with zipped.counting:
                entry.close()
            return data
        except KeyError:
            raise FileNotFoundError(f"{self.path.name} has no {name}") from None
        except DAMAGED as error:
            raise OSError(f"{self.path.name}/{name} is damaged: {error}") from None

    @functools.cached_property
    def _parts(self) -> tuple[tuple[Path, ...], tuple[tuple[int, ...], ...]]:
        """The files that the archive consists of, and what changes with each."""
        paths = part_paths(self.path) if FIRST_PART.search(self.path.name) else [self.path]
        states = [path.stat() for path in paths]
        return tuple(paths), tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in states)

    def _open(self) -> "_Zip":
        """The zip file; opened again after a fork, because parent and child would share one
        reading position.
        """
        with OPENING:
            return _opened(*self._parts, os.getpid())


class _Zip(zipfile.ZipFile):
    """A zip file whose `entries`, those that are the user's own, go by names as a person writes
    them: `/` between folders, as Windows may not have packed them. `counting` is held while an
    entry is opened or closed: they count their readers, and counting is not safe.
    """

    def __init__(self, file):
        super().__init__(file)
        self.counting = threading.Lock()
        self.entries = {
            name: info
            for info in self.infolist()
            if not (name := _plain_name(info).removeprefix("./")).endswith("/")
            and not any(map(ignored, name.split("/")))
        }


def _plain_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")


@functools.lru_cache(maxsize=4)
def _opened(paths: tuple[Path, ...], version: tuple, pid: int) -> _Zip:
    """An open zip file with its directory read. One that was replaced has another `version`, a
    forked process another `pid`.
    """
    file = str(paths[0]) if len(paths) == 1 else io.BufferedReader(Parts(list(paths)), 2**16)
    try:
        return _Zip(file)
    except DAMAGED as error:
        if not isinstance(file, str):
            file.close()
        first = paths[0]
        missing = (
            f"; {len(paths)} parts are there: is the last one missing?"
            if FIRST_PART.search(first.name)
            else ""
        )
        raise OSError(f"{first} is not a whole zip file: {error}{missing}") from None


def unzipped(data: bytes, name: str, max_bytes: int) -> bytes:
    """The file of that name in a zip file's bytes, or its only one with the same suffix. Raises
    OSError where there is none.
    """
    suffix = name[name.rindex(".") :].lower()
    try:
        with _Zip(io.BytesIO(data)) as zipped:
            inner = [path for path in zipped.entries if path.lower().endswith(suffix)]
            named = [path for path in inner if path.rpartition("/")[2].lower() == name.lower()]
            chosen = named or inner
            if not chosen:
                raise OSError(f"no {suffix} inside")
            if len(chosen) > 1:
                raise OSError(
                    f"{len(chosen)} {suffix} files inside, and none is the only {name}:"
                    f" {', '.join(chosen)[:80]}"
                )
            info = zipped.entries[chosen[0]]
            if fault := _fault(info):
                raise OSError(f"{chosen[0]}: {fault[1]}")
            if info.file_size > max_bytes:
                raise OSError(f"{chosen[0]} would unpack to {info.file_size:,} bytes")
            return zipped.read(info)
    except DAMAGED as error:
        raise OSError(f"not a whole zip file: {error}") from None


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's own data: lesion masks, and what
    programs leave behind.

    >>> [ignored(name) for name in ("__MACOSX", "._10_left.jpeg", "masks.zip", "10_left.jpeg")]
    [True, True, True, False]
    """
    return (name.startswith(".") and name != "..") or archive_stem(name) in IGNORED


def _fault(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    name = _plain_name(info)
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        return "outside_folder", "its name leads outside the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "outside_folder", "it is a link"
    if info.flag_bits & 1:
        return "bad_entry", "it is encrypted: unpack the archive here"
    if info.compress_type not in COMPRESSIONS:
        method = f"its compression (method {info.compress_type})"
        return "bad_entry", f"{method} cannot be read here: unpack the archive"
    return None
