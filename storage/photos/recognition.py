"""Which layout a source has, and which of its files say the stages: by the files' names, their
columns or the photographs' folders; or as the source's own settings say.

Where several could be meant nothing is chosen: the question names them, and the setting.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from storage.photos.archive import FileEntry
from storage.photos.labels import (
    LABEL_FILES,
    LabelFile,
    column_key,
    disagreement,
    first_line,
    headers,
    label_name,
    label_text,
    plain_name,
    read_labels,
)
from storage.photos.layouts import (
    EYEPACS,
    FOLDERS_BY_CLASS,
    KAGGLES,
    LAYOUTS,
    UNLABELLED,
    Columns,
    Layout,
    classes_of,
)
from storage.photos.listing import Listing, unpacked_table
from storage.photos.names import PHOTO_SUFFIXES, split_of
from storage.photos.types import FOLDERS, Label, Problem, Source

READ_TABLES = (".csv", ".tsv", ".txt", ".csv.zip")
HEADLESS_ROW = re.compile(r"\S.*\.\w{3,4}\s+\d")
# Folders of masks as IDRiD and DDR name them; `masks` is never listed at all.
MASK_FOLDER = re.compile(r"(?:\w\. *)?(?:all )?(?:segmentation )?(?:groundtruths?|labels?)", re.I)
SETTING = "in [[data.sources]]"


class Labelling(NamedTuple):
    """The layout recognised, its label files, and what keeps these from being used."""

    layout: Layout
    files: Sequence[LabelFile] = ()
    fault: str | None = None


class Recogniser:
    """Looks at the files of one source."""

    def __init__(self, given: Source, files: Listing):
        self.given, self.files = given, files
        self.private = None  # the layout of a table of one's own
        if given.image_column:
            columns = Columns(column_key(given.image_column), column_key(given.stage_column))
            self.private = Layout("columns named in the configuration", (columns,))

    def labelling(self, entries: Sequence[FileEntry]) -> Labelling:
        """The layout, with names as the source's own settings describe them, and its label
        files.
        """
        found = self._labelling(entries)
        return found._replace(layout=self._with_settings(found.layout))

    def _labelling(self, entries: Sequence[FileEntry]) -> Labelling:
        given, root = self.given, self.files.root
        folders = self._folder_labels(entries)
        if given.labels == FOLDERS:
            if folders:
                return Labelling(FOLDERS_BY_CLASS, [folders])
            fault = f"{root}: the photographs' folders are not named after stages (0 to 4)"
            return Labelling(FOLDERS_BY_CLASS, fault=fault)
        if given.labels:
            return self._named_table()
        files = [file for entry in entries if (file := self._label_file(entry)) is not None]
        if self.private and not files:
            fault = (
                f"{root} has no table with the columns {given.image_column} and"
                f" {given.stage_column}; name the table with labels {SETTING}"
            )
            return Labelling(self.private, fault=fault)
        named: dict[str, str] = {}
        for file in files:
            named.setdefault(file.layout.name, file.path)
        if folders and not self.private and (not files or disagreement([*files, folders], set())):
            named[FOLDERS_BY_CLASS.name] = FOLDERS
            files = files or [folders]
        if not files:
            names = [entry.name for entry in entries if is_photo(entry)]
            of_kaggle = sum(EYEPACS.names.image_id(name) is not None for name in names)
            return Labelling(EYEPACS if 2 * of_kaggle >= len(names) else UNLABELLED)
        fault = None
        if len(named) > 1:
            told = " or ".join(f"{at} ({name})" for name, at in named.items())
            advice = f'labels = "{next(iter(named.values()))}"'
            fault = f"{root}: which labels hold, {told}? Name them, such as {advice} {SETTING}"
        return Labelling(files[0].layout, files, fault)

    def _with_settings(self, layout: Layout) -> Layout:
        names = layout.names
        if self.given.patient:
            names = dataclasses.replace(names, pattern=self.given.patient, required=False)
        if self.given.ids == "path":
            names = dataclasses.replace(names, by_path=True, required=False, split_in_id=False)
        return dataclasses.replace(layout, names=names)

    def _label_file(self, entry: FileEntry) -> LabelFile | None:
        """A file with labels; None for any other file."""
        name = entry.name.lower()
        expected = not self.private and label_name(name)
        example = not self.private and "submission" in name  # Kaggle's, of what to hand in
        if not expected and (example or not name.endswith(READ_TABLES)):
            return None
        try:
            data = self.files.table(entry)
        except OSError as error:
            problem = Problem(entry.path, None, "bad_labels_file", str(error))
            return LabelFile(entry.path, entry.name, [], [problem]) if expected else None
        known = (EYEPACS, KAGGLES) if expected else self._recognised(label_text(data), name)
        return self._parsed(entry, data, *known) if known else None

    def _named_table(self) -> Labelling:
        """The table that the configuration names, which may lie anywhere."""
        given, entry = self.given, FileEntry(self.given.labels)
        elsewhere = Path(given.labels)
        try:
            packed = elsewhere.read_bytes() if elsewhere.is_file() else self.files.read(entry.path)
            data = unpacked_table(entry.name, packed)
        except (OSError, ValueError) as error:
            fault = f"labels = {given.labels} cannot be read: {error}"
            return Labelling(UNLABELLED, fault=fault)
        text = label_text(data)
        known = self._recognised(text, entry.name)
        if known is None and self.private:
            known = self.private, self.private.tables[0]  # the reader says what is wrong with it
        if known is None:
            fault = (
                f"labels = {given.labels} is of no layout that is known; its first line is"
                f" {first_line(text)!r}; name two of its columns with image_column and stage_column"
                f" {SETTING}"
            )
            return Labelling(UNLABELLED, fault=fault)
        file = self._parsed(entry, data, *known)
        return Labelling(file.layout, [file])

    def _recognised(self, text: str, file_name: str) -> tuple[Layout, Columns] | None:
        """The layout whose label file this is, and its columns; None for any other table."""
        plain = plain_name(file_name)
        rows = [row.strip() for row in text.split("\n") if row.strip()][:20]
        headless = bool(rows) and all(HEADLESS_ROW.fullmatch(row) for row in rows)
        found = [header for _, header in headers(text)]
        for layout in (self.private,) if self.private else LAYOUTS:
            if not re.fullmatch(layout.files, plain):
                continue
            if layout.headless and headless:
                return layout, KAGGLES
            for header in found:
                for columns in layout.tables:
                    if columns.are_in(header):
                        return layout, columns
        return None

    def _parsed(self, entry: FileEntry, data: bytes, layout: Layout, columns: Columns) -> LabelFile:
        layout, split = self._with_settings(layout), split_in_name(entry.name)
        labels, problems = read_labels(data, entry.path, split, layout, columns)
        name = label_name(entry.name) or entry.name
        return LabelFile(entry.path, name, labels, problems, layout, columns)

    def _folder_labels(self, entries: Sequence[FileEntry]) -> LabelFile | None:
        """Labels by the names of the photographs' folders; None where these are no stages."""
        photographs = [
            (entry.path, entry.path.rpartition("/")[0]) for entry in entries if is_photo(entry)
        ]
        layout = self._with_settings(FOLDERS_BY_CLASS)
        stages = classes_of({folder for _, folder in photographs})
        if stages is None:
            return None
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
    if plain := label_name(file_name):
        return LABEL_FILES[plain]
    part = re.search(r"train|valid|test", file_name.lower())
    return split_of(part[0]) if part else ""


def is_photo(entry: FileEntry) -> bool:
    """Whether a file is a photograph by its name and place."""
    return entry.name.lower().endswith(PHOTO_SUFFIXES) and not is_mask(entry.path)


def is_mask(path: str) -> bool:
    """Whether a file lies in a folder of published masks, which are images and no photographs.

    >>> is_mask("A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/x.tif")
    True
    """
    return any(MASK_FOLDER.fullmatch(folder.strip()) for folder in path.split("/")[:-1])
