"""One source of photographs and labels, as it comes: a folder or a zip in a published layout, or
with a table of one's own. Reads, never writes.

Every file found is a photograph of `photographs()` or a row of `problems()`: nothing is lost and
nothing raises, except where there is no data folder at all; whether the labels can be used,
`label_fault` says. Paths are those a person sees in the folder; inside an archive they go on behind
its name (`train.zip/train/10_left.jpeg`). No path leads outside, but for links into the store of
git-annex, DVC or Hugging Face to which the folder belongs, and an archive that is a link itself.
"""

import dataclasses
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage.errors import NotThere, Refused
from storage.files.files import is_url
from storage.photos.archive import is_archive, unzipped
from storage.photos.labels import (
    MAX_LABEL_BYTES,
    LabelFile,
    expected_name,
    expected_table,
    first_line,
    label_name,
    label_text,
)
from storage.photos.layouts import KAGGLES, Layout
from storage.photos.listing import FileEntry, Listing
from storage.photos.matching import disagreement, matched, merged
from storage.photos.names import EYEPACS_NAMES, PHOTO_SUFFIXES, NameRule, match_key, split_of
from storage.photos.recognition import READ_TABLES, SETTING, Recogniser, is_mask
from storage.photos.types import MAX_PHOTO_BYTES, Label, Photograph, Problem, Source

if TYPE_CHECKING:
    import pandas as pd

OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OTHER_TABLES = (*READ_TABLES, ".xlsx", ".xls", ".ods", ".csv.gz", ".json")


class _Scan(NamedTuple):
    photographs: list[Photograph]
    labels: list[Label]
    problems: list[Problem]
    layout: Layout
    fault: str | None
    unlabelled: str | None


class PhotoSource:
    """Photographs and labels at a folder, a zip file or the first part (`.zip.001`) of a split one.

    Safe to send to a worker. Raises FileNotFoundError for a location that is not there, ValueError
    for one that is neither folder nor zip.
    """

    def __init__(self, given: Source | str | Path):
        self.given = given if isinstance(given, Source) else Source(photos=str(given))
        setting = f"photos of the source {self.given.name}" if self.given.name else "data.photos"
        text = self.given.photos
        if not text.strip():
            raise Refused(f"the photographs need a folder: set {setting}")
        if is_url(text):
            raise Refused(
                f"{text}: photographs are read from a folder or zip file on this machine; copy or"
                f" mount them, and set {setting} to that"
            )
        self.root = Path(text.removeprefix("file://")).expanduser().resolve()
        if not self.root.exists():
            raise NotThere(
                f"{self.root} is not there: set {setting} to the folder or zip with the photographs"
            )
        if not self.root.is_dir() and not is_archive(self.root.name):
            raise Refused(f"{self.root} is neither a folder nor a .zip file")
        self._files = Listing(self.root)

    def __reduce__(self):
        return PhotoSource, (self.given,)

    @property
    def layout(self) -> str:
        """The name of the layout that was recognised."""
        return self._scan.layout.name

    def photographs(self) -> list[Photograph]:
        """The usable photographs, ordered by id: well named, found once, labelled where their
        split has labels at all.
        """
        return self._scan.photographs

    def valid_labels(self) -> list[Label]:
        """The valid labels."""
        return self._scan.labels

    def labels(self) -> "pd.DataFrame":
        """The valid labels: image_id, stage (int8), split_hint, usage (None where not given),
        source (file:line).
        """
        return label_frame(self._scan.labels)

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return self._scan.problems

    def label_fault(self, required: bool = True) -> str | None:
        """Why the labels cannot be used, then what to do, in one line; None where they can.

        Without `required`, photographs that nobody labelled are no fault; a label file that is
        none, or that contradicts another, always is.
        """
        return self._scan.fault or (self._scan.unlabelled if required else None)

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside.
        """
        return self._files.read(path)

    @cached_property
    def _scan(self) -> _Scan:
        problems: list[Problem] = []
        entries = sorted(self._files.entries(problems), key=lambda entry: entry.order)
        layout, files, fault = Recogniser(self.given, self.root, self._table).labelling(entries)
        problems += [problem for file in files for problem in file.problems]
        labels = merged(files)
        photographs = self._photographs(entries, layout, labels, problems)
        ids = {match_key(photo.image_id): photo.image_id for photo in photographs}
        labels = [
            label._replace(image_id=ids.get(match_key(label.image_id), label.image_id))
            for label in labels
        ]
        fault = fault or self._contradiction(files, photographs)
        unlabelled = None if fault else self._unlabelled(entries, files, labels, photographs)
        by_design = {
            photo.image_id
            for photo in photographs
            if layout.unlabelled and _lies_in(layout.unlabelled, photo.path)
        }
        kept = sorted(matched(photographs, labels, problems, by_design), key=_natural)
        problems.sort(key=lambda problem: (problem.path or "", problem.reason))
        return _Scan(kept, labels, problems, layout, fault, unlabelled)

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
                return (
                    f"{self.root / file.path} cannot be used as labels: {file.fault};"
                    f" {expected_table(file.columns)}"
                )
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
            f"; {entry.path} is no label file by its name or columns{self._begins(entry)}"
            for entry in tables[:3]
        )
        place = (
            ""
            if self.root.is_dir()
            else f" beside the archive, with data.photos = {self.root.parent}"
        )
        return (
            f"{self.root} holds {len(ids):,} photographs and no label file{found}; give the labels"
            f" as trainLabels.csv{place}: {expected_table(KAGGLES)}; or name the columns of your"
            f" own with image_column and stage_column {SETTING}; a model of dr import-model or"
            " training.model_id needs none"
        )

    def _begins(self, entry: FileEntry) -> str:
        try:
            line = first_line(label_text(self._table(entry)))
        except OSError:
            return ""
        return f" (its first line is {line!r})" if line.isprintable() else ""

    def _photographs(
        self,
        entries: list[FileEntry],
        layout: Layout,
        labels: list[Label],
        problems: list[Problem],
    ) -> list[Photograph]:
        layout = Recogniser(self.given, self.root, self._table).with_settings(layout)
        hints = {match_key(label.image_id): label.split_hint for label in labels}
        found: dict[str, Photograph] = {}
        masks = self._masks_inside()
        for entry in entries:
            if is_mask(entry.path) or (masks and entry.path.startswith(masks)):
                continue
            rule = layout.names
            if layout.unlabelled and _lies_in(layout.unlabelled, entry.path):
                rule = dataclasses.replace(rule, split_in_id=False)
            self._add(entry, rule, layout, hints, found, problems)
        return list(found.values())

    def _add(
        self,
        entry: FileEntry,
        rule: NameRule,
        layout: Layout,
        hints: dict[str, str],
        found: dict[str, Photograph],
        problems: list[Problem],
    ) -> None:
        """Takes a file in as a photograph, or as a problem; other files are neither."""
        folder, _, name = entry.path.rpartition("/")
        photo = name.lower().endswith(PHOTO_SUFFIXES)
        image_id = rule.image_id(entry.path)
        if not photo:
            # A photograph under a wrong ending is told of; only Kaggle's names can tell it.
            image_id = EYEPACS_NAMES.image_id(name.rpartition(".")[0] or name)
            if not (folder and image_id):
                if entry.fault and not label_name(name):
                    problems.append(Problem(entry.path, None, *entry.fault))
                elif name.lower().endswith(OTHER_ARCHIVES):
                    detail = "no zip file, and only those are read: unpack it here"
                    problems.append(Problem(entry.path, None, "bad_archive", detail))
                return  # label files, a README, what else lies about
        first = found.get(match_key(image_id)) if image_id else None
        if entry.fault:
            problems.append(Problem(entry.path, image_id, *entry.fault))
        elif image_id is None:
            detail = f"expected {expected_name(layout)}"
            problems.append(Problem(entry.path, None, "wrong_name", detail))
        elif not photo:
            detail = f"expected one of {', '.join(PHOTO_SUFFIXES)}"
            problems.append(Problem(entry.path, image_id, "wrong_extension", detail))
        elif entry.bytes > MAX_PHOTO_BYTES:
            detail = f"{entry.bytes:,} bytes; no photograph has more than {MAX_PHOTO_BYTES:,}"
            problems.append(Problem(entry.path, image_id, "too_large", detail))
        elif first is not None and first.image_id != image_id:
            detail = f"its name differs from that of {first.path} only in upper and lower case"
            problems.append(Problem(entry.path, image_id, "ambiguous_name", detail))
        elif first is not None:
            advice = "" if rule.required else f'; set ids = "path" {SETTING} where names repeat'
            detail = f"{first.path} has the same id and comes first{advice}"
            problems.append(Problem(entry.path, image_id, "duplicate_id", detail))
        else:
            hint = split_of(folder) or hints.get(match_key(image_id)) or "train"
            whose = rule.whose(entry.path)
            found[match_key(image_id)] = Photograph(
                image_id, hint, entry.path, entry.bytes, entry.stamp, *whose
            )

    def _masks_inside(self) -> str:
        """The folder of masks, as a path inside this source; empty where it lies elsewhere."""
        masks = Path(self.given.masks).expanduser().resolve() if self.given.masks else self.root
        inside = masks != self.root and masks.is_relative_to(self.root)
        return f"{masks.relative_to(self.root).as_posix()}/" if inside else ""


def label_frame(labels: list[Label]) -> "pd.DataFrame":
    """Labels as a table: image_id, stage (int8), split_hint, usage (None where not given), source
    (file:line).
    """
    import pandas as pd

    columns = zip(*labels, strict=True) if labels else ((),) * len(Label._fields)
    kinds = {"stage": "int8", "usage": object}  # as text, None would become NaN
    series = (
        pd.Series(list(column), dtype=kinds.get(name, "str"))
        for name, column in zip(Label._fields, columns, strict=True)
    )
    return pd.DataFrame(dict(zip(Label._fields, series, strict=True)))


def _lies_in(pattern: str, path: str) -> bool:
    """Whether a folder above a file, or one above the source, is named so."""
    return any(re.fullmatch(pattern, folder.lower()) for folder in path.split("/")[:-1])


def _natural(photo: Photograph) -> tuple:
    patient, _, eye = photo.image_id.rpartition("_")
    return (0, int(patient), "", eye) if patient.isdecimal() else (1, 0, patient, eye)
