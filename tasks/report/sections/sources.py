"""The sources side by side: what each holds, and how the model does on each, above all on those
from elsewhere that it never learnt from.
"""

import numpy as np
import pandas as pd

from dr_lib.drawing import plots
from dr_lib.evaluation.metrics import reliability
from dr_lib.formatting import label, number, with_interval
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content
from dr_lib.vocabulary import PROBABILITIES, STAGES
from tasks.access.images import predictions_here
from tasks.access.sources import COMPARED, GradedSource, graded_sources, shown_rows
from tasks.report.data import ReportData

PLOTTED = ("auc_referable", "qwk")


def content(data: ReportData, folder: Folder) -> Content:
    """The table of sources; AUC, kappa and calibration of each with intervals over patients; its
    confusion matrix and its reliability.
    """
    workspace = data.workspace
    held, graded = workspace.frame("sources"), graded_sources(workspace, data.ids.model_id)
    if held.empty or (held["source"] == "").all():
        return Content({"held": ()})
    return Content(
        {
            "held": shown_rows(held.to_dict("records")),
            "graded": graded,
            "side_by_side": side_by_side(graded),
            "compared": [_compared(folder, graded, metric) for metric in PLOTTED] if graded else [],
            "pictures": _pictures(data, folder, [one for one in graded if not one.reading]),
        }
    )


def side_by_side(graded: list[GradedSource]) -> list[dict[str, object]]:
    """One row a source: its eyes, and each measure with its interval."""
    return [
        {
            "source": one.source,
            "reading": one.reading or "its own answers",
            "eyes": one.images,
            "learnt_from": "never" if one.split == "external" else "other patients of it",
            **{label(metric): with_interval(*one.measures[metric]) for metric in COMPARED},
        }
        for one in graded
    ]


def _compared(folder: Folder, graded: list[GradedSource], metric: str) -> Picture:
    rows = pd.DataFrame(
        [one.measures[metric] for one in graded],
        index=[_name(one) for one in graded],
        columns=["value", "low", "high"],
        dtype=np.float64,
    )
    name, chance = label(metric), 0.5 if metric.startswith("auc") else None
    drawn, caption = plots.bars(rows, x_label=name, reference=chance), f"{name} by source"
    alt = f"{caption} with 95 % intervals"
    return folder.plot(f"sources-{metric}", drawn, alt, caption=caption)


def _pictures(data: ReportData, folder: Folder, graded: list[GradedSource]) -> list[list[Picture]]:
    """For each source its confusion matrix and its reliability, side by side."""
    from sklearn.metrics import confusion_matrix

    eyes = predictions_here(data.workspace, data.ids.model_id)
    eyes = eyes[eyes["stage"].notna()]
    pairs = []
    for one in graded:
        name = folder.name("sources", one.source)
        mine = eyes[(eyes["source"] == one.source) & (eyes["split"] == one.split)]
        stages, predicted = mine[["stage", "predicted_stage"]].to_numpy(np.int64).T
        bins = reliability(stages, mine[PROBABILITIES].to_numpy(np.float32))
        counts = confusion_matrix(stages, predicted, labels=STAGES)
        drawn = {
            "Confusion": plots.confusion_matrix(counts),
            "Reliability": plots.reliability(*bins),
        }
        pair = []
        for kind, plot in drawn.items():
            caption = f"{kind}, {_name(one)}"
            alt = f"{kind} of {number(len(mine))} eyes of {one.source}"
            pair.append(folder.plot(f"{name}-{kind.lower()}", plot, alt, caption=caption))
        pairs.append(pair)
    return pairs


def _name(one: GradedSource) -> str:
    name = f"{one.source} (external)" if one.split == "external" else one.source
    return f"{name}, {one.reading}" if one.reading else name
