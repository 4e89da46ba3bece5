"""The model: how well it grades, in numbers and in the plots that Prefect's page shows too."""

from typing import Any

import pandas as pd

from dr_lib.formatting import finite, label, number, score, with_interval
from dr_lib.report import Folder
from dr_lib.report.section import Content, Missing, Plots, Whisker, table
from dr_lib.vocabulary import STAGE_NAMES
from storage.admin.learned_labels import RETRAIN, label_changes
from tasks.access.model_quality import MAIN, confusion, graded_eyes, model_plots
from tasks.report.data import Shown

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
TILES = ("qwk", "auc_referable")


def content(shown: Shown, folder: Folder) -> Content:
    """The model's learning curves, and its grades of the labelled eyes of the test split."""
    evaluation = shown.workspace.frame("evaluation", model_id=shown.model_id, split="test")
    test, drawn = (
        evaluation[evaluation["stratum"] == "all"],
        model_plots(shown.workspace, shown.model_id),
    )
    pictures = [
        folder.plot(one.name, one.plot, one.alt, caption=one.caption, note=one.note)
        for one in drawn
    ]
    changes = label_changes(shown.workspace, shown.model_id)
    warning = f" {changes}: {RETRAIN}." if changes else ""
    if test.empty:
        words = f"No labelled eye is in the test split.{warning}"
        return Content(words, [Missing(words), Plots(pictures)])
    eyes = number(len(graded_eyes(shown.workspace, shown.model_id)))
    by_stage = stages(test)
    worst = min(by_stage, key=lambda row: float(row["sensitivity"].split()[0].replace("–", "inf")))
    return Content(
        f"Quadratic weighted kappa {measure(test, 'qwk')} on {eyes} eyes of patients the model"
        f" never saw; sensitivity is lowest for stage {worst['stage']},"
        f" {worst['sensitivity'].split()[0]}.{warning}",
        [
            table(scores(test), "Quality with 95 % intervals, where known"),
            table(by_stage, "Stage by stage, each against all others"),
            table(operating(test), "Operating points for referable disease (stage 2 or higher)"),
            table(strata(evaluation), "The same eyes in parts"),
            Plots(pictures),
        ],
        tiles=[(label(name), *_tile(test, name)) for name in TILES],
    )


def measure(measured: pd.DataFrame, metric: str) -> str:
    """A metric of one split and stratum with its interval, in words."""
    return with_interval(*measured.set_index("metric").loc[metric, ["value", "low", "high"]])


def _tile(test: pd.DataFrame, metric: str) -> tuple[str, str]:
    value, _, interval = measure(test, metric).partition(" ")
    return value, f"95 % interval {interval.strip('()')}" if interval else ""


def scores(test: pd.DataFrame) -> list[dict[str, Any]]:
    """The main measures, each with its interval in words and drawn."""
    rows = []
    for row in test[test["metric"].isin(MAIN)].itertuples():
        ends = [row.value if finite(end) is None else end for end in (row.low, row.high)]
        drawn = (
            Whisker(*ends, row.value) if all(0 <= end <= 1 for end in (*ends, row.value)) else ""
        )
        known = None not in (finite(row.low), finite(row.high))
        interval = f"{score(row.low)} to {score(row.high)}" if known else "–"
        rows.append(
            {
                "measure": label(row.metric),
                "value": score(row.value),
                "95 % interval": interval,
                "0 to 1": drawn,
            }
        )
    return rows


def stages(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stage: its eyes, and how well it is told from all others."""
    counts = confusion(test).sum(axis=1)
    kinds = ("sensitivity", "specificity")
    return [
        {
            "stage": f"{stage} {name}",
            "eyes": int(counts[stage]),
            **{kind: measure(test, f"{kind}_stage{stage}") for kind in kinds},
        }
        for stage, name in enumerate(STAGE_NAMES)
    ]


def operating(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an operating point: what is held, what is then reached, and from which probability on
    an eye is called."""
    thresholds = test[test["metric"].str.startswith("threshold_at_")].set_index("metric")["value"]
    rows = []
    for metric, threshold in thresholds.items():
        fixed, target = metric.removeprefix("threshold_at_").split("_")
        free = "sensitivity" if fixed == "specificity" else "specificity"
        reached = measure(test, f"{free}_at_{fixed}_{target}")
        rows.append(
            {
                "held": f"{fixed} {target}",
                "reached": f"{free} {reached}",
                "called_from_probability": threshold,
            }
        )
    return rows


def strata(evaluation: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stratum: its eyes, and the main measures with their intervals; further readings of
    the model come last."""
    rows = []
    of_model = evaluation[
        evaluation["source"].isna()
    ]  # maps judged by lesion masks are told elsewhere
    for stratum, measured in of_model.groupby("stratum", sort=False):
        values = {title: measure(measured, metric) for metric, title in STRATA_METRICS.items()}
        name = STRATA.get(stratum, stratum.replace("=", ": "))
        rows.append({"part": name, "eyes": int(measured["images"].iloc[0]), **values})
    known = [*STRATA.values()]
    return sorted(
        rows, key=lambda row: known.index(row["part"]) if row["part"] in known else len(known)
    )
