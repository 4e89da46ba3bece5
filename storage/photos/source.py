"""The user's photographs and labels, as they come: a folder or a zip in Kaggle's layout. Reads,
never writes.

Every file found is a photograph of `photographs()` or a row of `problems()`: nothing is lost and
nothing raises, except where there is no data folder at all; whether the labels can be used,
`label_fault` says. Paths are those a person sees in the folder; inside an archive they go on behind
its name (`train.zip/train/10_left.jpeg`). No path leads outside, but for links into the store of
git-annex, DVC or Hugging Face to which the folder belongs, and an archive that is a link itself.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage.errors import NotThere, Refused
from storage.files.files import is_url
from storage.files.text import decoded
from storage.photos.archive import Archive, archive_stem, ignored, is_archive, unzipped
from storage.photos.fingerprints import file_stamp
from storage.photos.labels import (
    EXPECTED,
    LABEL_FILES,
    MAX_LABEL_BYTES,
    MAX_PHOTO_BYTES,
    PHOTO_SUFFIXES,
    Label,
    LabelFile,
    Problem,
    canonical_id,
    disagreement,
    first_line,
    label_name,
    matched,
    merged,
    read_labels,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_DEPTH = 3  # train/, and train/train/ as some unpackers leave it
OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OTHER_TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".csv.zip", ".csv.gz", ".json")
WAY_OUT = (
    "put the files themselves here (cp -rL follows links), or set data.photos to a folder that"
    " holds both"
)
FETCH_IT = "fetch it (git annex get, dvc pull) or copy it again"
START_BYTES = 1024  # of two photographs hardly ever the same


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
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def order(self) -> tuple[bool, str]:
        """Of two files with one id the first counts: that in train/ or test/ before Kaggle's
        sample/ of the same eyes.
        """
        return not _split_of(self.path.rpartition("/")[0]), self.path


class _Scan(NamedTuple):
    photographs: list[Photograph]
    labels: list[Label]
    problems: list[Problem]
    contradiction: str | None
    unlabelled: str | None


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
        # Where git-annex, DVC and Hugging Face keep the files that a checkout's links lead to.
        folders = (self.root, *self.root.parents)
        self._stores = [folder / name for folder in folders for name in (".git", ".dvc")]
        self._stores += [
            folder.parent / "blobs" for folder in folders if folder.name == "snapshots"
        ]

    def __reduce__(self):
        return PhotoSource, (str(self.root),)

    def photographs(self) -> list[Photograph]:
        """The usable photographs, ordered by id: well named, found once, labelled where their
        split has labels at all.
        """
        return self._scan.photographs

    def labels(self) -> "pd.DataFrame":
        """The valid labels: image_id, stage (int8), split_hint, usage (None where not given),
        source (file:line).
        """
        import pandas as pd

        labels = self._scan.labels
        columns = zip(*labels, strict=True) if labels else ((),) * len(Label._fields)
        kinds = {"stage": "int8", "usage": object}  # as text, None would become NaN
        series = (
            pd.Series(list(column), dtype=kinds.get(name, "str"))
            for name, column in zip(Label._fields, columns, strict=True)
        )
        return pd.DataFrame(dict(zip(Label._fields, series, strict=True)))

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return self._scan.problems

    def label_fault(self, required: bool = True) -> str | None:
        """Why the labels cannot be used, then what to do, in one line; None where they can.

        Without `required`, photographs that nobody labelled are no fault; a label file that is
        none, or that contradicts another, always is.
        """
        return self._scan.contradiction or (self._scan.unlabelled if required else None)

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside.
        """
        archive, inner = self._locate(path)
        if archive is not None:
            return archive.read(inner)
        return self._inside(path).read_bytes()

    def _inside(self, path: str) -> Path:
        """Where a file lies, links followed. Raises ValueError for a path that leads outside."""
        found = (self.root / path).resolve()
        if ".." in path.split("/") or not self._holds(found):
            raise Refused(f"{path} leads outside {self.root}")
        return found

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in (self.root, *self._stores))

    # Finding

    @cached_property
    def _scan(self) -> _Scan:
        problems: list[Problem] = []
        entries = sorted(self._entries(problems), key=lambda entry: entry.order)
        files = self._label_files(entries)
        problems += [problem for file in files for problem in file.problems]
        labels = merged(files)
        photographs = self._photographs(entries, labels, problems)
        contradiction = self._contradiction(files, photographs)
        unlabelled = (
            None if contradiction else self._unlabelled(entries, files, labels, photographs)
        )
        kept = sorted(matched(photographs, labels, problems), key=_natural)
        problems.sort(key=lambda problem: (problem.source or "", problem.reason))
        return _Scan(kept, labels, problems, contradiction, unlabelled)

    def _entries(self, problems: list[Problem]) -> Iterator[_Entry]:
        if self.root.is_file():
            yield from self._archive_entries("", self._archive(""), problems, raise_errors=True)
            return
        every = list(self._folder_entries(self.root, "", 0))
        # An archive may be a link: nothing is read but what its own directory lists.
        packed = [
            entry
            for entry in every
            if is_archive(entry.name) and (self.root / entry.path).is_file()
        ]
        paths = {entry.path for entry in packed}
        plain = [entry for entry in every if entry.path not in paths]
        unpacked = _unpacked(plain, packed)
        cut = set()
        for archive in sorted(packed):
            there = unpacked[_unpacked_folder(archive.path)]
            for entry in self._archive_entries(
                f"{archive.path}/", self._archive(archive.path), problems
            ):
                twin = there.get(_twin_name(entry))
                # Of what was unpacked the folder's file counts, unless the unpacking ended in the
                # middle of it.
                if twin is None or twin.fault:
                    yield entry
                elif self._cut_short(twin, entry):
                    cut.add(twin.path)
                    yield entry
        yield from (entry for entry in plain if entry.path not in cut)

    def _cut_short(self, twin: _Entry, entry: _Entry) -> bool:
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
            if ignored(entry.name):
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
        if not self._holds(target):
            return (
                "outside_folder",
                f"a link that leads outside the data folder, to {target}: {WAY_OUT}",
            )
        if not target.exists():
            return "broken_link", f"a link to {target.name}, which is not there: {FETCH_IT}"
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
        # As Kaggle's command-line tool delivers everything.
        if inner and (raise_errors or not (archive.path.parent / inner).exists()):
            archive_name = prefix.rstrip("/") or self.root.name
            advice = (
                f"{archive_name} holds {inner}, which cannot be read inside it: unpack"
                f" {archive_name} and set data.photos to that folder"
            )
            if raise_errors:
                raise Refused(advice)
            problems.append(Problem(archive_name, None, "nested_archive", advice))
        for entry in entries:
            if not any(ignored(part) for part in entry.name.split("/")):
                yield _Entry(prefix + entry.name, *entry[1:])

    def _archive(self, name: str) -> Archive:
        if name not in self._archives:
            self._archives[name] = Archive(self.root / name if name else self.root)
        return self._archives[name]

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

    # Judging

    def _label_files(self, entries: list[_Entry]) -> list[LabelFile]:
        files = []
        for entry in entries:
            if name := label_name(entry.name):
                try:
                    labels, problems = read_labels(
                        self._table(entry), entry.path, LABEL_FILES[name]
                    )
                except OSError as error:
                    labels, problems = (
                        [],
                        [Problem(entry.path, None, "bad_labels_file", str(error))],
                    )
                files.append(LabelFile(entry.path, name, labels, problems))
        return files

    def _table(self, entry: _Entry) -> bytes:
        """The bytes of a table, unpacked. Raises OSError where there is none."""
        if entry.fault:
            raise OSError(entry.fault[1])
        if entry.bytes > MAX_LABEL_BYTES:
            raise OSError(f"{entry.bytes:,} bytes are no list of labels")
        data = self.read(entry.path)
        if not entry.name.lower().endswith(".zip"):
            return data
        return unzipped(data, entry.name[: -len(".zip")], MAX_LABEL_BYTES)

    def _contradiction(self, files: list[LabelFile], photographs: list[Photograph]) -> str | None:
        for file in files:
            if file.fault:
                return f"{self.root / file.path} cannot be used as labels: {file.fault}; {EXPECTED}"
        if found := disagreement(files, {photo.image_id for photo in photographs}):
            one, other, what = found
            return (
                f"{self.root / one.path} and {self.root / other.path} disagree: {what}; "
                "keep the one that holds in the data folder and move the other out of it"
            )
        return None

    def _unlabelled(
        self,
        entries: list[_Entry],
        files: list[LabelFile],
        labels: list[Label],
        photographs: list[Photograph],
    ) -> str | None:
        """That no photograph has a label, what was found in place of one, and what is expected;
        None where one has.
        """
        ids = {photo.image_id for photo in photographs}
        if not ids or not ids.isdisjoint(label.image_id for label in labels):
            return None
        if files:
            named = " and ".join(file.path for file in files)
            return (
                f"none of the {len(labels):,} labels in {named} names one of the {len(ids):,}"
                f" photographs in {self.root}: labels are of {labels[0].image_id} and so on,"
                f" photographs of {min(ids)} and so on; give the labels of these photographs"
            )
        tables = [
            entry
            for entry in entries
            if entry.name.lower().endswith(OTHER_TABLES) and "submission" not in entry.name.lower()
        ]
        found = "".join(
            f"; {entry.path} is no label file by its name{self._begins(entry)}"
            for entry in tables[:3]
        )
        place = (
            ""
            if self.root.is_dir()
            else f" beside the archive, with data.photos = {self.root.parent}"
        )
        return (
            f"{self.root} holds {len(ids):,} photographs and no label file{found}; give the labels"
            f" as trainLabels.csv{place}: {EXPECTED}; a model of dr import-model or"
            " training.model_id needs none"
        )

    def _begins(self, entry: _Entry) -> str:
        try:
            line = first_line(decoded(self._table(entry)))
        except (OSError, UnicodeDecodeError):
            return ""
        return f" (its first line is {line!r})" if line.isprintable() else ""

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
                if entry.fault and not label_name(name):
                    problems.append(Problem(entry.path, None, *entry.fault))
                elif name.lower().endswith(OTHER_ARCHIVES):
                    problems.append(
                        Problem(
                            entry.path,
                            None,
                            "bad_archive",
                            "no zip file, and only those are read: unpack it here",
                        )
                    )
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


def _unpacked_folder(archive: str) -> str:
    """Where an archive's files lie once it is unpacked beside itself, in lower case:
    `data/train` for `data/Train.zip.001`.
    """
    folder, slash, name = archive.lower().rpartition("/")
    return folder + slash + archive_stem(name)


def _unpacked(plain: Sequence[_Entry], packed: Sequence[_Entry]) -> dict[str, dict[str, _Entry]]:
    """For each archive's folder the files in it, however deep, by name: one archive lists
    `train/1.jpeg`, another `1.jpeg`.
    """
    unpacked: dict[str, dict[str, _Entry]] = {
        _unpacked_folder(archive.path): {} for archive in packed
    }
    for entry in plain if packed else ():
        parts = entry.path.lower().split("/")
        for depth in range(1, len(parts)):
            # 7-Zip unpacks train.zip.001 into a folder train.zip.
            folder = unpacked.get(_unpacked_folder("/".join(parts[:depth])))
            if folder is not None:
                folder[_twin_name(entry)] = entry
    return unpacked


def _twin_name(entry: _Entry) -> str:
    return canonical_id(entry.name) or entry.name.lower()


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
