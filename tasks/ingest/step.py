"""Photographs and labels to the catalogue: what is there, whose it is, which split it belongs to,
what was set aside.

The catalogue only grows: a photograph keeps its position for ever, since that is its row on every
image axis. One that is gone, or can no longer be used, stays as a row marked absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from dr_lib.training.splits import KAGGLE_USAGE, split_of
from storage.photos.sources import PhotoSources
from storage.photos.types import Photograph
from tasks.access.rejects import (
    check_label_fraction,
    check_reject_fraction,
    reason_counts,
    replace_rejects,
)
from tasks.access.sources import labelled_sources, shown_rows, source_rows
from tasks.ingest.copies import Kin, kin_of
from tasks.ingest.inspection import Finding, inspected, remembered, rows_of
from tasks.run.artifacts import show_rejects
from tasks.run.errors import UserError
from tasks.run.session import Session, StepResult
from tasks.run.settings import DataParams

STEP = "ingest"
REJECT_COLUMNS = ["image_id", "path", "step", "reason", "detail", "bytes", "stamp", "sha256"]


def ingest(session: Session, data: DataParams, labels_needed: bool = True) -> StepResult:
    """Brings the catalogue up to the sources.

    Raises UserError if too many photographs or labels had to be set aside, and, before any
    photograph is read, if the labels cannot be used or known photographs would get other ids.
    `labels_needed`: also if there are no labels.
    """
    workspace = session.workspace
    sources = labelled_sources(data.every_source, labels_needed)
    old, look = workspace.photos(), sources.needs_copies
    known = {} if data.rehash else remembered(old, workspace.rejects(), look)
    chosen = _chosen(sources, data.limit)
    _check_names(old, chosen)
    found = inspected(sources, chosen, known, look)
    kin = kin_of(found.usable, found.second_copies, old)
    labels = sources.labels()
    rejects = (
        [problem._asdict() for problem in sources.problems()]
        + found.rejects
        + _unknown_usages(labels)
    )
    frame = _catalogue(old, found.usable, kin, labels, data)
    if labels_needed:
        _check_teachers(frame, data)
    before = frame["image_id"].map(old.set_index("image_id")["sha256"])
    new = int((frame["present"] & (before != frame["sha256"])).sum())
    workspace.write_table("photos", frame)
    set_aside = pd.DataFrame(rejects, columns=REJECT_COLUMNS).assign(step=STEP)
    set_aside["source"] = set_aside["path"].map(sources.name_of)
    replace_rejects(workspace, STEP, set_aside)
    rows = source_rows(sources, frame[frame["present"]], set_aside, looked_at=look)
    workspace.write_table("sources", pd.DataFrame(rows))
    show_rejects(workspace, STEP)
    check_reject_fraction(workspace, data)
    check_label_fraction(workspace, len(labels), data)
    present = int(frame["present"].sum())
    if not present:
        raise UserError(
            f"data.photos = {data.places} holds no usable photograph; docs/data.md shows the"
            " layouts that are known, such as train/<id>_left.jpeg beside trainLabels.csv"
        )
    reasons = reason_counts(row["reason"] for row in rejects)
    patients = frame.loc[frame["present"], "patient_id"].nunique()
    return StepResult(
        STEP,
        present,
        new,
        f"{present:,} photographs of {patients:,} patients"
        + (f"; set aside: {reasons}" if reasons else ""),
        table=shown_rows(rows),
    )


def _check_names(old: pd.DataFrame, photographs: Sequence[Photograph]) -> None:
    """Raises UserError where photographs of the catalogue would come back under other ids, as when
    a second source is added: everything made of them would be made once more.
    """
    ids, known = {photo.image_id for photo in photographs}, set(old["image_id"])
    new = {
        (photo.path.removeprefix(f"{photo.source}/"), photo.bytes, photo.stamp): photo.image_id
        for photo in photographs
        if photo.image_id not in known
    }
    renamed = {}
    for row in rows_of(old[old["present"] & ~old["image_id"].isin(list(ids))]):
        look = row.path.removeprefix(f"{row.source}/"), row.bytes, row.stamp
        if look in new:
            renamed[row.image_id] = new[look]
    if renamed:
        before, after = next(iter(renamed.items()))
        raise UserError(
            f"{len(renamed):,} photographs would get other ids, such as {after} in place of"
            f" {before}, and all that was made of them would be made once more: ids begin with the"
            ' source\'s name where there are several, and with folders where ids = "path"; give'
            " another workspace to these sources, or the former sources to this one"
        )


def _check_teachers(frame: pd.DataFrame, data: DataParams) -> None:
    """Raises UserError if photographs are there to learn from and none of them has a label, as
    where only the test's are given.
    """
    teachers = frame[frame["present"] & (frame["split"] == "train")]
    if len(teachers) and teachers["stage"].isna().all():
        raise UserError(
            f"none of the {len(teachers):,} photographs to learn from in {data.places} has a label;"
            f" add trainLabels.csv, or the rows of {teachers['image_id'].iloc[0]} and the others;"
            " no labels are needed for a model of dr import-model or training.model_id"
        )


def _chosen(sources: PhotoSources, limit: int) -> list[Photograph]:
    """The photographs to read, external sources first: of two equal files the external one counts.
    With a limit, of each source whole patients in natural order until it is reached.
    """
    every = sorted(sources.photographs(), key=lambda photo: photo.use != "external")
    taken: dict[str, list[Photograph]] = {}
    for photo in every:
        there = taken.setdefault(photo.source, [])
        fellow = bool(there) and photo.patient is not None and there[-1].patient == photo.patient
        if not limit or len(there) < limit or fellow:
            there.append(photo)
    return [photo for there in taken.values() for photo in there]


def _unknown_usages(labels: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "image_id": label.image_id,
            "path": label.source,
            "reason": "unknown_usage",
            "detail": f"Usage {label.usage!r}",
        }
        for label in rows_of(labels)
        if label.usage and label.usage not in KAGGLE_USAGE
    ]


def _catalogue(
    old: pd.DataFrame,
    usable: Mapping[str, tuple[Photograph, Finding]],
    kin: Mapping[str, Kin],
    labels: pd.DataFrame,
    data: DataParams,
) -> pd.DataFrame:
    """The old rows in their places, brought up to date, and the new ones behind them."""
    label_of = {label.image_id: label for label in rows_of(labels)}
    by_usage = {
        photo.source
        for image_id, (photo, _) in usable.items()
        if image_id in label_of and label_of[image_id].usage
    }
    position_of = dict(zip(old["image_id"], old["position"], strict=True))
    rows = []
    for image_id, (photo, finding) in usable.items():
        label, belongs = label_of.get(image_id), kin[image_id]
        usage = label.usage if label else None
        rows.append(
            photo._asdict()
            | finding._asdict()
            | asdict(belongs)
            | {
                "position": position_of.setdefault(image_id, len(position_of)),
                "source": photo.source or None,
                "eye": photo.eye or finding.side,
                "stage": label.stage if label else None,
                "split": _split(photo, belongs, usage, photo.source in by_usage, data),
                "usage": usage,
                "present": True,
            }
        )
    gone = old[~old["image_id"].isin(list(usable))].assign(present=False)
    frame = pd.concat([gone.astype(object), pd.DataFrame(rows, columns=old.columns, dtype=object)])
    frame = frame.astype({"position": int, "stage": "Int8", "present": bool})
    return frame.sort_values("position", ignore_index=True)


def _split(
    photo: Photograph, belongs: Kin, usage: str | None, by_usage: bool, data: DataParams
) -> str:
    """Kaggle's own division where its Usage column is given, else by the patient's hash, so that
    no patient is divided; external eyes and what belongs to them stay apart.
    """
    if photo.use == "external":
        return "external"
    if belongs.excluded:
        return "excluded"
    if usage in KAGGLE_USAGE:
        return KAGGLE_USAGE[usage]
    if by_usage:
        return photo.split_hint
    return split_of(
        belongs.patient_id,
        seed=data.split_seed,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
    )
