"""Localisation: how well maps find lesions, where there are masks, and the regions they consist
of."""

import pandas as pd

from dr_lib.drawing import plots
from dr_lib.formatting import number, with_interval
from dr_lib.report import Folder
from dr_lib.report.section import Content, Plots, Text, nothing, table
from tasks.access.map_scores import pixel_aucs
from tasks.report.data import Shown


def content(shown: Shown, folder: Folder) -> Content:
    """Pixel AUCs by map, and the regions by sign."""
    regions = shown.workspace.frame("lesion_regions", explain_id=shown.explain_id)
    scores = pixel_aucs(shown.workspace, shown.model_id, shown.explain_id)
    if regions.empty and scores.empty:
        made = "They are found, and compared with masks where there are any, by"
        return nothing("No lesion regions are measured yet.", made, "dr aggregate CONFIG.toml")
    rows = table(by_source(regions), "Lesion regions", limit=60)
    if scores.empty:
        return Content(
            f"{number(len(regions))} regions are measured; there are no lesion masks to compare"
            " them with.",
            [rows],
        )
    best = scores.iloc[0]
    finding = (
        f"In {number(int(best['images']))} eyes with lesion masks the map “{best['map']}” finds"
        f" lesions best: pixel AUC {with_interval(best['value'], best['low'], best['high'])}."
    )
    drawn = plots.bars(
        scores["map"].tolist(),
        *(scores[name].to_numpy(float) for name in ("value", "low", "high")),
        x_label="Pixel AUC",
        reference=0.5,
    )
    alt = f"Pixel AUC by map; the highest is {best['map']} with {number(best['value'])}"
    picture = folder.plot("localisation", drawn, alt, caption="Pixel AUC by map")
    words = (
        "Against the lesion masks of explained eyes, each map beside simple baseline maps; 0.5 is"
        " chance."
    )
    return Content(finding, [Text(words), Plots([picture], wide=True), rows])


def by_source(regions: pd.DataFrame) -> pd.DataFrame:
    """How many regions each source has of each sign, how large they are and how far from the
    centre."""
    named = {
        "regions": ("area_px", "size"),
        "median_area_px": ("area_px", "median"),
        "median_radius_share": ("radius_share", "median"),
    }
    return (
        regions.groupby(["source", "quantity", "sign"]).agg(**named).reset_index()
        if len(regions)
        else regions
    )
