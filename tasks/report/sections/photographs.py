"""The photographs: how many, before and after preprocessing, the flagged ones, and those set aside
with their reasons."""

from collections.abc import Sequence

import pandas as pd

from dr_lib.drawing.figures import fitted
from dr_lib.drawing.sheets import BeforeAfter, SetAside, before_after_sheet, set_aside_sheet
from dr_lib.report import Folder
from dr_lib.report.section import (
    Bars,
    Content,
    Download,
    Grid,
    Heading,
    Missing,
    Pairs,
    Table,
    Text,
    table,
)
from dr_lib.report.words import label, number, slugs
from dr_lib.vocabulary import STAGE_NAMES
from tasks.access.contact_sheets import flagged, flagged_text, samples, set_aside
from tasks.access.quality import eye_quality
from tasks.report.data import Shown

PHOTO_PX = 240  # a photograph on the page


def content(shown: Shown, folder: Folder) -> Content:
    """Photographs found, set aside, and split; what preprocessing made of them."""
    workspace, recipe, photos = shown.workspace, shown.recipe, shown.photos
    catalogue, rejects, quality = (
        workspace.photos(),
        workspace.rejects(),
        eye_quality(workspace, recipe),
    )
    here = catalogue[catalogue["present"]]
    if here.empty:
        words = "No photographs are in the catalogue yet."
        return Content(
            words,
            [
                Missing(f"{words} They are read by", "dr ingest CONFIG.toml"),
                *_aside(folder, rejects, ()),
            ],
        )
    return Content(
        f"{number(len(here))} photographs of {number(here['patient_id'].nunique())} patients;"
        f" {number(len(rejects)) if len(rejects) else 'none'} set aside,"
        f" {number(int(quality['flagged'].sum()))} of low quality.",
        [
            Text("Both eyes of a patient are in the same split."),
            by_split(here),
            Heading("Before and after preprocessing"),
            Text(
                "The retina is found (the circle), scaled to a fixed diameter, and its local tone"
                " removed: every camera ends in the same style."
            ),
            *pairs(
                folder,
                "samples",
                samples(workspace, recipe, photos),
                "Before and after preprocessing",
            ),
            Heading("Quality"),
            Text(flagged_text(workspace, recipe)),
            *pairs(
                folder,
                "flagged",
                flagged(workspace, recipe, photos),
                "Flagged eyes, the worst first",
            ),
            table(_measures(quality), "What preprocessing measured", folded=True),
            *_aside(folder, rejects, set_aside(workspace, photos)),
        ],
    )


def by_split(photographs: pd.DataFrame) -> Table | None:
    """Splits by stages as a table, the largest split first, with sums."""
    names = {stage: f"{stage} {name}" for stage, name in enumerate(STAGE_NAMES)}
    counts = pd.crosstab(photographs["split"], photographs["stage"].map(names).fillna("no label"))
    counts = counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False).reset_index()
    return table(counts, "Photographs by split and stage")


def _measures(quality: pd.DataFrame) -> list[dict]:
    """How each measure is spread over the eyes."""
    spread = quality.select_dtypes("floating").quantile([0.05, 0.5, 0.95])
    return [
        {"measure": name, **dict(zip(("5 %", "median", "95 %"), spread[name], strict=True))}
        for name in spread
    ]


def pairs(folder: Folder, place: str, shown: Sequence[BeforeAfter], words: str) -> list:
    """The pairs one by one, and their sheet; nothing without any."""
    if not shown:
        return []
    drawn = []
    for name, one in zip(slugs(one.image_id for one in shown), shown, strict=True):
        found = " with the disc found in it" if one.disc is not None else ""
        before = folder.photo(
            f"{place}/{name}-photo",
            fitted(one.circled, PHOTO_PX),
            f"Photograph {one.image_id}{found}",
        )
        after = folder.photo(
            f"{place}/{name}-fundus", one.fundus, f"Preprocessed fundus of {one.image_id}"
        )
        drawn.append((before, after, one.image_id, one.notes))
    sheet = folder.photo(f"{place}-sheet", before_after_sheet(shown), words)
    return [Pairs(drawn), Download(sheet.src, f"{words}: contact sheet")]


def _aside(folder: Folder, rejects: pd.DataFrame, photographs: Sequence[SetAside]) -> list:
    if rejects.empty:
        return []
    counts = rejects["reason"].value_counts()
    blocks: list = [Heading("Set aside")]
    blocks.append(
        Bars(
            [
                (label(name), number(count), 100 * count / counts.max())
                for name, count in counts.items()
            ]
        )
    )
    if photographs:
        pictures = [
            folder.photo(
                f"set-aside/{name}",
                one.square(PHOTO_PX),
                f"{one.image_id}, set aside: {one.reason}",
                caption=one.reason,
                note=f"{one.image_id}: {one.detail}" if one.detail else one.image_id,
            )
            for name, one in zip(
                slugs(one.image_id for one in photographs), photographs, strict=True
            )
        ]
        sheet = folder.photo(
            "set-aside-sheet",
            set_aside_sheet(photographs),
            "Photographs set aside, with their reasons",
        )
        blocks += [Grid(pictures), Download(sheet.src, "Contact sheet")]
    rows = rejects[["reason", "image_id", "path", "detail"]]
    return [*blocks, table(rows, "Each photograph set aside and its reason", folded=True)]
