"""The audit: which maps survive which test, and the eyes that were decided in an unusual way for
their stage."""

import numpy as np
import pandas as pd

from dr_lib.drawing import plots
from dr_lib.evaluation.unusual_eyes import unusual_distances
from dr_lib.formatting import stage_text
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content
from tasks.access.map_scores import audit_rows
from tasks.access.stores import whole
from tasks.report.data import ReportData

LISTED = 10


def content(data: ReportData, folder: Folder) -> Content:
    """The measures of the audit, test by test, and the most unusual eyes."""
    rows = audit_rows(data.workspace, data.ids.model_id, data.ids.explain_id)
    gains = rows[rows["metric"].str.match("(insertion|deletion)_")]
    return Content(
        {
            "eyes": rows["images"].max() if len(rows) else 0,
            "verdicts": verdicts(gains),
            "better": gains[gains["low"] > 0].groupby("metric")["source"].agg(list).to_dict(),
            "plots": [plot(folder, gains)] if len(gains) else [],
            "measured": {test: measured(rows, test) for test in ("randomised", "stable", "share")},
            "kept": rows[rows["metric"] == "randomised_everything"].set_index("source"),
            "unusual": unusual(data, data.recipe.attribution.layers[0]),
        }
    )


def verdicts(gains: pd.DataFrame) -> pd.DataFrame:
    """One row a map: what both tests say of it beside a random map and beside the contrast, and
    by how much it is better."""
    outcomes = np.select(
        [gains["low"] > 0, gains["high"] < 0, gains["low"].isna()],
        ["better", "worse", "unknown"],
        "unclear",
    )
    words = [
        f"{outcome}, {difference}"
        for outcome, difference in zip(outcomes, gains["words"], strict=True)
    ]
    table = gains.assign(words=words, outcome=outcomes)
    return table.pivot(index="source", columns="metric", values="words").reindex(
        gains["source"].unique()
    )


def measured(rows: pd.DataFrame, test: str) -> pd.DataFrame:
    """One row for each way of a test, one column for each map and kind of measure, and chance."""
    pattern = rf"{test}_(?P<way>.+?)(?P<kind>_size|_top10)?$"
    names = rows["metric"].str.extract(pattern).fillna("")
    ways = rows.assign(way=names["way"], column=rows["source"] + names["kind"])[names["way"] != ""]
    table = ways.pivot(index="way", columns="column", values="words")
    chance = ways.groupby("way")["chance"].mean()
    table = table.assign(chance=chance).reindex(ways["way"].unique()).reset_index()
    return table.assign(way=table["way"].str.replace("_", " "))


def plot(folder: Folder, gains: pd.DataFrame) -> Picture:
    """How much better each map is than a random one."""
    drawn = gains[gains["metric"].str.endswith("_random")]
    named = drawn.set_index(drawn["source"] + ", " + drawn["metric"].str.removesuffix("_random"))
    words = "How much better than a random map"
    picture = plots.bars(named, x_label="Difference of the areas", reference=0.0, dots=True)
    alt = f"{words}: by insertion and deletion, with 95 % intervals"
    return folder.plot("audit", picture, alt, caption=words)


def unusual(data: ReportData, layer: str) -> pd.DataFrame:
    """The explained eyes furthest from the others of their predicted stage, with their keys."""
    contributions = whole(data.explained.store, f"layers/{layer}/channel_attribution")
    stages = data.eyes["predicted_stage"].to_numpy(float)
    distances = pd.Series(unusual_distances(contributions, stages), data.eyes["image_id"])
    labels = [stage_text(None if pd.isna(stage) else stage) for stage in data.gallery["stage"]]
    eyes = data.gallery.assign(distance=data.gallery["image_id"].map(distances), labelled=labels)
    return eyes.dropna(subset="distance").nlargest(LISTED, "distance")
