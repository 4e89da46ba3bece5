"""Photographs and labels to the catalogue: what is there, whose it is, which split it belongs to,
what was set aside.

The catalogue only grows: a photograph keeps its position for ever, since that is its row on every
image axis. One that is gone, or can no longer be used, stays as a row marked absent.
"""

import collections
from collections.abc import Mapping

import pandas as pd

from dr_lib.training.splits import KAGGLE_USAGE, patient_of, split_of, split_of_usage
from storage.photos.types import Photograph
from tasks.access.data_folder import labelled_source
from tasks.access.rejects import check_label_fraction, check_reject_fraction, replace_rejects
from tasks.ingest.inspection import Finding, inspected, remembered
from tasks.run.artifacts import show_rejects
from tasks.run.errors import UserError
from tasks.run.session import Session, StepResult
from tasks.run.settings import DataParams

STEP = "ingest"
REJECT_COLUMNS = ["image_id", "source", "step", "reason", "detail", "bytes", "stamp", "sha256"]


def ingest(session: Session, data: DataParams, labels_needed: bool = True) -> StepResult:
    """Brings the catalogue up to the data folder.

    Raises UserError if too many photographs or labels had to be set aside, and, before any
    photograph is read, if the labels cannot be used. `labels_needed`: also if there are none.
    """
    workspace = session.workspace
    source = labelled_source(data.photos, labels_needed)
    old = workspace.photos()
    known = {} if data.rehash else remembered(old, workspace.rejects())
    usable, unusable = inspected(source, _limited(source.photographs(), data.limit), known, STEP)
    labels = source.labels()
    rejects = (
        [problem._asdict() for problem in source.problems()] + unusable + _unknown_usages(labels)
    )
    frame = _catalogue(old, usable, labels, data)
    if labels_needed:
        _check_teachers(frame, data)
    before = frame["image_id"].map(old.set_index("image_id")["sha256"])
    new = int((frame["present"] & (before != frame["sha256"])).sum())
    workspace.write_photos(frame)
    replace_rejects(
        workspace, STEP, pd.DataFrame(rejects, columns=REJECT_COLUMNS).assign(step=STEP)
    )
    show_rejects(workspace, STEP)
    check_reject_fraction(workspace, data)
    check_label_fraction(workspace, len(labels), data)
    present = int(frame["present"].sum())
    if not present:
        raise UserError(
            f"data.photos = {data.photos} holds no usable photograph; Kaggle's layout is"
            " train/<id>_left.jpeg beside trainLabels.csv"
        )
    reasons = ", ".join(
        f"{count} {reason}"
        for reason, count in collections.Counter(row["reason"] for row in rejects).most_common()
    )
    patients = frame.loc[frame["present"], "patient_id"].nunique()
    return StepResult(
        STEP,
        present,
        new,
        f"{present:,} photographs of {patients:,} patients"
        + (f"; set aside: {reasons}" if reasons else ""),
    )


def _check_teachers(frame: pd.DataFrame, data: DataParams) -> None:
    """Raises UserError if photographs are there to learn from and none of them has a label, as
    where only the test's are given.
    """
    teachers = frame[frame["present"] & (frame["split"] == "train")]
    if len(teachers) and teachers["stage"].isna().all():
        raise UserError(
            f"none of the {len(teachers):,} photographs to learn from in {data.photos} has a label;"
            f" add trainLabels.csv, or the rows of {teachers['image_id'].iloc[0]} and the others;"
            " no labels are needed for a model of dr import-model or training.model_id"
        )


def _limited(photographs: list[Photograph], limit: int) -> list[Photograph]:
    """Whole patients in natural order until `limit` photographs are reached."""
    if not limit or len(photographs) <= limit:
        return photographs
    last = patient_of(photographs[limit - 1].image_id)
    return [
        photo
        for index, photo in enumerate(photographs)
        if index < limit or patient_of(photo.image_id) == last
    ]


def _unknown_usages(labels: pd.DataFrame) -> list[dict[str, str]]:
    odd = labels[labels["usage"].notna() & ~labels["usage"].isin(list(KAGGLE_USAGE))]
    return [
        {
            "image_id": label.image_id,
            "source": label.source,
            "reason": "unknown_usage",
            "detail": f"Usage {label.usage!r}",
        }
        for label in odd.itertuples(index=False)
    ]


def _catalogue(
    old: pd.DataFrame,
    usable: Mapping[str, tuple[Photograph, Finding]],
    labels: pd.DataFrame,
    data: DataParams,
) -> pd.DataFrame:
    """The old rows in their places, brought up to date, and the new ones behind them."""
    label_of = {label.image_id: label for label in labels.itertuples(index=False)}
    by_usage = labels["usage"].notna().any()
    columns = list(old.columns)

    def row(position: int, photo: Photograph, finding: Finding) -> tuple:
        label = label_of.get(photo.image_id)
        usage = label.usage if label is not None and isinstance(label.usage, str) else None
        patient = patient_of(photo.image_id)
        values = {
            "position": position,
            "image_id": photo.image_id,
            "patient_id": patient,
            "eye": photo.image_id.rpartition("_")[2],
            "stage": None if label is None else int(label.stage),
            "split": _split(patient, photo.split_hint, usage, by_usage, data),
            "usage": usage,
            "source": photo.path,
            "bytes": photo.bytes,
            "width_px": finding.width_px,
            "height_px": finding.height_px,
            "sha256": finding.sha256,
            "stamp": photo.stamp,
            "present": True,
        }
        return tuple(values[name] for name in columns)

    rows = [
        (
            row(before.position, *usable[before.image_id])
            if before.image_id in usable
            else before._replace(present=False)
        )
        for before in old.itertuples(index=False)
    ]
    known = set(old["image_id"])
    for image_id, found in usable.items():
        if image_id not in known:
            rows.append(row(len(rows), *found))
    frame = pd.DataFrame(rows, columns=columns)
    frame["stage"] = frame["stage"].astype("Int8")
    return frame.astype({"present": bool})


def _split(patient: str, hint: str, usage: str | None, by_usage: bool, data: DataParams) -> str:
    """Kaggle's own division where its Usage column is given, else by the patient's hash, so that
    no patient is divided.
    """
    if usage in KAGGLE_USAGE:
        return split_of_usage(usage)
    if by_usage:
        return hint
    return split_of(
        patient,
        seed=data.split_seed,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
    )
