"""Photographs straight out of a zip file, also one that was split into parts (`train.zip.001`, `.002`, …) as Kaggle's are."""

import io
import os
import re
import stat
import threading
import zipfile
import zlib
from pathlib import Path

FIRST_PART = re.compile(r"\.zip\.0*1$", re.IGNORECASE)
LATER_PART = re.compile(r"\.zip\.\d+$", re.IGNORECASE)
# A photograph is a few megabytes; an entry that claims more would fill the memory before anyone could look at it.
MAX_ENTRY_BYTES = 512 * 2**20
LEADS_OUTSIDE = "its name leads outside the archive"
IS_LINK = "it is a link"


def is_archive(name: str) -> bool:
    """Whether a file name is that of a zip file or of the first part of a split one.

    >>> [is_archive(name) for name in ("test.ZIP", "train.zip.001", "train.zip.002", "trainLabels.csv.zip")]
    [True, True, False, False]
    """
    lower = name.lower()
    return (lower.endswith(".zip") and not lower.endswith(".csv.zip")) or FIRST_PART.search(lower) is not None


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

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        view, start, done = memoryview(buffer).cast("B"), 0, 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if start <= self._at < start + size and done < len(view):
                file.seek(self._at - start)
                got = file.readinto(view[done:])
                self._at, done = self._at + got, done + got
            start += size
        return done

    def close(self) -> None:
        for file in getattr(self, "_files", ()):
            file.close()
        super().close()


def part_paths(first: Path) -> list[Path]:
    """The parts of a split zip from its first one. Raises FileNotFoundError naming a part that is missing."""
    digits = len(first.suffix) - 1
    found = []
    while (path := first.with_suffix(f".{len(found) + 1:0{digits}}")).exists():
        found.append(path)
    later = [p.name for p in first.parent.iterdir() if p.stem == first.stem and LATER_PART.search(p.name)]
    if len(later) > len(found):
        raise FileNotFoundError(f"{first.parent / path.name} is missing between the parts of {first.stem}")
    return found


class Archive:
    """The entries of one zip file, safe to read from several threads."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._pid = -1

    def entries(self) -> list[tuple[str, int, str | None]]:
        """Name, size and — where it must not be read — what is wrong, for every file in the archive."""
        with self._lock:
            infos = self._open().infolist()
        return [(info.filename, info.file_size, _fault(info)) for info in infos if not info.is_dir()]

    def read(self, name: str) -> bytes:
        """The bytes of one entry. Raises FileNotFoundError, or OSError for one that is damaged."""
        try:
            with self._lock:
                zipped = self._open()
                info = zipped.getinfo(name)
                if fault := _fault(info):
                    raise OSError(f"{self.path.name}/{name}: {fault}")
                return zipped.read(info)
        except KeyError:
            raise FileNotFoundError(f"{self.path.name} has no {name}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise OSError(f"{self.path.name}/{name} is damaged: {error}") from None

    def _open(self) -> zipfile.ZipFile:
        """The zip file; opened again after a fork, because parent and child would share one reading position."""
        if self._pid != os.getpid():
            file = str(self.path)
            if FIRST_PART.search(self.path.name):
                file = io.BufferedReader(Parts(part_paths(self.path)), 2**20)
            try:
                self._zip, self._pid = zipfile.ZipFile(file), os.getpid()
            except (zipfile.BadZipFile, EOFError) as error:
                if not isinstance(file, str):
                    file.close()
                raise OSError(f"{self.path} is not a whole zip file: {error}") from None
        return self._zip

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"])


def _fault(info: zipfile.ZipInfo) -> str | None:
    name = info.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        return LEADS_OUTSIDE
    if stat.S_ISLNK(info.external_attr >> 16):
        return IS_LINK
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.file_size > MAX_ENTRY_BYTES:
        return f"it claims {info.file_size} bytes"
    return None
