"""The user's photographs and labels, as they come: a folder or a zip in Kaggle's layout. Reads,
never writes.

Every file found is a photograph of `photographs()` or a row of `problems()`: nothing is lost and
nothing raises, except where there is no data folder at all; whether the labels can be used,
`label_fault` says. Paths are those a person sees in the folder; inside an archive they go on behind
its name (`train.zip/train/10_left.jpeg`). No path leads outside, but for links into the store of
git-annex, DVC or Hugging Face to which the folder belongs, and an archive that is a link itself.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage.errors import NotThere, Refused
from storage.files.files import is_url
from storage.files.text import decoded
from storage.photos.archive import is_archive, unzipped
from storage.photos.labels import (
    EXPECTED,
    LABEL_FILES,
    MAX_LABEL_BYTES,
    LabelFile,
    disagreement,
    first_line,
    label_name,
    matched,
    merged,
    read_labels,
)
from storage.photos.listing import FileEntry, Listing, split_of
from storage.photos.types import (
    MAX_PHOTO_BYTES,
    PHOTO_SUFFIXES,
    Label,
    Photograph,
    Problem,
    canonical_id,
)

if TYPE_CHECKING:
    import pandas as pd

OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OTHER_TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".csv.zip", ".csv.gz", ".json")


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
        self._files = Listing(self.root)

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
        return self._files.read(path)

    @cached_property
    def _scan(self) -> _Scan:
        problems: list[Problem] = []
        entries = sorted(self._files.entries(problems), key=lambda entry: entry.order)
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

    def _label_files(self, entries: list[FileEntry]) -> list[LabelFile]:
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

    def _table(self, entry: FileEntry) -> bytes:
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
        entries: list[FileEntry],
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

    def _begins(self, entry: FileEntry) -> str:
        try:
            line = first_line(decoded(self._table(entry)))
        except (OSError, UnicodeDecodeError):
            return ""
        return f" (its first line is {line!r})" if line.isprintable() else ""

    def _photographs(
        self, entries: list[FileEntry], labels: list[Label], problems: list[Problem]
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
                hint = split_of(folder) or hints.get(image_id, "train")
                found[image_id] = Photograph(image_id, hint, entry.path, entry.bytes, entry.stamp)
        return list(found.values())


def _natural(photo: Photograph) -> tuple:
    patient, _, eye = photo.image_id.rpartition("_")
    return (0, int(patient), "", eye) if patient.isdecimal() else (1, 0, patient, eye)
