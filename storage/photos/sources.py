"""Sources of photographs and labels, as they come: each a folder or a zip in a published layout, or
with a table of one's own. Reads, never writes.

Ids and paths carry the source's name where there are several, so that equal names in two sources
stay two photographs. Every file found is a photograph or a problem: nothing is lost and
nothing raises, except where there is no data folder at all; whether the labels can be used,
`label_fault` says. Paths are those a person sees in the folder; inside an archive they go on behind
its name (`train.zip/train/10_left.jpeg`). No path leads outside, but for links into the store of
git-annex, DVC or Hugging Face to which the folder belongs, and an archive that is a link itself.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from storage.errors import NotThere, Refused
from storage.files.files import is_url
from storage.photos.archive import FileEntry, is_archive
from storage.photos.labels import (
    LabelFile,
    disagreement,
    expected_name,
    expected_table,
    first_line,
    label_name,
    label_text,
    matched,
    merged,
)
from storage.photos.layouts import EYEPACS, KAGGLES, Layout
from storage.photos.listing import Listing
from storage.photos.names import PHOTO_SUFFIXES, match_key, split_of
from storage.photos.recognition import READ_TABLES, SETTING, Recogniser, is_mask
from storage.photos.types import MAX_PHOTO_BYTES, Label, Photograph, Problem, Source

if TYPE_CHECKING:
    import pandas as pd

OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OTHER_TABLES = (*READ_TABLES, ".xlsx", ".xls", ".ods", ".csv.gz", ".json")


class _Found(NamedTuple):
    """What a source holds. layout: the name of the one that was recognised; fault, unlabelled: why
    its labels cannot be used, and that no photograph has one.
    """

    photographs: list[Photograph]
    labels: list[Label]
    problems: list[Problem]
    layout: str
    fault: str | None
    unlabelled: str | None


class PhotoSource:
    """Photographs and labels at a folder, a zip file or the first part (`.zip.001`) of a split one.

    prefix: goes before every id, path and patient. Raises
    FileNotFoundError for a location that is not there, ValueError for one that is neither folder
    nor zip.
    """

    def __init__(self, given: Source, prefix: str = ""):
        self.given, self.prefix = given, prefix
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
                f"{self.root} is not there: set {setting} to the folder or zip with the"
                " photographs, in the file or with --set"
            )
        if not self.root.is_dir() and not is_archive(self.root.name):
            raise Refused(f"{self.root} is neither a folder nor a .zip file")
        self._files = Listing(self.root)

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside.
        """
        return self._files.read(path.removeprefix(self.prefix))

    @cached_property
    def found(self) -> _Found:
        entries = sorted(self._files.entries(), key=_order)
        layout, files, fault = Recogniser(self.given, self._files).labelling(entries)
        problems = [problem for file in files for problem in file.problems]
        labels = merged(files)
        photographs = self._photographs(entries, layout, labels, problems)
        ids = {match_key(photo.image_id): photo.image_id for photo in photographs}
        labels = [
            label._replace(image_id=ids.get(match_key(label.image_id), label.image_id))
            for label in labels
        ]
        fault = fault or self._contradiction(files, photographs)
        unlabelled = None if fault else self._unlabelled(entries, files, labels, photographs)
        by_design = {photo.image_id for photo in photographs if layout.has_no_stage_at(photo.path)}
        kept = sorted(matched(photographs, labels, problems, by_design), key=_natural)
        problems.sort(key=lambda problem: (problem.path or "", problem.reason))
        return _Found(
            [self._prefixed(photo, "image_id", "path", "patient") for photo in kept],
            [self._prefixed(label, "image_id", "source") for label in labels],
            [self._prefixed(problem, "image_id", "path") for problem in problems],
            layout.name,
            fault,
            unlabelled,
        )

    def _prefixed(self, item: Any, *fields: str) -> Any:
        values = {name: getattr(item, name) for name in fields if getattr(item, name) is not None}
        return item._replace(**{name: self.prefix + value for name, value in values.items()})

    def _contradiction(
        self, files: Sequence[LabelFile], photographs: list[Photograph]
    ) -> str | None:
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
        files: Sequence[LabelFile],
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
            line = first_line(label_text(self._files.table(entry)))
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
        hints = {match_key(label.image_id): label.split_hint for label in labels}
        found: dict[str, Photograph] = {}
        masks = self._masks_inside()
        for entry in entries:
            if not (is_mask(entry.path) or (masks and entry.path.startswith(masks))):
                taken = self._taken(entry, layout, hints, found)
                if isinstance(taken, Photograph):
                    found[match_key(taken.image_id)] = taken
                elif taken:
                    problems.append(taken)
        return list(found.values())

    def _taken(
        self,
        entry: FileEntry,
        layout: Layout,
        hints: dict[str, str],
        found: dict[str, Photograph],
    ) -> Photograph | Problem | None:
        """A file as a photograph, or as a problem; None for another file. hints: splits by label;
        found: photographs so far; both by what tells ids apart.
        """
        folder, _, name = entry.path.rpartition("/")
        is_photo = name.lower().endswith(PHOTO_SUFFIXES)
        rule = layout.names
        if layout.has_no_stage_at(entry.path):
            rule = dataclasses.replace(rule, split_in_id=False)
        # A photograph under a wrong ending is told of; only Kaggle's names can tell it.
        image_id = (
            rule.image_id(entry.path)
            if is_photo
            else EYEPACS.names.image_id(name.rpartition(".")[0] or name)
        )

        def problem(reason: str, detail: str) -> Problem:
            return Problem(entry.path, image_id, reason, detail)

        if not is_photo and not (folder and image_id):
            image_id = None
            if entry.fault and not label_name(name):
                return problem(*entry.fault)
            if name.lower().endswith(OTHER_ARCHIVES):
                return problem(
                    "bad_archive", "no zip file, and only those are read: unpack it here"
                )
            return None  # label files, a README, what else lies about
        if entry.fault:
            return problem(*entry.fault)
        if image_id is None:
            return problem("wrong_name", f"expected {expected_name(layout)}")
        if not is_photo:
            return problem("wrong_extension", f"expected one of {', '.join(PHOTO_SUFFIXES)}")
        if entry.bytes > MAX_PHOTO_BYTES:
            most = f"no photograph has more than {MAX_PHOTO_BYTES:,}"
            return problem("too_large", f"{entry.bytes:,} bytes; {most}")
        key = match_key(image_id)
        first = found.get(key)
        if first and first.image_id != image_id:
            detail = f"its name differs from that of {first.path} only in upper and lower case"
            return problem("ambiguous_name", detail)
        if first:
            advice = "" if rule.required else f'; set ids = "path" {SETTING} where names repeat'
            return problem("duplicate_id", f"{first.path} has the same id and comes first{advice}")
        split = split_of(folder) or hints.get(key) or "train"
        file = entry.path, entry.bytes, entry.stamp
        whose = rule.whose(entry.path)
        return Photograph(image_id, split, *file, *whose, self.given.name, self.given.use)

    def _masks_inside(self) -> str:
        """The folder of masks, as a path inside this source; empty where it lies elsewhere."""
        masks = Path(self.given.masks).resolve() if self.given.masks else self.root
        inside = masks != self.root and masks.is_relative_to(self.root)
        return f"{masks.relative_to(self.root).as_posix()}/" if inside else ""


class PhotoSources:
    """The photographs and labels of one source or several. Safe to send to a worker.

    Raises FileNotFoundError or ValueError for a source that is not there or is neither folder nor
    zip.
    """

    def __init__(self, sources: Sequence[Source]):
        several = len(sources) > 1
        self.parts = [
            PhotoSource(source, f"{source.name}/" if several else "") for source in sources
        ]

    def __reduce__(self):
        return PhotoSources, (tuple(part.given for part in self.parts),)

    @property
    def needs_copies(self) -> bool:
        """Whether copies of one photograph have to be looked for: where there are several sources,
        or where names do not say whose eye a photograph shows.
        """
        return len(self.parts) > 1 or any(photo.patient is None for photo in self.photographs())

    def photographs(self) -> list[Photograph]:
        """The usable photographs, source by source, each ordered by id: well named, found once,
        labelled where their split has labels at all.
        """
        return [photo for part in self.parts for photo in part.found.photographs]

    def labels(self) -> "pd.DataFrame":
        """The valid labels: image_id, stage (int8), split_hint, usage (None where not given),
        source (file:line).
        """
        import pandas as pd

        # Usage is no text: there None would become NaN.
        kinds = dict.fromkeys(Label._fields, "str") | {"stage": "int8", "usage": object}
        labels = [label for part in self.parts for label in part.found.labels]
        return pd.DataFrame(labels, columns=list(Label._fields), dtype=object).astype(kinds)

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return [problem for part in self.parts for problem in part.found.problems]

    def label_fault(self, required: bool = True) -> str | None:
        """Why the labels cannot be used, then what to do, in one line; None where they can.

        A label file that is none, or that contradicts another, always is a fault. Photographs that
        nobody labelled are none without `required`; of several sources to learn from one has to be
        labelled.
        """
        if faults := [part.found.fault for part in self.parts if part.found.fault]:
            return faults[0]
        missing = [part.found.unlabelled for part in self.parts if part.given.use == "train"]
        return missing[0] if required and missing and all(missing) else None

    def name_of(self, path: str | None) -> str | None:
        """The name of the source that a path lies in; None for the one without a name."""
        part = self._part_of(path or "")
        return (part.given.name or None) if part else None

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside or into no source.
        """
        if (part := self._part_of(path)) is None:
            raise Refused(f"{path} lies in none of the sources of this configuration")
        return part.read(path)

    def _part_of(self, path: str) -> PhotoSource | None:
        return next((part for part in self.parts if path.startswith(part.prefix)), None)


def _order(entry: FileEntry) -> tuple[bool, str]:
    """Of two files with one id the first counts: that in train/ or test/ before Kaggle's sample/ of
    the same eyes.
    """
    return not split_of(entry.path.rpartition("/")[0]), entry.path


def _natural(photo: Photograph) -> tuple:
    patient, _, eye = photo.image_id.rpartition("_")
    return (0, int(patient), "", eye) if patient.isdecimal() else (1, 0, patient, eye)
