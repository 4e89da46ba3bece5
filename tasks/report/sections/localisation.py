"""Localisation: how well maps find lesions, where there are masks, and the regions they consist
of."""

import pandas as pd

from dr_lib.drawing import plots
from dr_lib.formatting import counted, number, with_interval
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Plots, Prose, nothing, table
from tasks.access.map_scores import pixel_aucs
from tasks.report.data import ReportData


def content(data: ReportData, folder: Folder) -> Content:
    """Pixel AUCs by map, and the regions by sign."""
    regions = data.rows("lesion_regions")
    scores = pixel_aucs(data.workspace, data.ids.model_id, data.ids.explain_id)
    if regions.empty and scores.empty:
        return nothing("No lesion regions are measured yet.", "aggregate")
    rows = table(by_source(regions), "Lesion regions", limit=60)
    if scores.empty:
        return Content(
            f"{counted(len(regions), 'region')} measured; there are no lesion masks to compare them"
            " with.",
            [rows],
        )
    best = scores.iloc[0]
    drawn = plots.bars(scores.set_index("map"), x_label="Pixel AUC", reference=0.5)
    alt = f"Pixel AUC by map; the highest is {best['map']} with {number(best['value'])}"
    picture = folder.plot("localisation", drawn, alt, caption="Pixel AUC by map")
    return Content(
        f"In {counted(int(best['images']), 'eye')} with lesion masks the map “{best['map']}” finds"
        f" lesions best: pixel AUC {with_interval(best['value'], best['low'], best['high'])}.",
        [Prose("localisation"), Plots([picture], wide=True), rows],
    )


def by_source(regions: pd.DataFrame) -> pd.DataFrame:
    """How many regions each source has of each sign, how large they are and how far from the
    centre."""
    groups = regions.groupby(["source", "quantity", "sign"])
    return groups.agg(
        regions=("area_px", "size"),
        median_area_px=("area_px", "median"),
        median_radius_share=("radius_share", "median"),
    ).reset_index()
