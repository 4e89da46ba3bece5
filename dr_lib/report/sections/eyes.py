"""Explained eyes: how many, how exact, and a few of them; all are in the gallery, a page of its
own.
"""

from types import SimpleNamespace

import pandas as pd

from dr_lib.report.data import GallerySection
from dr_lib.report.eyes import THUMB_PX
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from dr_lib.report.words import number, percent

SHOWN = 10


def view(folder: Folder, part: GallerySection) -> SimpleNamespace:
    eyes = part.eyes
    if eyes is None or eyes.empty:
        return SimpleNamespace(shown=[], counts=[], note=part.note, layer="")
    known = eyes[eyes["stage"].notna()]
    right = int((known["stage"] == known["predicted"]).sum())
    counts = [
        ("Explained", number(len(eyes))),
        ("Graded right", f"{number(right)} of {number(len(known))}"),
    ]
    gaps = eyes["gap"].dropna() if "gap" in eyes else ()
    if len(gaps):
        counts.append(("Completeness gap, median", percent(float(gaps.median()), 1)))
        counts.append(("Completeness gap, 95 % below", percent(float(gaps.quantile(0.95)), 1)))
    shown = [
        SimpleNamespace(
            key=row.key,
            image_id=row.image_id,
            stage=None if pd.isna(row.stage) else int(row.stage),
            predicted=int(row.predicted),
            wrong=bool(pd.notna(row.stage) and row.stage != row.predicted),
            width=4 * THUMB_PX,
            height=THUMB_PX,
        )
        for row in chosen(eyes, SHOWN).itertuples()
    ]
    return SimpleNamespace(
        shown=shown, counts=counts, note=part.note, layer=part.layers[0] if part.layers else ""
    )


def chosen(eyes: pd.DataFrame, count: int) -> pd.DataFrame:
    """Some eyes of every stage, the stages taking turns; the most severe first within a turn."""
    turn = eyes.groupby("stage", dropna=False).cumcount()
    order = eyes.assign(turn=turn).sort_values(
        ["turn", "stage"], ascending=[True, False], kind="stable"
    )
    return order[:count].sort_values("stage", ascending=False, kind="stable")


SECTION = Section("eyes", "Explained eyes", GallerySection, view)
