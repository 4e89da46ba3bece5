"""The section of the model: how well it grades, in numbers and in plots that Prefect's page
shows too.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from dr_lib.drawing import plots
from dr_lib.report.data import ModelSection
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import finite, label, records, score


class Drawn(NamedTuple):
    """A plot with its name as a file, its title, and what it shows in words."""

    name: str
    plot: plots.Plot
    caption: str
    alt: str
    note: str = ""


def model_plots(model: ModelSection) -> list[Drawn]:
    """The plots that there is data for: confusion, ROC with operating points, reliability,
    learning curves.
    """
    drawn = []
    if model.confusion is not None:
        counts = np.asarray(model.confusion)
        alt = (
            f"Confusion matrix of {int(counts.sum())} eyes by true and predicted stage;"
            f" {int(np.trace(counts))} on the diagonal"
        )
        note = "Counts; the shade is the share of the true stage."
        drawn.append(
            Drawn(
                "confusion", plots.confusion_matrix(model.confusion), "Confusion matrix", alt, note
            )
        )
    if model.roc:
        alt = "Receiver operating characteristic: " + ", ".join(model.roc)
        points = [
            (name, float(wrong), float(right)) for name, wrong, right in model.operating_points
        ]
        drawn.append(Drawn("roc", plots.roc(model.roc, points), "ROC and operating points", alt))
    if model.reliability is not None:
        alt = (
            f"Reliability of {model.reliability_of}: observed frequency against predicted"
            " probability"
        )
        note = (
            f"How far {model.reliability_of} can be taken at its word; area: eyes in the bin;"
            " dashed: perfect."
        )
        drawn.append(
            Drawn("reliability", plots.reliability(*model.reliability), "Reliability", alt, note)
        )
    if model.history is not None and len(model.history):
        alt = "Learning curves: loss, validation scores and learning rate by mini-batch"
        plot = plots.learning_curves(model.history, x=model.history_x)
        drawn.append(
            Drawn(
                "learning-curves",
                plot,
                "Learning curves",
                alt,
                "Dotted lines mark changes of the learning rate.",
            )
        )
    return drawn


def interval(low: float | None, high: float | None) -> str:
    """A 95 % interval in words, or a dash.

    >>> interval(0.59, 0.76), interval(None, 0.7)
    ('0.590 to 0.760', '–')
    """
    return "–" if low is None or high is None else f"{score(low)} to {score(high)}"


def view(folder: Folder, model: ModelSection) -> SimpleNamespace:
    """What the page shows of the model; its plots are drawn into the folder."""
    rows = []
    for row in records(model.evaluation):
        value, low, high = (finite(row.get(name)) for name in ("value", "low", "high"))
        bar = None
        if value is not None and all(end is None or 0 <= end <= 1 for end in (value, low, high)):
            start, end = (value, value) if low is None or high is None else (low, high)
            bar = (100 * start, 100 * (end - start), 100 * value)
        name = label(str(row["metric"]))
        rows.append(
            SimpleNamespace(
                name=name, value=score(row.get("value")), interval=interval(low, high), bar=bar
            )
        )
    drawn = [
        folder.plot(one.name, one.plot, one.alt, caption=one.caption, note=one.note)
        for one in model_plots(model)
    ]
    captions = {
        "Stage by stage, each against all others": model.stages,
        "Operating points for referable disease (stage 2 or higher)": model.operating,
        "The same eyes in parts": model.strata,
    }
    tables = [(caption, table(records(rows))) for caption, rows in captions.items() if len(rows)]
    return SimpleNamespace(rows=rows, plots=drawn, note=model.note, eyes=model.eyes, tables=tables)


SECTION = Section("model", "Model", ModelSection, view)
