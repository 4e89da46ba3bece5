"""Which layout a source has, and which of its files say the stages: by the files' names, their
columns or the photographs' folders; or as the source's own settings say.

Where several could be meant nothing is chosen: the question names them, and the setting.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from storage.photos.archive import unzipped
from storage.photos.labels import (
    COPY_MARKS,
    LABEL_FILES,
    MAX_LABEL_BYTES,
    LabelFile,
    column_key,
    first_line,
    has_columns,
    headers,
    label_name,
    label_text,
    read_labels,
)
from storage.photos.layouts import (
    EYEPACS,
    FOLDERS_BY_CLASS,
    KAGGLES,
    LAYOUTS,
    PRIVATE,
    UNLABELLED,
    Columns,
    Layout,
    classes_of,
)
from storage.photos.listing import FileEntry
from storage.photos.matching import disagreement
from storage.photos.names import EYEPACS_NAMES, PHOTO_SUFFIXES, split_of
from storage.photos.types import FOLDERS, Label, Problem, Source

READ_TABLES = (".csv", ".tsv", ".txt", ".csv.zip")
HEADLESS_ROW = re.compile(r"\S.*\.\w{3,4}\s+\d")
# Folders of masks as IDRiD and DDR name them; `masks` is never listed at all.
MASK_FOLDER = re.compile(r"(?:\w\. *)?(?:all )?(?:segmentation )?(?:groundtruths?|labels?)", re.I)
SETTING = "in [[data.sources]]"


class Labelling(NamedTuple):
    """The layout recognised, its label files, and what keeps these from being used."""

    layout: Layout
    files: list[LabelFile]
    fault: str | None = None


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Looks at the files of one source. table: gives a table's bytes, unpacked; raises OSError."""

    given: Source
    root: Path
    table: Callable[[FileEntry], bytes]

    def labelling(self, entries: Sequence[FileEntry]) -> Labelling:
        """The layout and its label files."""
        given = self.given
        columns = (
            Columns(column_key(given.image_column), column_key(given.stage_column))
            if given.image_column
            else None
        )
        folders = self._folder_labels(entries)
        if given.labels == FOLDERS:
            fault = f"{self.root}: the photographs' folders are not named after stages (0 to 4)"
            files = [folders] if folders else []
            return Labelling(FOLDERS_BY_CLASS, files, None if folders else fault)
        if given.labels:
            return self._named_table(columns)
        files = [
            self._read(entry, *known)
            for entry in entries
            if (known := self._known(entry, columns)) is not None
        ]
        if columns and not files:
            fault = (
                f"{self.root} has no table with the columns {given.image_column} and"
                f" {given.stage_column}; name the table with labels {SETTING}"
            )
            return Labelling(PRIVATE, [], fault)
        named: dict[str, str] = {}
        for file in files:
            named.setdefault(file.layout.name, file.path)
        if folders and not columns and (not files or disagreement([*files, folders], set())):
            named[FOLDERS_BY_CLASS.name] = FOLDERS
            files = files or [folders]
        fault = None
        if len(named) > 1:
            told = " or ".join(f"{at} ({name})" for name, at in named.items())
            advice = f'labels = "{next(iter(named.values()))}"'
            fault = f"{self.root}: which labels hold, {told}? Name them, such as {advice} {SETTING}"
        if files:
            return Labelling(files[0].layout, files, fault)
        names = [entry.name for entry in entries if is_photo(entry)]
        of_kaggle = sum(EYEPACS_NAMES.image_id(name) is not None for name in names)
        return Labelling(EYEPACS if 2 * of_kaggle >= len(names) else UNLABELLED, [])

    def with_settings(self, layout: Layout) -> Layout:
        """The layout, with names as the source's own settings describe them."""
        names = layout.names
        if self.given.patient:
            names = dataclasses.replace(names, pattern=self.given.patient, required=False)
        if self.given.ids == "path":
            names = dataclasses.replace(names, by_path=True, required=False, split_in_id=False)
        return dataclasses.replace(layout, names=names)

    def _known(self, entry: FileEntry, columns: Columns | None) -> tuple[Layout, Columns] | None:
        """The layout and the columns of a table that holds labels; None for any other file."""
        name = entry.name.lower()
        if columns is None and label_name(name):
            return EYEPACS, KAGGLES
        example = columns is None and "submission" in name  # Kaggle's, of what to hand in
        if not name.endswith(READ_TABLES) or entry.fault or example:
            return None
        try:
            text = label_text(self.table(entry))
        except OSError:
            return None
        if columns is None:
            return recognised(text, name)
        return (PRIVATE, columns) if has_columns(text, columns) else None

    def _named_table(self, columns: Columns | None) -> Labelling:
        """The table that the configuration names, which may lie anywhere."""
        named = Path(self.given.labels).expanduser()
        entry = FileEntry(str(named) if named.is_file() else self.given.labels)
        try:
            data = named.read_bytes() if named.is_file() else self.table(entry)
            if named.is_file() and entry.name.lower().endswith(".zip"):
                data = unzipped(data, entry.name[: -len(".zip")], MAX_LABEL_BYTES)
        except (OSError, ValueError) as error:
            return Labelling(
                UNLABELLED, [], f"labels = {self.given.labels} cannot be read: {error}"
            )
        text = label_text(data)
        known = (PRIVATE, columns) if columns else recognised(text, entry.name)
        if known is None:
            fault = (
                f"labels = {self.given.labels} is of no layout that is known; its first line is"
                f" {first_line(text)!r}; name two of its columns with image_column and stage_column"
                f" {SETTING}"
            )
            return Labelling(UNLABELLED, [], fault)
        file = self._parsed(entry, data, *known)
        return Labelling(file.layout, [file])

    def _read(self, entry: FileEntry, layout: Layout, columns: Columns) -> LabelFile:
        try:
            return self._parsed(entry, self.table(entry), layout, columns)
        except OSError as error:
            problem = Problem(entry.path, None, "bad_labels_file", str(error))
            return LabelFile(entry.path, entry.name, [], [problem], layout, columns)

    def _parsed(self, entry: FileEntry, data: bytes, layout: Layout, columns: Columns) -> LabelFile:
        layout = self.with_settings(layout)
        split = split_in_name(entry.name)
        labels, problems = read_labels(data, entry.path, split, layout, columns)
        name = label_name(entry.name) or entry.name
        return LabelFile(entry.path, name, labels, problems, layout, columns)

    def _folder_labels(self, entries: Sequence[FileEntry]) -> LabelFile | None:
        """Labels by the names of the photographs' folders; None where these are no stages."""
        photographs = [
            (entry.path, entry.path.rpartition("/")[0]) for entry in entries if is_photo(entry)
        ]
        stages = classes_of({folder for _, folder in photographs})
        if stages is None:
            return None
        layout = self.with_settings(FOLDERS_BY_CLASS)
        labels = [
            Label(image_id, stages[folder], split_of(folder), None, path)
            for path, folder in photographs
            if (image_id := layout.names.image_id(path))
        ]
        return LabelFile(FOLDERS, FOLDERS, labels, [], layout)


def split_in_name(file_name: str) -> str:
    """The split that a label file is for by its name; empty for a file of all photographs.

    >>> [split_in_name(name) for name in ("trainLabels.csv", "valid.txt", "labels.csv")]
    ['train', 'validation', '']
    """
    plain = label_name(file_name)
    if plain:
        return LABEL_FILES[plain]
    if part := re.search(r"train|valid|test", file_name.lower()):
        return "validation" if part[0] == "valid" else part[0]
    return ""


def recognised(text: str, file_name: str) -> tuple[Layout, Columns] | None:
    """The layout whose label file this is, and its columns; None for any other table."""
    plain = COPY_MARKS.sub("", file_name.lower().removesuffix(".zip"))
    for layout in LAYOUTS:
        if layout.headless and re.fullmatch(layout.files, plain):
            names = [row for row in text.split("\n") if row.strip()][:20]
            if names and all(HEADLESS_ROW.fullmatch(row.strip()) for row in names):
                return layout, KAGGLES
    found = [header for _, header in headers(text)]
    for layout in LAYOUTS:
        for header in found:
            if columns := layout.columns_of(plain, header):
                return layout, columns
    return None


def is_photo(entry: FileEntry) -> bool:
    """Whether a file is a photograph by its name and place."""
    return entry.name.lower().endswith(PHOTO_SUFFIXES) and not is_mask(entry.path)


def is_mask(path: str) -> bool:
    """Whether a file lies in a folder of published masks, which are images and no photographs.

    >>> is_mask("A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/x.tif")
    True
    """
    return any(MASK_FOLDER.fullmatch(folder.strip()) for folder in path.split("/")[:-1])
