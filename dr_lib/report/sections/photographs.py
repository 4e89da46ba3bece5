"""The section of data and quality: photographs before and after, the flagged ones, and those set
aside with their reasons.

The contact sheets are drawn for the report and for Prefect's page alike.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from dr_lib.drawing import figures, plots
from dr_lib.drawing.sheets import Tile, circled, contact_sheet, placard
from dr_lib.report.data import BeforeAfter, DataSection, SetAside
from dr_lib.report.pictures import Folder, Picture, Table, table
from dr_lib.report.section import Section
from dr_lib.report.words import label, records, slugs

PHOTO_PX = 240  # a photograph on the page
SHEET_PX, SHEET_LINE = 280, 30  # one set aside, on its sheet, and the letters below it


def before_after_sheet(samples: Sequence[BeforeAfter]) -> UInt8[np.ndarray, "y x 3"]:
    """A contact sheet of pairs: the photograph with its disc drawn, and the normalised fundus."""
    return contact_sheet(
        [Tile((_photo(one), one.fundus), one.image_id, one.notes) for one in samples], columns=3
    )


def set_aside_sheet(photographs: Sequence[SetAside]) -> UInt8[np.ndarray, "y x 3"]:
    """A contact sheet of photographs set aside, each with its reason; a placard where nothing
    can be decoded.
    """
    tiles = [
        Tile(
            (placard(label(one.reason), PHOTO_PX) if one.photo is None else one.photo,),
            label(one.reason),
            (one.image_id, *textwrap.wrap(one.detail, SHEET_LINE, max_lines=2, placeholder=" …")),
        )
        for one in photographs
    ]
    return contact_sheet(tiles, columns=4, size=SHEET_PX)


def _photo(one: BeforeAfter) -> UInt8[np.ndarray, "y x 3"]:
    return (
        one.photo if one.disc is None else circled(one.photo, *(float(value) for value in one.disc))
    )


def view(folder: Folder, data: DataSection) -> SimpleNamespace:
    """What the page shows of the photographs; their pictures are drawn into the folder."""
    rejects = records(data.rejects)
    counted = Counter(str(row.get("reason", "unknown")) for row in rejects).most_common()
    return SimpleNamespace(
        data=data,
        splits=_pivot(records(data.split_stage)),
        reasons=[
            SimpleNamespace(name=label(name), count=count, share=100 * count / counted[0][1])
            for name, count in counted
        ],
        rejects=table(rejects),
        rejected=len(rejects),
        quality=table(records(data.quality)),
        samples=_pairs(folder, "samples", data.samples),
        flagged=_pairs(folder, "flagged", data.flagged),
        set_aside=_set_aside(folder, data.set_aside),
    )


def _pairs(folder: Folder, place: str, samples: Sequence[BeforeAfter]) -> SimpleNamespace | None:
    """The pairs one by one, and their sheet; None without any."""
    if not samples:
        return None
    pairs = []
    for name, one in zip(slugs(one.image_id for one in samples), samples, strict=True):
        photo = figures.fitted(_photo(one), PHOTO_PX)
        drawn = " with the disc found in it" if one.disc is not None else ""
        before = folder.photo(f"{place}/{name}-photo", photo, f"Photograph {one.image_id}{drawn}")
        after = folder.photo(
            f"{place}/{name}-fundus", one.fundus, f"Preprocessed fundus of {one.image_id}"
        )
        pairs.append(
            SimpleNamespace(image_id=one.image_id, notes=one.notes, before=before, after=after)
        )
    sheet = folder.photo(
        f"{place}-sheet", before_after_sheet(samples), "Photographs before and after preprocessing"
    )
    return SimpleNamespace(pairs=pairs, sheet=sheet)


def _set_aside(folder: Folder, photographs: Sequence[SetAside]) -> SimpleNamespace | None:
    if not photographs:
        return None
    shown = []
    for name, one in zip(slugs(one.image_id for one in photographs), photographs, strict=True):
        reason = label(one.reason)
        pixels = (
            placard(reason, PHOTO_PX) if one.photo is None else figures.fitted(one.photo, PHOTO_PX)
        )
        alt = (
            f"Photograph {one.image_id}, set aside: {reason}"
            if one.photo is not None
            else f"{one.image_id}: {reason}"
        )
        shown.append(
            _captioned(folder.photo(f"set-aside/{name}", pixels, alt, caption=reason), one)
        )
    sheet = folder.photo(
        "set-aside-sheet", set_aside_sheet(photographs), "Photographs set aside, with their reasons"
    )
    return SimpleNamespace(photographs=shown, sheet=sheet)


def _captioned(picture: Picture, one: SetAside) -> SimpleNamespace:
    return SimpleNamespace(picture=picture, image_id=one.image_id, detail=one.detail)


def _pivot(rows: list[Mapping[str, object]]) -> Table | None:
    """Splits by stages as a table, the largest split first, with sums."""
    if not rows:
        return None
    names = {stage: f"{stage} {name}" for stage, name in enumerate(plots.STAGE_NAMES)}
    named = pd.DataFrame([{**row, "stage": names.get(row["stage"], "no label")} for row in rows])
    frame = named.pivot_table(
        index="split", columns="stage", values="count", aggfunc="sum", fill_value=0
    )
    frame = frame.assign(all=frame.sum(axis=1)).sort_values("all", ascending=False)
    cells = [
        {"split": split, **{name: int(count) for name, count in row.items()}}
        for split, row in frame.iterrows()
    ]
    return table(cells)


SECTION = Section("data", "Data", DataSection, view)
