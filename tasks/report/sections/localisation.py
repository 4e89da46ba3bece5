"""Localisation: how well maps find lesions, where there are masks, and the regions they consist
of."""

import pandas as pd

from dr_lib.drawing import plots
from dr_lib.formatting import number
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content
from tasks.access.map_scores import pixel_aucs
from tasks.report.data import ReportData


def content(data: ReportData, folder: Folder) -> Content:
    """Pixel AUCs by map, and the regions by sign."""
    regions = data.rows("lesion_regions")
    scores = pixel_aucs(data.workspace, data.ids.model_id, data.ids.explain_id)
    return Content(
        {
            "regions": len(regions),
            "by_source": by_source(regions),
            "scores": scores,
            "plots": [] if scores.empty else [_aucs(folder, scores)],
        }
    )


def _aucs(folder: Folder, scores: pd.DataFrame) -> Picture:
    best, words = scores.iloc[0], "Pixel AUC by map"
    drawn = plots.bars(scores.set_index("map"), x_label="Pixel AUC", reference=0.5)
    alt = f"{words}; the highest is {best['map']} with {number(best['value'])}"
    return folder.plot("localisation", drawn, alt, caption=words)


def by_source(regions: pd.DataFrame) -> pd.DataFrame:
    """How many regions each source has of each sign, how large they are and how far from the
    centre."""
    groups = regions.groupby(["source", "quantity", "sign"])
    return groups.agg(
        regions=("area_px", "size"),
        median_area_px=("area_px", "median"),
        median_radius_share=("radius_share", "median"),
    ).reset_index()
