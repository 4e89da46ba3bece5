"""Labels and photographs side by side: what several label files say together, where they disagree,
and who has no label.
"""

import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from storage.photos.labels import NO_STAGE, LabelFile
from storage.photos.types import Label, Photograph, Problem


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
    photographs: list[Photograph],
    labels: list[Label],
    problems: list[Problem],
    unlabelled: AbstractSet[str] = frozenset(),
) -> list[Photograph]:
    """The photographs that have a label or whose split has none at all; the others, and labels
    left over, become problems. unlabelled: ids that have no label by design.
    """
    labelled = {label.image_id for label in labels}
    labelled_splits = {label.split_hint for label in labels}
    explained = {problem.image_id for problem in problems if problem.reason in NO_STAGE}
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
