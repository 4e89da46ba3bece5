"""How well the model does, read from its tables and drawn: what the report and Prefect's page show
of it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dr_lib.drawing import plots
from dr_lib.evaluation.metrics import REFERABLE, operating_points, reliability
from dr_lib.vocabulary import PROBABILITIES, STAGES
from storage import Workspace
from storage.contents.models import load_history
from tasks.access.images import predictions_here
from tasks.access.sources import GRADING, reading

MAIN = ("qwk", "qwk_expected", "accuracy", "auc_referable", "auc_any", "ece")


class Drawn(NamedTuple):
    """A plot with its name as a file, its title, and what it shows in words."""

    name: str
    plot: plots.Plot
    caption: str
    alt: str
    note: str = ""


def graded_rows(workspace: Workspace, model_id: str) -> list[dict[str, Any]]:
    """The measures of the test split that have intervals, the main ones first: metric, value, low,
    high."""
    test = workspace.frame("evaluation", model_id=model_id, split="test", stratum="all")
    measured = test[test["low"].notna() | test["metric"].isin(MAIN)]
    order = {metric: rank for rank, metric in enumerate(MAIN)}
    ordered = measured.sort_values(
        "metric", key=lambda names: names.map(order).fillna(len(MAIN)), kind="stable"
    )
    return ordered[["metric", "value", "low", "high"]].to_dict("records")


def confusion(test: pd.DataFrame) -> np.ndarray:
    """Counts by true and predicted stage, from the rows of `evaluation` of one split and
    stratum."""
    cells = test.set_index("metric")["value"]
    return np.array(
        [
            [int(cells[f"confusion_true{true}_predicted{predicted}"]) for predicted in STAGES]
            for true in STAGES
        ]
    )


def graded_eyes(workspace: Workspace, model_id: str) -> pd.DataFrame:
    """The predictions of the labelled eyes of the test split."""
    predictions = predictions_here(workspace, model_id)
    return predictions[(predictions["split"] == "test") & predictions["stage"].notna()]


def model_plots(workspace: Workspace, model_id: str) -> Iterator[Drawn]:
    """The plots that there is data for: confusion, ROC with operating points, reliability, learning
    curves."""
    test = workspace.frame("evaluation", model_id=model_id, split="test", stratum="all")
    if len(test):
        counts, eyes = confusion(test), graded_eyes(workspace, model_id)
        alt = (
            f"Confusion matrix of {counts.sum()} eyes by true and predicted stage;"
            f" {np.trace(counts)} on the diagonal"
        )
        note = "Counts; the shade is the share of the true stage."
        yield Drawn("confusion", plots.confusion_matrix(counts), "Confusion matrix", alt, note)
        stages = eyes["stage"].to_numpy(np.int64)
        referable = eyes["probability_referable"].to_numpy(np.float64)
        if roc := _roc(stages >= REFERABLE, referable):
            alt = "Receiver operating characteristic of referable disease"
            yield Drawn("roc", roc, "ROC and operating points", alt)
        bins = reliability(stages, eyes[PROBABILITIES].to_numpy(np.float32))
        alt = "Reliability of the likeliest stage: observed frequency against predicted probability"
        note = (
            "How far the likeliest stage can be taken at its word; area: eyes in the bin; dashed:"
            " perfect."
        )
        yield Drawn("reliability", plots.reliability(*bins), "Reliability", alt, note)
        yield from _referrals(workspace, model_id)
    history = load_history(workspace.files, model_id)
    if len(history):
        alt = "Learning curves: loss, validation scores and learning rate by mini-batch"
        note = "Dotted lines mark changes of the learning rate."
        curves = plots.learning_curves(history)
        yield Drawn("learning-curves", curves, "Learning curves", alt, note)


def _referrals(workspace: Workspace, model_id: str) -> Iterator[Drawn]:
    """The referral curves of the model's own answers and of its last ensemble, where there are
    any.
    """
    test = workspace.frame("evaluation", model_id=model_id, split="test")
    strata = [name for name in test["stratum"].unique() if name.startswith(GRADING)]
    for stratum in ["all", *strata[-1:]]:
        rows = referral_points(test[test["stratum"] == stratum])
        if rows.empty:
            continue
        of = "" if stratum == "all" else f", with {reading(stratum)}"
        alt = f"Sensitivity and specificity for referable disease by share of eyes referred{of}"
        note = (
            "The least certain eyes go to a person; the model grades the rest. Threshold: 90 % of"
            " the validation eyes without referable disease lie below it."
        )
        file = "referral" if stratum == "all" else "referral-ensemble"
        yield Drawn(file, plots.referral(rows), f"Referral to a person{of}", alt, note)


def referral_points(rows: pd.DataFrame) -> pd.DataFrame:
    """The referral curve in rows of `evaluation` of one split and stratum: side, share, value, low,
    high.
    """
    names = rows["metric"].str.extract(r"^referral_(?P<side>[a-z]+)_(?P<share>[\d.]+)$")
    found = pd.concat([names, rows[["value", "low", "high"]]], axis=1).dropna(subset=["side"])
    return found.astype({"share": float}).sort_values(["side", "share"])


def _roc(positive: np.ndarray, score: np.ndarray) -> plots.Plot | None:
    """The curve of referable disease, or none where one of the two classes is missing."""
    from sklearn.metrics import roc_curve

    if len(np.unique(positive)) < 2:
        return None
    false_positive, sensitivity, _ = roc_curve(positive, score)
    points = [
        (f"{point.fixed} {point.target:.2f}", 1 - point.specificity, point.sensitivity)
        for point in operating_points(positive, score)
    ]
    return plots.roc(false_positive, sensitivity, points)
