"""Kaggle's label files: what each says row by row, and whether all of them together can be used.

A row that is wrong is set aside with its reason, the others count. A file that is no list of
labels, or that contradicts another, is never passed over in silence: the labels then cannot be used
until a person has chosen.
"""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from dr_lib.vocabulary import STAGES
from storage.files.text import decoded
from storage.photos.types import (
    Label,
    Photograph,
    Problem,
    canonical_id,
)

# File name (lower case) → the split whose photographs it labels.
LABEL_FILES = {
    "trainlabels.csv": "train",
    "retinopathy_solution.csv": "test",
    "testlabels.csv": "test",
}
COLUMNS = ("image", "level")
SEPARATORS = (",", ";", "\t", "|", " ")
EXPECTED = (
    "expected a first line with the columns image and level, and rows such as 10_left,0 with a"
    " stage from 0 to 4"
)
# What browsers and file managers add to the name of a second copy.
COPY_MARKS = re.compile(r"^copy of |( -)? copy(?=[ .])| ?\(\d+\)")
MAX_LABEL_BYTES = 64 * 2**20  # Kaggle's 53,576 labels are under one megabyte
# Label rows that name no photograph say nothing about the photographs: a part of Kaggle's files
# comes with all its labels.
ABOUT_LABELS_ONLY = {
    "no_photograph",
    "repeated_label",
    "malformed_row",
    "stage_out_of_range",
    "bad_labels_file",
    "unknown_usage",
}
# A photograph whose label row was set aside for these needs no second row saying that it has no
# label.
STAGE_FAULTS = {"stage_out_of_range", "malformed_row"}
SECOND_COPIES = {"duplicate_id", "duplicate_content"}


def label_name(name: str) -> str | None:
    """Which of LABEL_FILES a file is by its name, zipped or a copy of one; None for any other file.

    >>> [label_name(name) for name in ("trainLabels.csv.zip", "TRAINLABELS (1).CSV", "labels.csv")]
    ['trainlabels.csv', 'trainlabels.csv', None]
    """
    plain = COPY_MARKS.sub("", name.lower().removesuffix(".zip"))
    return plain if plain in LABEL_FILES else None


class LabelFile(NamedTuple):
    """What one label file says: its path, which of LABEL_FILES it is, its labels, and what was
    set aside of it.
    """

    path: str
    name: str
    labels: list[Label]
    problems: list[Problem]

    @property
    def fault(self) -> str | None:
        """Why it cannot be used at all, in words that follow its path; None where it can."""
        for problem in self.problems:
            if problem.reason == "bad_labels_file":
                return problem.detail
        if self.labels:
            return None
        if not self.problems:
            return "it has no row below its first line"
        first = self.problems[0]
        line = (first.source or "").rpartition(":")[2]
        return f"none of its {len(self.problems):,} rows can be used (line {line}: {first.detail})"


def read_labels(data: bytes, source: str, split_hint: str) -> tuple[list[Label], list[Problem]]:
    """The rows of one file, and what was wrong with the others.

    >>> read_labels(b"image,level\\n10_left,0\\n10_right,7\\n", "trainLabels.csv", "train")[1][
    ...     0
    ... ].detail
    "level '7' is not one of 0, 1, 2, 3, 4"
    """
    try:
        text = decoded(data)
    except UnicodeDecodeError:
        text = data.decode(
            "latin-1"
        )  # whichever 8-bit encoding it is: ids and stages are in the ASCII that all share
    try:
        lines, header = _table(text)
    except (ValueError, csv.Error) as error:
        return [], [Problem(source, None, "bad_labels_file", str(error))]
    labels, problems, seen = [], [], {}
    while True:
        try:
            row = next(lines, None)
        except csv.Error as error:
            problems.append(
                Problem(f"{source}:{lines.line_num}", None, "malformed_row", str(error))
            )
            continue
        if row is None:
            break
        at = f"{source}:{lines.line_num}"
        if not any(cell.strip() for cell in row):
            continue
        while len(row) > len(header) and not row[-1].strip():
            row.pop()  # spreadsheets end every row with separators
        if len(row) == len(header):
            found = _label(dict(zip(header, row, strict=True)), at, split_hint)
        else:
            detail = (
                f"{len(row)} fields where the first line has {len(header)}: {','.join(row)[:80]}"
            )
            found = Problem(at, None, "malformed_row", detail)
        if isinstance(found, Label) and found.image_id in seen:
            first = seen[found.image_id]
            detail = (
                f"line {first.source.rpartition(':')[2]} gave stage {first.stage} before this one's"
                f" {found.stage}"
            )
            found = Problem(at, found.image_id, "repeated_label", detail)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            seen[found.image_id] = found
            labels.append(found)
    return labels, problems


def _table(text: str) -> tuple[Any, list[str]]:
    """The csv.reader of the rows below the line that names the columns, and its names in lower
    case. Raises ValueError where there is none.

    The separator is the one under which that line names both columns: no other can, since neither
    name contains one.
    """
    for separator in SEPARATORS:
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
        )
        # Excel may write a line of its own, `sep=;`, above the table.
        above = (
            row
            for row in lines
            if any(cell.strip() for cell in row) and not row[0].lower().startswith("sep=")
        )
        header = [name.strip().lower() for name in next(above, [])]
        if set(COLUMNS) <= set(header):
            if twice := [name for name in COLUMNS if header.count(name) > 1]:
                raise ValueError(f"its first line names the column {twice[0]} twice")
            return lines, header
    raise ValueError(f"its first line is {first_line(text)!r}" if text.strip() else "it is empty")


def first_line(text: str) -> str:
    """The first line of a text that has anything in it, shortened."""
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")


def _label(row: dict[str, str], at: str, split_hint: str) -> Label | Problem:
    name = row["image"].strip()
    path = name.replace("\\", "/").split("/")  # ids may be given as the photographs' paths
    image_id = None if ".." in path else canonical_id(path[-1])
    if image_id is None:
        outside = ".." in path
        reason, why = (
            ("outside_folder", "leads outside the data folder")
            if outside
            else ("wrong_name", "names no eye")
        )
        return Problem(
            at,
            None,
            reason,
            f"image {name[:80]!r} {why}: expected <patient>_left or <patient>_right",
        )
    level = row["level"].strip()
    try:
        stage = float(level.replace(",", "."))  # a spreadsheet's 0,0 is 0.0
    except ValueError:
        return Problem(at, image_id, "malformed_row", f"level {level[:20]!r} is not a number")
    if stage not in STAGES:
        return Problem(
            at, image_id, "stage_out_of_range", f"level {level[:20]!r} is not one of 0, 1, 2, 3, 4"
        )
    return Label(image_id, int(stage), split_hint, (row.get("usage") or "").strip() or None, at)


def merged(files: Sequence[LabelFile]) -> list[Label]:
    """One label an image: the first file's, with the Usage that any of them gives."""
    found: dict[str, Label] = {}
    for label in itertools.chain.from_iterable(file.labels for file in files):
        first = found.get(label.image_id)
        found[label.image_id] = (
            label if first is None else first._replace(usage=first.usage or label.usage)
        )
    return list(found.values())


def disagreement(
    files: Sequence[LabelFile], photographed: AbstractSet[str]
) -> tuple[LabelFile, LabelFile, str] | None:
    """The first two files that contradict each other, and by how much; None where all agree.

    Of two copies of one file it also counts which photographs only one of them labels: which copy
    holds then decides whether these are used. Files without a common image are parts of one list.
    """
    tables = [{label.image_id: label for label in file.labels} for file in files]
    for (one, first), (other, second) in itertools.combinations(zip(files, tables, strict=True), 2):
        common = first.keys() & second.keys()
        differing = [image_id for image_id in common if _differ(first[image_id], second[image_id])]
        alone = (
            (first.keys() ^ second.keys()) & photographed
            if common and one.name == other.name
            else ()
        )
        details = []
        if differing:
            example = min(differing)
            said = f"{_said(first[example])} and {_said(second[example])}"
            details.append(f"{len(differing):,} labels differ (such as {example}: {said})")
        if alone:
            details.append(
                f"{len(alone):,} photographs are labelled in one of them only (such as"
                f" {min(alone)})"
            )
        if details:
            return one, other, " and ".join(details)
    return None


def _differ(one: Label, other: Label) -> bool:
    return one.stage != other.stage or bool(one.usage and other.usage and one.usage != other.usage)


def _said(label: Label) -> str:
    return f"stage {label.stage}" + (f", {label.usage}" if label.usage else "")


def matched(
    photographs: "list[Photograph]", labels: list[Label], problems: list[Problem]
) -> "list[Photograph]":
    """The photographs that have a label or whose split has none at all; the others, and labels
    left over, become problems.
    """
    labelled = {label.image_id for label in labels}
    labelled_splits = {label.split_hint for label in labels}
    explained = {problem.image_id for problem in problems if problem.reason in STAGE_FAULTS}
    kept = []
    for photo in photographs:
        if photo.image_id in labelled or photo.split_hint not in labelled_splits:
            kept.append(photo)
        elif photo.image_id not in explained:
            problems.append(
                Problem(
                    photo.path, photo.image_id, "no_label", "no row of the label files names it"
                )
            )
    accounted = {photo.image_id for photo in photographs} | {p.image_id for p in problems}
    for split in sorted(labelled_splits):
        alone = [
            label
            for label in labels
            if label.split_hint == split and label.image_id not in accounted
        ]
        total = sum(label.split_hint == split for label in labels)
        if len(alone) == total and not any(photo.split_hint == split for photo in photographs):
            file = alone[0].source.rpartition(":")[0]
            problems.append(
                Problem(
                    file, None, "no_photograph", f"none of its {total} images has a photograph here"
                )
            )
            continue
        problems.extend(
            Problem(label.source, label.image_id, "no_photograph", "no photograph of this id")
            for label in alone
        )
    return kept
