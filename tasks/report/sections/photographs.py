"""The photographs: how many, before and after preprocessing, the flagged ones, and those set aside
with their reasons."""

from collections.abc import Sequence

import pandas as pd

from dr_lib.drawing.figures import fitted
from dr_lib.drawing.sheets import BeforeAfter, SetAside, before_after_sheet, set_aside_sheet
from dr_lib.formatting import counted, number, stage_text
from dr_lib.report.pictures import Folder
from dr_lib.report.section import (
    Content,
    Download,
    Grid,
    Heading,
    Missing,
    Pairs,
    Prose,
    Table,
    Text,
    bars,
    table,
    under,
)
from dr_lib.vocabulary import STAGES
from tasks.access.contact_sheets import flagged, flagged_text, samples, set_aside
from tasks.access.quality import eye_quality
from tasks.report.data import ReportData

PHOTO_PX = 240  # a photograph on the page


def content(data: ReportData, folder: Folder) -> Content:
    """Photographs found, set aside, and split; what preprocessing made of them."""
    read = (data.workspace, data.recipe)
    catalogue, rejects = data.workspace.photos(), data.workspace.rejects()
    here = catalogue[catalogue["present"]]
    if here.empty:
        words = "No photographs are in the catalogue yet."
        return Content(words, [Missing(words, "ingest"), *_aside(folder, rejects, ())])
    quality = eye_quality(*read)
    spread = quality.select_dtypes("floating").quantile([0.05, 0.5, 0.95]).T
    spread = spread.set_axis(["5 %", "median", "95 %"], axis=1).reset_index(names="measure")
    return Content(
        f"{counted(len(here), 'photograph')} of {counted(here['patient_id'].nunique(), 'patient')};"
        f" {number(len(rejects)) if len(rejects) else 'none'} set aside,"
        f" {number(int(quality['flagged'].sum()))} of low quality.",
        [
            Prose("splits"),
            by_split(here),
            Heading("Before and after preprocessing"),
            Prose("preprocessing"),
            *pairs(
                folder, "samples", samples(*read, data.photos), "Before and after preprocessing"
            ),
            Heading("Quality"),
            Text(flagged_text(*read)),
            *pairs(folder, "flagged", flagged(*read, data.photos), "Flagged eyes, the worst first"),
            table(spread, "What preprocessing measured", folded=True),
            *_aside(folder, rejects, set_aside(data.workspace, data.photos)),
        ],
    )


def by_split(photographs: pd.DataFrame) -> Table | None:
    """Splits by stages as a table, the largest split first, with sums."""
    names = {stage: stage_text(stage) for stage in STAGES}
    counts = pd.crosstab(photographs["split"], photographs["stage"].map(names).fillna("no label"))
    counts = counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False)
    return table(counts.reset_index(), "Photographs by split and stage")


def pairs(folder: Folder, place: str, samples: Sequence[BeforeAfter], words: str) -> list:
    """The pairs one by one, and their sheet; nothing without any."""
    if not samples:
        return []
    drawn = []
    for sample in samples:
        name = folder.name(place, sample.image_id)
        before = f"Photograph {sample.image_id}" + " with the disc found in it" * bool(sample.disc)
        after = f"Preprocessed fundus of {sample.image_id}"
        photo = folder.photo(f"{name}-photo", fitted(sample.circled, PHOTO_PX), before)
        fundus = folder.photo(f"{name}-fundus", sample.fundus, after)
        drawn.append((photo, fundus, sample.image_id, sample.notes))
    sheet = folder.photo(f"{place}-sheet", before_after_sheet(samples), words)
    return [Pairs(drawn), Download(sheet.src, f"{words}: contact sheet")]


def _aside(folder: Folder, rejects: pd.DataFrame, photographs: Sequence[SetAside]) -> list:
    pictures = [
        folder.photo(
            folder.name("set-aside", photograph.image_id),
            photograph.square(PHOTO_PX),
            f"{photograph.image_id}, set aside: {photograph.reason}",
            caption=photograph.reason,
            note=": ".join(filter(None, (photograph.image_id, photograph.detail))),
        )
        for photograph in photographs
    ]
    blocks: list = [bars(rejects["reason"].value_counts())]
    if pictures:
        words = "Photographs set aside, with their reasons"
        sheet = folder.photo("set-aside-sheet", set_aside_sheet(photographs), words)
        blocks += [Grid(pictures), Download(sheet.src, "Contact sheet")]
    rows = rejects[["reason", "image_id", "path", "detail"]]
    caption = "Each photograph set aside and its reason"
    return under("Set aside", *blocks, table(rows, caption, folded=True))
