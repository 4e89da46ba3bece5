"""The model: how well it grades, in numbers and in the plots that Prefect's page shows too."""

from typing import Any

import pandas as pd

from dr_lib.formatting import counted, finite, interval, label, score, stage_text, with_interval
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Missing, Plots, Whisker, table
from dr_lib.vocabulary import STAGES
from storage.admin.learned_labels import RETRAIN, label_changes
from tasks.access.model_quality import MAIN, confusion, graded_eyes, model_plots
from tasks.report.data import ReportData

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


def content(data: ReportData, folder: Folder) -> Content:
    """The model's learning curves, and its grades of the labelled eyes of the test split."""
    workspace, model_id = data.workspace, data.ids.model_id
    evaluation = data.rows("evaluation", split="test")
    pictures = [
        folder.plot(drawn.name, drawn.plot, drawn.alt, caption=drawn.caption, note=drawn.note)
        for drawn in model_plots(workspace, model_id)
    ]
    changes = label_changes(workspace, model_id)
    warning = f" {changes}: {RETRAIN}." if changes else ""
    test = evaluation[evaluation["stratum"] == "all"]
    if test.empty:
        words = f"No labelled eye is in the test split.{warning}"
        return Content(words, [Missing(words), Plots(pictures)])
    measured = test.set_index("metric")
    sensitivity = measured.loc[[f"sensitivity_stage{stage}" for stage in STAGES], "value"]
    worst = int(sensitivity.to_numpy(float).argsort()[0])  # NaN comes last
    eyes = counted(len(graded_eyes(workspace, model_id)), "eye")
    return Content(
        f"Quadratic weighted kappa {measure(test, 'qwk')} on {eyes} of patients the model never"
        f" saw; sensitivity is lowest for stage {stage_text(worst)},"
        f" {score(sensitivity.iloc[worst])}.{warning}",
        [
            table(scores(test), "Quality with 95 % intervals, where known"),
            table(stages(test), "Stage by stage, each against all others"),
            table(operating(test), "Operating points for referable disease (stage 2 or higher)"),
            table(strata(evaluation), "The same eyes in parts"),
            Plots(pictures),
        ],
        tiles=[(label(name), *_tile(measured.loc[name])) for name in TILES],
    )


def measure(measured: pd.DataFrame, metric: str) -> str:
    """A metric of one split and stratum with its interval, in words."""
    return with_interval(*measured.set_index("metric").loc[metric, ["value", "low", "high"]])


def _tile(row: pd.Series) -> tuple[str, str]:
    ends = interval(row["low"], row["high"])
    return score(row["value"]), f"95 % interval {ends}" if ends else ""


def scores(test: pd.DataFrame) -> list[dict[str, Any]]:
    """The main measures, each with its interval in words and drawn."""
    rows = []
    for row in test[test["metric"].isin(MAIN)].itertuples():
        ends = [row.value if finite(end) is None else end for end in (row.low, row.high)]
        within = all(0 <= end <= 1 for end in (*ends, row.value))
        rows.append(
            {
                "measure": label(row.metric),
                "value": score(row.value),
                "95 % interval": interval(row.low, row.high) or "–",
                "0 to 1": Whisker(*ends, row.value) if within else "",
            }
        )
    return rows


def stages(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stage: its eyes, and how well it is told from all others."""
    counts = confusion(test).sum(axis=1)
    return [
        {
            "stage": stage_text(stage),
            "eyes": int(counts[stage]),
            "sensitivity": measure(test, f"sensitivity_stage{stage}"),
            "specificity": measure(test, f"specificity_stage{stage}"),
        }
        for stage in STAGES
    ]


def operating(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an operating point: what is held, what is then reached, and from which probability on
    an eye is called."""
    thresholds = test[test["metric"].str.startswith("threshold_at_")].set_index("metric")["value"]
    rows = []
    for metric, threshold in thresholds.items():
        fixed, target = metric.removeprefix("threshold_at_").split("_")
        free = "sensitivity" if fixed == "specificity" else "specificity"
        rows.append(
            {
                "held": f"{fixed} {target}",
                "reached": f"{free} {measure(test, f'{free}_at_{fixed}_{target}')}",
                "called_from_probability": threshold,
            }
        )
    return rows


def strata(evaluation: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stratum: its eyes, and the main measures with their intervals; further readings of
    the model come last."""
    of_model = evaluation[evaluation["source"].isna()]  # maps judged by lesion masks: elsewhere
    strata = dict(tuple(of_model.groupby("stratum", sort=False)))
    known = [name for name in STRATA if name in strata]
    return [
        {
            "part": STRATA.get(name, name.replace("=", ": ")),
            "eyes": int(strata[name]["images"].iloc[0]),
            **{title: measure(strata[name], metric) for metric, title in STRATA_METRICS.items()},
        }
        for name in dict.fromkeys([*known, *strata])
    ]
