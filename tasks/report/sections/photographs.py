"""The photographs: how many, before and after preprocessing, the flagged ones, and those set aside
with their reasons."""

from collections.abc import Sequence

import pandas as pd

from dr_lib.drawing.figures import fitted
from dr_lib.drawing.sheets import BeforeAfter, before_after_sheet, set_aside_sheet
from dr_lib.formatting import stage_text
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Pair, Pairs
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
    found = {"here": here, "rejects": rejects}
    if here.empty:
        return Content(found | {"aside": []})
    aside, quality = set_aside(data.workspace, data.photos), eye_quality(*read)
    spread = quality.select_dtypes("floating").quantile([0.05, 0.5, 0.95]).T
    return Content(
        found
        | {
            "by_split": by_split(here),
            "samples": pairs(folder, "samples", samples(*read, data.photos)),
            "flagged": quality["flagged"].sum(),
            "flagged_text": flagged_text(*read),
            "worst": pairs(folder, "flagged", flagged(*read, data.photos)),
            "measures": spread.set_axis(["5 %", "median", "95 %"], axis=1).reset_index(
                names="measure"
            ),
            "aside": [
                folder.photo(
                    folder.name("set-aside", photograph.image_id),
                    photograph.square(PHOTO_PX),
                    f"{photograph.image_id}, set aside: {photograph.reason}",
                    caption=photograph.reason,
                    note=": ".join(filter(None, (photograph.image_id, photograph.detail))),
                )
                for photograph in aside
            ],
            "aside_sheet": aside
            and folder.photo(
                "set-aside-sheet",
                set_aside_sheet(aside),
                "Photographs set aside, with their reasons",
            ),
        }
    )


def by_split(photographs: pd.DataFrame) -> pd.DataFrame:
    """Splits by stages, the largest split first, with sums."""
    names = {stage: stage_text(stage) for stage in STAGES}
    counts = pd.crosstab(photographs["split"], photographs["stage"].map(names).fillna("no label"))
    counts = counts.assign(all=counts.sum(axis=1)).sort_values("all", ascending=False)
    return counts.reset_index()


def pairs(folder: Folder, place: str, samples: Sequence[BeforeAfter]) -> Pairs | None:
    """The pairs one by one, and their sheet; None without any."""
    if not samples:
        return None
    drawn = []
    for sample in samples:
        name = folder.name(place, sample.image_id)
        before = f"Photograph {sample.image_id}" + " with the disc found in it" * bool(sample.disc)
        after = f"Preprocessed fundus of {sample.image_id}"
        photo = folder.photo(f"{name}-photo", fitted(sample.circled, PHOTO_PX), before)
        fundus = folder.photo(f"{name}-fundus", sample.fundus, after)
        drawn.append(Pair(photo, fundus, sample.image_id, sample.notes))
    sheet = folder.photo(f"{place}-sheet", before_after_sheet(samples), f"Contact sheet, {place}")
    return Pairs(drawn, sheet)
