"""Photographs and labels to the catalogue: what is there, whose it is, which split it belongs to, what was set aside.

The catalogue only grows: a photograph keeps its position for ever, since that is its row on every image axis. One that is
gone, or can no longer be used, stays as a row marked absent.
"""

import collections
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from dr_lib.photo import UnreadablePhoto, inspect
from dr_lib.splits import KAGGLE_USAGE, patient_of, split_of, split_of_usage
from storage import Workspace
from storage.source import Photograph, PhotoSource
from tasks.errors import UserError
from tasks.progress import progress
from tasks.session import Session, StageResult
from tasks.settings import DataParams

STEP = "ingest"
# Label rows that name no photograph say nothing about the photographs: a part of Kaggle's files comes with all its labels.
ABOUT_LABELS_ONLY = {"no_photograph", "repeated_label", "malformed_row", "stage_out_of_range", "bad_labels_file", "unknown_usage"}


def ingest(session: Session, data: DataParams) -> StageResult:
    """Brings the catalogue up to the data folder. Raises UserError if too many photographs had to be set aside."""
    workspace = session.workspace
    source = PhotoSource(data.photos)
    rejects = [{**problem._asdict(), "step": STEP} for problem in source.problems()]
    found = _limited(source.photographs(), data.limit)
    rows, unreadable = _inspected(source, found)
    rejects += unreadable
    labels = source.labels().set_index("image_id")
    rejects += [
        {
            "image_id": image_id,
            "source": label["source"],
            "step": STEP,
            "reason": "unknown_usage",
            "detail": f"Usage {label['usage']!r}",
        }
        for image_id, label in labels[labels["usage"].notna() & ~labels["usage"].isin(list(KAGGLE_USAGE))].iterrows()
    ]
    old = workspace.photos()
    frame = _catalogue(old, rows, labels, data)
    known = frame["image_id"].map(old.set_index("image_id")["sha256"])
    new = int((frame["present"] & (known != frame["sha256"])).sum())
    workspace.write_photos(frame)
    replace_rejects(workspace, STEP, pd.DataFrame(rejects, columns=["image_id", "source", "step", "reason", "detail"]))
    check_reject_fraction(workspace, data)
    present = int(frame["present"].sum())
    if not present:
        raise UserError(
            f"data.photos = {data.photos} holds no usable photograph; Kaggle's layout is train/<id>_left.jpeg beside trainLabels.csv"
        )
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in collections.Counter(row["reason"] for row in rejects).most_common()
    )
    patients = frame.loc[frame["present"], "patient_id"].nunique()
    return StageResult(
        STEP, present, new, f"{present:,} photographs of {patients:,} patients" + (f"; set aside: {reasons}" if reasons else "")
    )


def _limited(photographs: list[Photograph], limit: int) -> list[Photograph]:
    """Whole patients in natural order until `limit` photographs are reached."""
    if not limit or len(photographs) <= limit:
        return photographs
    last = patient_of(photographs[limit - 1].image_id)
    return [photo for index, photo in enumerate(photographs) if index < limit or patient_of(photo.image_id) == last]


def _inspected(source: PhotoSource, photographs: list[Photograph]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows for usable photographs, and rejects for those empty, unreadable, no image, or the copy of another."""
    rows, rejects, first_with = [], [], {}
    # Reading and hashing leave the interpreter's lock, so threads serve; a process each would only copy the bytes.
    with ThreadPoolExecutor(os.cpu_count()) as threads, progress(STEP, len(photographs), "photographs") as advance:
        for photo, (row, reason, detail) in zip(
            photographs, threads.map(lambda photo: _inspect(source, photo), photographs), strict=True
        ):
            advance(1)
            if reason is None and (first := first_with.setdefault(row["sha256"], photo.image_id)) != photo.image_id:
                reason, detail = "duplicate_content", f"the same file as {first}"
            if reason is None:
                rows.append(row)
            else:
                rejects.append(
                    {"image_id": photo.image_id, "source": photo.path, "step": STEP, "reason": reason, "detail": detail}
                )
    return rows, rejects


def _inspect(source: PhotoSource, photo: Photograph) -> tuple[dict[str, Any], str | None, str]:
    row = {"image_id": photo.image_id, "source": photo.path, "bytes": photo.bytes, "split_hint": photo.split_hint}
    try:
        content = source.read(photo.path)
        _, row["width_px"], row["height_px"] = inspect(content)
    except UnreadablePhoto as error:
        return row, error.reason, error.detail
    except OSError as error:
        return row, "unreadable", error.strerror or str(error)
    row["sha256"] = hashlib.sha256(content).hexdigest()
    return row, None, ""


def _catalogue(old: pd.DataFrame, rows: list[dict[str, Any]], labels: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """The old rows in their places, brought up to date, and the new ones behind them."""
    current = {row["image_id"]: row for row in rows}
    by_usage = labels["usage"].notna().any()
    places = old["image_id"].tolist()
    known = set(places)
    places += [image_id for image_id in current if image_id not in known]
    kept = old.set_index("image_id")
    records = []
    for position, image_id in enumerate(places):
        row = current.get(image_id)
        if row is None:
            records.append({**kept.loc[image_id].to_dict(), "image_id": image_id, "position": position, "present": False})
            continue
        label = labels.loc[image_id] if image_id in labels.index else None
        usage = label["usage"] if label is not None and isinstance(label["usage"], str) else None
        patient, eye = patient_of(image_id), image_id.rpartition("_")[2]
        records.append(
            {
                **{name: row[name] for name in ("source", "bytes", "width_px", "height_px", "sha256")},
                "position": position,
                "image_id": image_id,
                "patient_id": patient,
                "eye": eye,
                "stage": None if label is None else int(label["stage"]),
                "split": _split(patient, row["split_hint"], usage, by_usage, data),
                "usage": usage,
                "present": True,
            }
        )
    columns = [
        "position",
        "image_id",
        "patient_id",
        "eye",
        "stage",
        "split",
        "usage",
        "source",
        "bytes",
        "width_px",
        "height_px",
        "sha256",
        "present",
    ]
    frame = pd.DataFrame(records, columns=columns)
    frame["stage"] = frame["stage"].astype("Int8")
    return frame.astype({"present": bool})


def _split(patient: str, hint: str, usage: str | None, by_usage: bool, data: DataParams) -> str:
    """Kaggle's own division where its Usage column is given, else by the patient's hash, so that no patient is divided."""
    if usage in KAGGLE_USAGE:
        return split_of_usage(usage)
    if by_usage:
        return hint
    return split_of(patient, seed=data.split_seed, validation_fraction=data.validation_fraction, test_fraction=data.test_fraction)


def replace_rejects(workspace: Workspace, step: str, rejects: pd.DataFrame) -> None:
    """Puts a step's rejects in the place of those it left before; other steps' stay."""
    others = workspace.rejects()
    every = pd.concat([others[others["step"] != step], rejects.astype(object)], ignore_index=True)
    workspace.write_rejects(
        every.sort_values("step", kind="stable", ignore_index=True)
    )  # one order, so equal rows are equal bytes


def check_reject_fraction(workspace: Workspace, data: DataParams) -> None:
    """Raises UserError if more photographs were set aside than `data.max_reject_fraction` allows."""
    rejects = workspace.rejects()
    set_aside = len(rejects[~rejects["reason"].isin(ABOUT_LABELS_ONLY)])
    usable = int(workspace.photos()["present"].sum()) - int((rejects["step"] != STEP).sum())
    share = set_aside / max(set_aside + usable, 1)
    if share > data.max_reject_fraction:
        worst, count = collections.Counter(rejects["reason"]).most_common(1)[0]
        raise UserError(
            f"{share:.0%} of the photographs in {data.photos} were set aside, mostly {worst} ({count}); "
            f"look at `dr sql {workspace.location} 'from rejects'`, or raise data.max_reject_fraction (now {data.max_reject_fraction})"
        )
