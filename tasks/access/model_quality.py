"""How well the model does, read from its tables: what the report and Prefect's page show of it."""

import numpy as np
import pandas as pd

from dr_lib.drawing.plots import STAGE_NAMES
from dr_lib.evaluation.metrics import REFERABLE, operating_points, reliability
from dr_lib.report import ModelSection, with_interval
from storage import Workspace
from storage.admin.learned_labels import RETRAIN, label_changes
from storage.contents.models import load_history
from tasks.access.present import predictions_here

MAIN = ("qwk", "qwk_expected", "accuracy", "auc_referable", "auc_any", "ece")
STRATA = {
    "all": "all eyes",
    "quality=good": "of good quality",
    "quality=flagged": "flagged for low quality",
    "eye=left": "left eyes",
    "eye=right": "right eyes",
}
STRATA_METRICS = {
    "qwk": "kappa",
    "auc_referable": "AUC, referable",
    "sensitivity_stage1": "sensitivity, mild",
}


def model_section(workspace: Workspace, model_id: str) -> ModelSection:
    """The model's learning curves, and its grades of the labelled eyes of the test split."""
    evaluation = workspace.frame("evaluation", model_id=model_id, split="test")
    history = load_history(workspace, model_id)
    test = evaluation[evaluation["stratum"] == "all"]
    changes = label_changes(workspace, model_id)
    note = f"{changes}: {RETRAIN}." if changes else ""
    if test.empty:
        return ModelSection(
            history=history, note=f"No labelled eye is in the test split. {note}".strip()
        )
    cells = test.set_index("metric")["value"]
    confusion = np.array(
        [
            [int(cells[f"confusion_true{true}_predicted{predicted}"]) for predicted in range(5)]
            for true in range(5)
        ]
    )
    predictions = predictions_here(workspace, model_id)
    predictions = predictions[(predictions["split"] == "test") & predictions["stage"].notna()]
    referable = predictions["probability_referable"].to_numpy(np.float64)
    stages = predictions["stage"].to_numpy(np.int64)
    *bins, count = reliability(
        stages,
        predictions[[f"probability_stage{stage}" for stage in range(5)]].to_numpy(np.float32),
    )
    return ModelSection(
        evaluation=test[test["metric"].isin(MAIN)][["metric", "value", "low", "high"]],
        confusion=confusion,
        history=history,
        reliability=tuple(values[count > 0] for values in (*bins, count)),
        reliability_of="the likeliest stage",
        roc=_roc(stages >= REFERABLE, referable),
        operating_points=tuple(
            (f"{point.fixed} {point.target:.2f}", 1 - point.specificity, point.sensitivity)
            for point in operating_points(stages >= REFERABLE, referable)
        ),
        eyes=len(predictions),
        stages=_stages(test, confusion),
        operating=_operating(test),
        strata=_strata(evaluation),
        note=note,
    )


def graded_rows(workspace: Workspace, model_id: str) -> list[dict[str, object]]:
    """The measures of the test split that have intervals, the main ones first: metric, value,
    low, high.
    """
    test = workspace.frame("evaluation", model_id=model_id, split="test", stratum="all")
    measured = test[test["low"].notna() | test["metric"].isin(MAIN)]
    order = {metric: place for place, metric in enumerate(MAIN)}
    ordered = measured.sort_values(
        "metric", key=lambda names: names.map(order).fillna(len(MAIN)), kind="stable"
    )
    return ordered[["metric", "value", "low", "high"]].to_dict("records")


def _of(measured: pd.DataFrame, metric: str) -> str:
    """A metric of one split and stratum with its interval, in words."""
    return with_interval(*measured.set_index("metric").loc[metric, ["value", "low", "high"]])


def _stages(test: pd.DataFrame, confusion: np.ndarray) -> list[dict[str, object]]:
    return [
        {
            "stage": f"{stage} {name}",
            "eyes": int(confusion[stage].sum()),
            "sensitivity": _of(test, f"sensitivity_stage{stage}"),
            "specificity": _of(test, f"specificity_stage{stage}"),
        }
        for stage, name in enumerate(STAGE_NAMES)
    ]


def _operating(test: pd.DataFrame) -> list[dict[str, object]]:
    """One row an operating point: what is held, what is then reached, and from which probability
    on an eye is called.
    """
    thresholds = test[test["metric"].str.startswith("threshold_at_")].set_index("metric")["value"]
    rows = []
    for metric, threshold in thresholds.items():
        fixed, target = metric.removeprefix("threshold_at_").split("_")
        free = "sensitivity" if fixed == "specificity" else "specificity"
        reached = _of(test, f"{free}_at_{fixed}_{target}")
        rows.append(
            {
                "held": f"{fixed} {target}",
                "reached": f"{free} {reached}",
                "called_from_probability": threshold,
            }
        )
    return rows


def _strata(evaluation: pd.DataFrame) -> list[dict[str, object]]:
    """One row a stratum: its eyes, and the main measures with their intervals; further readings
    of the model come last.
    """
    rows = []
    of_model = evaluation[
        evaluation["source"].isna()
    ]  # maps judged by lesion masks are told elsewhere
    for stratum, measured in of_model.groupby("stratum", sort=False):
        values = {title: _of(measured, metric) for metric, title in STRATA_METRICS.items()}
        name = STRATA.get(stratum, stratum.replace("=", ": "))
        rows.append({"part": name, "eyes": int(measured["images"].iloc[0]), **values})
    known = [*STRATA.values()]
    return sorted(
        rows, key=lambda row: known.index(row["part"]) if row["part"] in known else len(known)
    )


def _roc(positive: np.ndarray, score: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curve of referable disease by name, or none where one of the two classes is missing."""
    from sklearn.metrics import roc_curve

    if len(np.unique(positive)) < 2:
        return {}
    false_positive, sensitivity, _ = roc_curve(positive, score)
    return {"referable": (false_positive, sensitivity)}
