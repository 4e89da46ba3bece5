"""The user's photographs and labels, as they come: a folder or a zip in Kaggle's layout. Reads,
never writes.

Every file found is a photograph of `photographs()` or a row of `problems()`: nothing is lost and
nothing raises, except where there is no data folder at all. Paths are those a person sees in the
folder; inside an archive they go on behind its name (`train.zip/train/10_left.jpeg`). No path leads
outside.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage.errors import NotThere, Refused
from storage.files.files import is_url
from storage.photos.archive import Archive, archive_stem, is_archive, unzipped
from storage.photos.fingerprints import file_stamp
from storage.photos.labels import (
    LABEL_FILES,
    MAX_LABEL_BYTES,
    MAX_PHOTO_BYTES,
    PHOTO_SUFFIXES,
    Label,
    Problem,
    canonical_id,
    matched,
    read_labels,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_DEPTH = 3  # train/, and train/train/ as some unpackers leave it
# Lesion masks carry the photographs' names; the others are what file managers and zip programs
# leave behind.
IGNORED_FOLDERS = {"mask", "masks", "__macosx"}


class Photograph(NamedTuple):
    """One photograph: its id, "train" or "test" by its folder (or its label), its path, its size
    in bytes, its stamp.
    """

    image_id: str
    split_hint: str
    path: str
    bytes: int
    stamp: str


class _Entry(NamedTuple):
    path: str
    bytes: int = 0
    stamp: str = ""
    fault: tuple[str, str] | None = None

    @property
    def order(self) -> tuple[bool, str]:
        """Of two files with one id the first counts: that in train/ or test/ before Kaggle's
        sample/ of the same eyes.
        """
        return not _split_of(self.path.rpartition("/")[0]), self.path


class PhotoSource:
    """Photographs and labels at a folder, a zip file or the first part (`.zip.001`) of a split one.

    Safe to send to a worker. Raises FileNotFoundError for a location that is not there, ValueError
    for one that is neither folder nor zip.
    """

    def __init__(self, location: str | Path):
        text = str(location)
        if not text.strip():
            raise Refused("the photographs need a folder: set data.photos")
        if is_url(text):
            raise Refused(
                f"{text}: photographs are read from a folder or zip file on this machine; copy or"
                " mount them, and set data.photos to that"
            )
        self.root = Path(text.removeprefix("file://")).expanduser().resolve()
        if not self.root.exists():
            raise NotThere(
                f"{self.root} is not there: set data.photos to the folder or zip with the"
                " photographs"
            )
        if not self.root.is_dir() and not is_archive(self.root.name):
            raise Refused(f"{self.root} is neither a folder nor a .zip file")
        self._archives: dict[str, Archive] = {}

    def __reduce__(self):
        return PhotoSource, (str(self.root),)

    def photographs(self) -> list[Photograph]:
        """The usable photographs, ordered by id: well named, found once, labelled where their
        split has labels at all.
        """
        return self._scan[0]

    def labels(self) -> "pd.DataFrame":
        """The valid labels: image_id, stage (int8), split_hint, usage (None where not given),
        source (file:line).
        """
        import pandas as pd

        columns = zip(*self._scan[1], strict=True) if self._scan[1] else ((),) * len(Label._fields)
        kinds = {"stage": "int8", "usage": object}  # as text, None would become NaN
        series = (
            pd.Series(list(column), dtype=kinds.get(name, "str"))
            for name, column in zip(Label._fields, columns, strict=True)
        )
        return pd.DataFrame(dict(zip(Label._fields, series, strict=True)))

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return self._scan[2]

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside.
        """
        archive, inner = self._locate(path)
        if archive is not None:
            return archive.read(inner)
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise Refused(f"{path} leads outside {self.root}")
        return found.read_bytes()

    # Finding

    @cached_property
    def _scan(self) -> tuple[list[Photograph], list[Label], list[Problem]]:
        problems: list[Problem] = []
        entries = sorted(self._entries(problems), key=lambda entry: entry.order)
        labels = self._labels(entries, problems)
        photographs = self._photographs(entries, labels, problems)
        kept = matched(photographs, labels, problems)
        return (
            sorted(kept, key=_natural),
            labels,
            sorted(problems, key=lambda p: (p.source or "", p.reason)),
        )

    def _entries(self, problems: list[Problem]) -> Iterator[_Entry]:
        if self.root.is_file():
            yield from self._archive_entries("", self._archive(""), problems, raise_errors=True)
            return
        yield from self._folder_entries(self.root, "", 0)
        folders = {path.name.lower() for path in self.root.iterdir() if path.is_dir()}
        for path in sorted(self.root.iterdir()):
            # An archive beside the folder of its name has been unpacked: its photographs would all
            # be there twice.
            if is_archive(path.name) and path.is_file() and archive_stem(path.name) not in folders:
                yield from self._archive_entries(
                    f"{path.name}/", self._archive(path.name), problems
                )

    def _folder_entries(self, folder: Path, prefix: str, depth: int) -> Iterator[_Entry]:
        try:
            listed = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield _Entry(
                prefix.rstrip("/"),
                fault=("unreadable", f"the folder cannot be listed: {error.strerror}"),
            )
            return
        for entry in listed:
            path = prefix + entry.name
            if _ignored(entry.name):
                continue
            if (shown := os.fsencode(path).decode(errors="backslashreplace")) != path:
                yield _Entry(shown, fault=("wrong_name", "its name is not in UTF-8: rename it"))
                continue
            if entry.is_symlink() and (fault := self._link_fault(Path(entry.path))):
                yield _Entry(path, fault=fault)
            elif entry.is_dir():
                if depth < MAX_DEPTH:
                    yield from self._folder_entries(Path(entry.path), path + "/", depth + 1)
                if canonical_id(entry.name) and entry.name.lower().endswith(PHOTO_SUFFIXES):
                    yield _Entry(path, fault=("not_a_file", "a folder with a photograph's name"))
            elif not entry.is_file():
                yield _Entry(path, fault=("not_a_file", "a device, pipe or socket"))
            else:
                yield _file_entry(entry, path)

    def _link_fault(self, path: Path) -> tuple[str, str] | None:
        target = path.resolve()
        if not target.is_relative_to(self.root):
            return "outside_folder", "a link that leads outside the data folder"
        if not target.exists():
            return "broken_link", f"a link to {target.name}, which is not there"
        # A link to a folder above would have the walk go round in circles.
        return ("outside_folder", "a link to a folder") if target.is_dir() else None

    def _archive_entries(
        self, prefix: str, archive: Archive, problems: list[Problem], raise_errors: bool = False
    ) -> Iterator[_Entry]:
        try:
            entries = archive.entries()
        except OSError as error:
            if raise_errors:
                raise Refused(str(error)) from None
            problems.append(Problem(prefix.rstrip("/"), None, "bad_archive", str(error)))
            return
        inner = next(
            (name for name in (e.name.rpartition("/")[2] for e in entries) if is_archive(name)),
            None,
        )
        if inner and (
            raise_errors or not (self.root / inner).exists()
        ):  # as Kaggle's command-line tool delivers everything
            archive_name = prefix.rstrip("/") or self.root.name
            advice = (
                f"{archive_name} holds {inner}, which cannot be read inside it: unpack"
                f" {archive_name} and set data.photos to that folder"
            )
            if raise_errors:
                raise Refused(advice)
            problems.append(Problem(archive_name, None, "nested_archive", advice))
        for entry in entries:
            if not any(_ignored(part) for part in entry.name.split("/")):
                yield _Entry(prefix + entry.name, *entry[1:])

    def _archive(self, name: str) -> Archive:
        if name not in self._archives:
            self._archives[name] = Archive(self.root / name if name else self.root)
        return self._archives[name]

    def _locate(self, path: str) -> tuple[Archive | None, str]:
        """The archive that a path lies in and the name inside it; (None, path) for a plain file."""
        if self.root.is_file():
            return self._archive(""), path
        first, _, rest = path.partition("/")
        if rest and is_archive(first) and (self.root / first).is_file():
            return self._archive(first), rest
        return None, path

    # Judging

    def _labels(self, entries: list[_Entry], problems: list[Problem]) -> list[Label]:
        labels, taken = [], {}
        for entry in entries:
            name = entry.path.rpartition("/")[2].lower().removesuffix(".zip")
            if name not in LABEL_FILES or name in taken:
                continue  # trainLabels.csv comes before trainLabels.csv.zip, and is the same
            if entry.fault:
                problems.append(Problem(entry.path, None, *entry.fault))
                continue
            taken[name] = entry.path
            if entry.bytes > MAX_LABEL_BYTES:
                problems.append(
                    Problem(
                        entry.path,
                        None,
                        "bad_labels_file",
                        f"{entry.bytes:,} bytes are no list of labels",
                    )
                )
                continue
            try:
                data = self.read(entry.path)
                data = (
                    unzipped(data, ".csv", MAX_LABEL_BYTES)
                    if entry.path.lower().endswith(".zip")
                    else data
                )
            except OSError as error:
                problems.append(Problem(entry.path, None, "bad_labels_file", str(error)))
                continue
            found, wrong = read_labels(data, entry.path, LABEL_FILES[name])
            problems += wrong
            labels += found
        first: dict[str, Label] = {}
        for label in labels:
            if label.image_id in first:
                other = first[label.image_id].source
                problems.append(
                    Problem(
                        label.source,
                        label.image_id,
                        "repeated_label",
                        f"labelled already in {other}",
                    )
                )
            else:
                first[label.image_id] = label
        return list(first.values())

    def _photographs(
        self, entries: list[_Entry], labels: list[Label], problems: list[Problem]
    ) -> list[Photograph]:
        hints = {label.image_id: label.split_hint for label in labels}
        found: dict[str, Photograph] = {}
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            photo = name.lower().endswith(PHOTO_SUFFIXES)
            image_id = canonical_id(name if photo else name.rpartition(".")[0] or name)
            if not photo and not (folder and image_id):
                if entry.fault and name.lower().removesuffix(".zip") not in LABEL_FILES:
                    problems.append(Problem(entry.path, None, *entry.fault))
                continue  # label files, a README, what else lies about
            if entry.fault:
                problems.append(Problem(entry.path, image_id, *entry.fault))
            elif image_id is None:
                problems.append(
                    Problem(
                        entry.path, None, "wrong_name", "expected <patient>_left or <patient>_right"
                    )
                )
            elif not photo:
                detail = f"expected one of {', '.join(PHOTO_SUFFIXES)}"
                problems.append(Problem(entry.path, image_id, "wrong_extension", detail))
            elif entry.bytes > MAX_PHOTO_BYTES:
                detail = f"{entry.bytes:,} bytes; no photograph has more than {MAX_PHOTO_BYTES:,}"
                problems.append(Problem(entry.path, image_id, "too_large", detail))
            elif image_id in found:
                detail = f"{found[image_id].path} has the same id and comes first"
                problems.append(Problem(entry.path, image_id, "duplicate_id", detail))
            else:
                hint = _split_of(folder) or hints.get(image_id, "train")
                found[image_id] = Photograph(image_id, hint, entry.path, entry.bytes, entry.stamp)
        return list(found.values())


def _file_entry(entry: os.DirEntry, path: str) -> _Entry:
    try:
        status = entry.stat()
    except OSError as error:  # taken away while the folder was listed
        return _Entry(path, fault=("unreadable", error.strerror or str(error)))
    fault = None if os.access(entry.path, os.R_OK) else ("unreadable", "no permission to read it")
    return _Entry(path, status.st_size, file_stamp(status), fault)


def _ignored(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in IGNORED_FOLDERS


def _split_of(folder: str) -> str:
    """`test` for test/ and test.zip/test/, `train` for train/; empty elsewhere."""
    for part in reversed(folder.lower().split("/")):
        stem = archive_stem(part)
        if stem in ("train", "test"):
            return stem
    return ""


def _natural(photo: Photograph) -> tuple:
    patient, _, eye = photo.image_id.rpartition("_")
    return (0, int(patient), "", eye) if patient.isdecimal() else (1, 0, patient, eye)
