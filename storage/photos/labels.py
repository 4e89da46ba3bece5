"""Kaggle's label files, row by row: a row that is wrong is set aside with its reason, the others
count.
"""

import csv
import io
from typing import TYPE_CHECKING, NamedTuple

from storage.ids import IMAGE_ID

if TYPE_CHECKING:
    from storage.photos.source import Photograph

# File name (lower case) → the split whose photographs it labels.
LABEL_FILES = {
    "trainlabels.csv": "train",
    "retinopathy_solution.csv": "test",
    "testlabels.csv": "test",
}
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
PHOTO_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")
# A photograph is a few megabytes; a file of more would fill the memory before anyone could look at
# it.
MAX_PHOTO_BYTES = 512 * 2**20


class Label(NamedTuple):
    """One row of a label file: the stage a person gave an image."""

    image_id: str
    stage: int
    split_hint: str
    usage: str | None
    source: str


class Problem(NamedTuple):
    """Something set aside: where it stood, whose it is (where known), a short code, and what was
    found.
    """

    source: str | None
    image_id: str | None
    reason: str
    detail: str


def canonical_id(name: str) -> str | None:
    """The image id that a name stands for, the eye in lower case; None for a name that is none.

    >>> canonical_id("10_LEFT"), canonical_id("10_left.jpeg"), canonical_id("../10_left")
    ('10_left', '10_left', None)
    """
    stem = name.strip()
    for suffix in PHOTO_SUFFIXES:
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
    patient, _, eye = stem.rpartition("_")
    found = f"{patient}_{eye.lower()}"
    return found if IMAGE_ID.match(found) else None


def read_labels(data: bytes, source: str, split_hint: str) -> tuple[list[Label], list[Problem]]:
    """The rows of one file, and what was wrong with the others.

    >>> read_labels(b"image,level\\n10_left,0\\n10_right,7\\n", "trainLabels.csv", "train")[1][
    ...     0
    ... ].detail
    "level '7' is not one of 0, 1, 2, 3, 4"
    """
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        header = [name.strip().lower() for name in next(lines, [])]
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(source, None, "bad_labels_file", f"not a CSV file: {error}")]
    if not {"image", "level"} <= set(header):
        detail = (
            "the first line must name the columns image and level, got"
            f" {', '.join(header)[:80] or 'nothing'}"
        )
        return [], [Problem(source, None, "bad_labels_file", detail)]
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


def _label(row: dict[str, str], at: str, split_hint: str) -> Label | Problem:
    name = row["image"]
    image_id = canonical_id(name)
    if image_id is None:
        outside = "/" in name or "\\" in name or ".." in name
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
    if not level.isdecimal():
        if level.removeprefix("-").isdecimal():
            return Problem(
                at,
                image_id,
                "stage_out_of_range",
                f"level {level[:20]!r} is not one of 0, 1, 2, 3, 4",
            )
        return Problem(at, image_id, "malformed_row", f"level {level[:20]!r} is not a number")
    if int(level) > 4:
        return Problem(
            at, image_id, "stage_out_of_range", f"level {level[:20]!r} is not one of 0, 1, 2, 3, 4"
        )
    return Label(image_id, int(level), split_hint, (row.get("usage") or "").strip() or None, at)


# A photograph whose label row was set aside needs no second row saying that it has no label.
_LABEL_FAULTS = {"stage_out_of_range", "malformed_row"}


def matched(
    photographs: "list[Photograph]", labels: list[Label], problems: list[Problem]
) -> "list[Photograph]":
    """The photographs that have a label or whose split has none at all; the others, and labels
    left over, become problems.
    """
    labelled = {label.image_id for label in labels}
    labelled_splits = {label.split_hint for label in labels}
    explained = {problem.image_id for problem in problems if problem.reason in _LABEL_FAULTS}
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
