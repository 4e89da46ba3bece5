"""Which files a data folder or zip holds, also those inside its archives, and their bytes.

Says of each what keeps it from being read; knows nothing of labels. A link is followed only inside
the folder and into the stores of git-annex, DVC and Hugging Face.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.errors import Refused
from storage.photos.archive import (
    Archive,
    FileEntry,
    archive_stem,
    ignored,
    is_archive,
    unzipped,
)
from storage.photos.fingerprints import file_stamp
from storage.photos.layouts import EYEPACS
from storage.photos.names import PHOTO_SUFFIXES, match_key, without_suffix
from storage.photos.types import MAX_PHOTO_BYTES

MAX_DEPTH = 6  # a patient's folder in a year's, or train/train/ as some unpackers leave it
WAY_OUT = (
    "put the files themselves here (cp -rL follows links), or set data.photos to a folder that"
    " holds both"
)
FETCH_IT = "fetch it (git annex get, dvc pull) or copy it again"
START_BYTES = 1024  # of two photographs hardly ever the same
MAX_LABEL_BYTES = 64 * 2**20  # Kaggle's 53,576 labels are under one megabyte


class Listing:
    """The files of a folder or zip file."""

    def __init__(self, root: Path):
        self.root = root
        self._archives: dict[str, Archive] = {}
        # Where git-annex, DVC and Hugging Face keep the files that a checkout's links lead to.
        folders = (self.root, *self.root.parents)
        self._stores = [folder / name for folder in folders for name in (".git", ".dvc")]
        self._stores += [
            folder.parent / "blobs" for folder in folders if folder.name == "snapshots"
        ]

    def entries(self) -> Iterator[FileEntry]:
        if self.root.is_file():
            yield from self._archive_entries("")
            return
        every = list(self._folder_entries(""))
        # An archive may be a link: nothing is read but what its own directory lists.
        packed = [
            entry
            for entry in every
            if is_archive(entry.name) and (self.root / entry.path).is_file()
        ]
        plain = [entry for entry in every if entry not in packed]
        unpacked = _unpacked(plain) if packed else {}
        cut = set()
        for archive in sorted(packed):
            folder = _unpacked_folder(archive.path)
            for entry in self._archive_entries(archive.path):
                twin = unpacked.get((folder, _twin_name(entry)))
                # Of what was unpacked the folder's file counts, unless the unpacking ended in the
                # middle of it.
                if twin is None or twin.fault:
                    yield entry
                elif self._cut_short(twin, entry):
                    cut.add(twin.path)
                    yield entry
        yield from (entry for entry in plain if entry.path not in cut)

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside.
        """
        archive, inner = self._locate(path)
        if archive is not None:
            return archive.read(inner)
        return self._inside(path).read_bytes()

    def table(self, entry: FileEntry) -> bytes:
        """The bytes of a table, unpacked. Raises OSError where there is none."""
        if entry.fault:
            raise OSError(entry.fault[1])
        if entry.bytes > MAX_LABEL_BYTES:
            raise OSError(f"{entry.bytes:,} bytes are no list of labels")
        return unpacked_table(entry.name, self.read(entry.path))

    def _inside(self, path: str) -> Path:
        """Where a file lies, links followed. Raises ValueError for a path that leads outside."""
        found = (self.root / path).resolve()
        if ".." in path.split("/") or not self._holds(found):
            raise Refused(f"{path} leads outside {self.root}")
        return found

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in (self.root, *self._stores))

    def _cut_short(self, twin: FileEntry, entry: FileEntry) -> bool:
        """Whether a file is the beginning, but not the whole, of an archive's entry."""
        if entry.fault or not twin.bytes < entry.bytes <= MAX_PHOTO_BYTES:
            return False
        archive, inner = self._locate(entry.path)
        try:
            for size in (START_BYTES, twin.bytes):
                with self._inside(twin.path).open("rb") as file:
                    start = file.read(size)
                if archive is None or archive.read(inner, len(start)) != start:
                    return False
        except OSError:
            return False
        return True

    def _folder_entries(self, prefix: str) -> Iterator[FileEntry]:
        """What lies in a folder, whose path goes before every name, and in those below it."""
        try:
            listed = sorted(os.scandir(self.root / prefix), key=lambda entry: entry.name)
        except OSError as error:
            yield FileEntry(
                prefix.rstrip("/"),
                fault=("unreadable", f"the folder cannot be listed: {error.strerror}"),
            )
            return
        for entry in listed:
            path = prefix + entry.name
            if ignored(entry.name):
                continue
            if (shown := os.fsencode(path).decode(errors="backslashreplace")) != path:
                yield FileEntry(shown, fault=("wrong_name", "its name is not in UTF-8: rename it"))
                continue
            if entry.is_symlink() and (fault := self._link_fault(Path(entry.path))):
                yield FileEntry(path, fault=fault)
            elif entry.is_dir():
                if path.count("/") < MAX_DEPTH:
                    yield from self._folder_entries(path + "/")
                if entry.name.lower().endswith(PHOTO_SUFFIXES):
                    yield FileEntry(path, fault=("not_a_file", "a folder with a photograph's name"))
            elif not entry.is_file():
                yield FileEntry(path, fault=("not_a_file", "a device, pipe or socket"))
            else:
                yield _file_entry(entry, path)

    def _link_fault(self, path: Path) -> tuple[str, str] | None:
        target = path.resolve()
        if not self._holds(target):
            return (
                "outside_folder",
                f"a link that leads outside the data folder, to {target}: {WAY_OUT}",
            )
        if not target.exists():
            return "broken_link", f"a link to {target.name}, which is not there: {FETCH_IT}"
        # A link to a folder above would have the walk go round in circles.
        return ("outside_folder", "a link to a folder") if target.is_dir() else None

    def _archive_entries(self, archive: str) -> Iterator[FileEntry]:
        """The files in the archive at a path; in the root itself where that is empty, and then
        what keeps it from being read is raised as Refused.
        """
        try:
            entries = self._archive(archive).entries()
        except OSError as error:
            if not archive:
                raise Refused(str(error)) from None
            yield FileEntry(archive, fault=("bad_archive", str(error)))
            return
        inner = next((entry.name for entry in entries if is_archive(entry.name)), None)
        # As Kaggle's command-line tool delivers everything.
        if inner and not (archive and (self.root / archive).with_name(inner).exists()):
            name = archive or self.root.name
            advice = (
                f"{name} holds {inner}, which cannot be read inside it: unpack {name} and set"
                " data.photos to that folder"
            )
            if not archive:
                raise Refused(advice)
            yield FileEntry(archive, fault=("nested_archive", advice))
        prefix = f"{archive}/" if archive else ""
        yield from (entry._replace(path=prefix + entry.path) for entry in entries)

    def _archive(self, path: str) -> Archive:
        return self._archives.setdefault(path, Archive(self.root / path))

    def _locate(self, path: str) -> tuple[Archive | None, str]:
        """The archive that a path lies in and the name inside it; (None, path) for a plain file."""
        if self.root.is_file():
            return self._archive(""), path
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1], 1):
            outer = "/".join(parts[:depth])
            if is_archive(part) and (self.root / outer).is_file():
                return self._archive(outer), "/".join(parts[depth:])
        return None, path


def unpacked_table(name: str, data: bytes) -> bytes:
    """A table's bytes out of those of its file, which may be a zip. Raises OSError."""
    zipped = name.lower().endswith(".zip")
    return unzipped(data, name[: -len(".zip")], MAX_LABEL_BYTES) if zipped else data


def _file_entry(entry: os.DirEntry, path: str) -> FileEntry:
    try:
        status = entry.stat()
    except OSError as error:  # taken away while the folder was listed
        return FileEntry(path, fault=("unreadable", error.strerror or str(error)))
    fault = None if os.access(entry.path, os.R_OK) else ("unreadable", "no permission to read it")
    return FileEntry(path, status.st_size, file_stamp(status), fault)


def _unpacked_folder(archive: str) -> str:
    """Where an archive's files lie once it is unpacked beside itself, in lower case:
    `data/train` for `data/Train.zip.001`.
    """
    folder, slash, name = archive.lower().rpartition("/")
    return folder + slash + archive_stem(name)


def _unpacked(plain: Sequence[FileEntry]) -> dict[tuple[str, str], FileEntry]:
    """The files by each folder that they lie in, however deep, as an archive's unpacked one, and
    by their names: one archive lists `train/1.jpeg`, another `1.jpeg`. 7-Zip unpacks train.zip.001
    into a folder train.zip.
    """
    return {
        (_unpacked_folder(folder), _twin_name(entry)): entry
        for entry in plain
        for folder in itertools.accumulate(entry.path.split("/")[:-1], "{}/{}".format)
    }


def _twin_name(entry: FileEntry) -> str:
    """Two files of one archive, packed and unpacked, have this in common."""
    return EYEPACS.names.image_id(entry.name) or match_key(without_suffix(entry.name))
