"""Label files: what each says row by row, and whether all of them together can be used.

A row that is wrong is set aside with its reason, the others count. A file that is no list of
labels, or that contradicts another, is never passed over in silence: the labels then cannot be used
until a person has chosen.
"""

import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from dr_lib.vocabulary import STAGES
from storage.files.text import decoded, shipped_toml
from storage.photos.layouts import EYEPACS, KAGGLES, Columns, Layout
from storage.photos.names import match_key, meanings
from storage.photos.types import Label, Photograph, Problem

LABEL_FILES = meanings("label_files")
SEPARATORS = (",", ";", "\t", "|", " ")
# What browsers and file managers add to the name of a second copy.
COPY_MARKS = re.compile(r"^copy of |( -)? copy(?=[ .])| ?\(\d+\)")
REASONS = shipped_toml("storage.photos", "reasons.toml")


def plain_name(name: str) -> str:
    """The name of a file in lower case, not as a zip or a second copy."""
    return COPY_MARKS.sub("", name.lower().removesuffix(".zip"))


def label_name(name: str) -> str | None:
    """Which of LABEL_FILES a file is by its name, zipped or a copy of one; None for any other file.

    >>> [label_name(name) for name in ("trainLabels.csv.zip", "TRAINLABELS (1).CSV", "labels.csv")]
    ['trainlabels.csv', 'trainlabels.csv', None]
    """
    plain = plain_name(name)
    return plain if plain in LABEL_FILES else None


class LabelFile(NamedTuple):
    """What one label file says: its path, which of LABEL_FILES it is, its labels, and what was
    set aside of it.
    """

    path: str
    name: str
    labels: list[Label]
    problems: list[Problem]
    layout: Layout = EYEPACS
    columns: Columns = KAGGLES

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
        line = (first.path or "").rpartition(":")[2]
        return f"none of its {len(self.problems):,} rows can be used (line {line}: {first.detail})"


def label_text(data: bytes) -> str:
    """The text of a table's bytes: UTF-8 or UTF-16, otherwise Windows' western encoding."""
    try:
        return decoded(data)
    except UnicodeDecodeError:
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            return data.decode("latin-1")  # has a letter for every byte


def read_labels(
    data: bytes,
    source: str,
    split_hint: str,
    layout: Layout = EYEPACS,
    columns: Columns = KAGGLES,
) -> tuple[list[Label], list[Problem]]:
    """The rows of one file, and what was wrong with the others.

    >>> read_labels(b"image,level\\n10_left,0\\n10_right,7\\n", "trainLabels.csv", "train")[1][
    ...     0
    ... ].detail
    "level '7' is not one of 0, 1, 2, 3, 4"
    """
    text = label_text(data)
    try:
        lines, header = (
            (_headless(text), [columns.image, columns.stage])
            if layout.headless
            else _table(text, columns)
        )
    except (ValueError, csv.Error) as error:
        return [], [Problem(source, None, "bad_labels_file", str(error))]
    problems, labels = [], {}
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
            found = _label(dict(zip(header, row, strict=True)), at, split_hint, layout, columns)
        else:
            detail = (
                f"{len(row)} fields where the first line has {len(header)}: {','.join(row)[:80]}"
            )
            found = Problem(at, None, "malformed_row", detail)
        key = match_key(found.image_id or "")
        if isinstance(found, Label) and key in labels:
            first = labels[key]
            detail = (
                f"line {first.source.rpartition(':')[2]} gave stage {first.stage} before this one's"
                f" {found.stage}"
            )
            found = Problem(at, found.image_id, "repeated_label", detail)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            labels[key] = found
    return list(labels.values()), problems


def _headless(text: str) -> Any:
    """The csv.reader of rows without a first line of names: a photograph, a space, a stage."""
    lines = ("\t".join(line.rsplit(maxsplit=1)) for line in text.splitlines())
    return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def headers(text: str) -> Iterator[tuple[Any, list[str]]]:
    """For each separator the csv.reader of the rows below the line that names the columns, and its
    names in lower case.
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
        try:
            yield lines, [column_key(name) for name in next(above, [])]
        except csv.Error:
            continue


def column_key(name: str) -> str:
    """A column's name as it is compared: without spaces around it, in lower case and one normal
    form.
    """
    return unicodedata.normalize("NFC", name.strip()).lower()


def _table(text: str, columns: Columns) -> tuple[Any, list[str]]:
    """The csv.reader of the rows below the line that names the columns, and its names in lower
    case. Raises ValueError where there is none.

    The separator is the one under which that line names both columns: no other can, since neither
    name contains one.
    """
    for lines, header in headers(text):
        if columns.are_in(header):
            if twice := [name for name in (columns.image, columns.stage) if header.count(name) > 1]:
                raise ValueError(f"its first line names the column {twice[0]} twice")
            return lines, header
    raise ValueError(f"its first line is {first_line(text)!r}" if text.strip() else "it is empty")


def first_line(text: str) -> str:
    """The first line of a text that has anything in it, shortened."""
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")


def _label(
    row: dict[str, str], at: str, split_hint: str, layout: Layout, columns: Columns
) -> Label | Problem:
    name = row[columns.image].strip()
    shown = f"{columns.image} {name[:80]!r}"
    path = name.replace("\\", "/")  # ids may be given as the photographs' paths
    if ".." in path.split("/"):
        detail = f"{shown} leads outside the data folder: expected {expected_name(layout)}"
        return Problem(at, None, "outside_folder", detail)
    # The split is the file's own: a name may repeat in the training and the testing set.
    image_id = layout.names.image_id(f"{split_hint}/{path}" if layout.names.split_in_id else path)
    if image_id is None:
        detail = f"{shown} names no eye: expected {expected_name(layout)}"
        return Problem(at, None, "wrong_name", detail)
    said = row[columns.stage].strip()
    shown = f"{columns.stage} {said[:20]!r}"
    if columns.gradable and _number(row.get(columns.gradable, "")) == 0:
        return Problem(at, image_id, "ungradable", f"{columns.gradable} is 0")
    stage = _number(said)
    if stage is None:
        return Problem(at, image_id, "malformed_row", f"{shown} is not a number")
    if stage in layout.ungradable:
        return Problem(at, image_id, "ungradable", f"{shown} means that it cannot be graded")
    if stage not in STAGES:
        return Problem(at, image_id, "stage_out_of_range", f"{shown} is not one of 0, 1, 2, 3, 4")
    return Label(image_id, int(stage), split_hint, row.get("usage", "").strip() or None, at)


def expected_table(columns: Columns) -> str:
    """What a label file should look like, in words."""
    return (
        f"expected a first line with the columns {columns.image} and {columns.stage}, and rows such"
        " as 10_left,0 with a stage from 0 to 4"
    )


def expected_name(layout: Layout) -> str:
    """What a photograph's name should be, in words."""
    if layout.names.required:
        return "<patient>_left or <patient>_right"
    return "a name without control characters, slashes or a dot at its front"


def _number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", "."))  # a spreadsheet's 0,0 is 0.0
    except ValueError:
        return None


def merged(files: Sequence[LabelFile]) -> list[Label]:
    """One label an image: the first file's, with the Usage that any of them gives."""
    found: dict[str, Label] = {}
    for label in itertools.chain.from_iterable(file.labels for file in files):
        first = found.get(label.image_id, label)
        found[label.image_id] = first._replace(usage=first.usage or label.usage)
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
    photographs: list[Photograph],
    labels: list[Label],
    problems: list[Problem],
    unlabelled: AbstractSet[str],
) -> list[Photograph]:
    """The photographs that have a label or whose split has none at all; the others, and labels
    left over, become problems. unlabelled: ids that have no label by design.
    """
    labelled = {label.image_id for label in labels}
    labelled_splits = {label.split_hint for label in labels}
    explained = {problem.image_id for problem in problems if problem.reason in REASONS["no_stage"]}
    kept = []
    for photo in photographs:
        if (
            photo.image_id in labelled
            or photo.image_id in unlabelled
            or not labelled_splits & {photo.split_hint, ""}
        ):
            kept.append(photo)
        elif photo.image_id not in explained:
            detail = "no row of the label files names it"
            problems.append(Problem(photo.path, photo.image_id, "no_label", detail))
    accounted = {photo.image_id for photo in photographs} | {p.image_id for p in problems}
    for split in sorted(labelled_splits):
        of_split = [label for label in labels if label.split_hint == split]
        alone = [label for label in of_split if label.image_id not in accounted]
        if alone == of_split and all(photo.split_hint != split for photo in photographs):
            file = alone[0].source.rpartition(":")[0]
            detail = f"none of its {len(alone)} images has a photograph here"
            problems.append(Problem(file, None, "no_photograph", detail))
        else:
            problems.extend(
                Problem(label.source, label.image_id, "no_photograph", "no photograph of this id")
                for label in alone
            )
    return kept
