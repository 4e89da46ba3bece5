"""The model: how well it grades, in numbers and in the plots that Prefect's page shows too."""

from typing import Any

import pandas as pd

from dr_lib.formatting import (
    finite,
    interval,
    label,
    percent,
    score,
    stage_text,
    with_interval,
)
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Whisker
from dr_lib.vocabulary import STAGES
from storage.admin.learned_labels import RETRAIN, label_changes
from tasks.access.model_quality import (
    MAIN,
    confusion,
    graded_eyes,
    model_plots,
    referral_points,
)
from tasks.access.sources import GRADING
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
    "ece": "calibration error",
}


def content(data: ReportData, folder: Folder) -> Content:
    """The model's learning curves, and its grades of the labelled eyes of the test split."""
    workspace, model_id = data.workspace, data.ids.model_id
    evaluation = data.rows("evaluation", split="test")
    test = evaluation[evaluation["stratum"] == "all"]
    found = {
        "changes": label_changes(workspace, model_id),
        "retrain": RETRAIN,
        "test": test,
        "plots": [
            folder.plot(drawn.name, drawn.plot, drawn.alt, caption=drawn.caption, note=drawn.note)
            for drawn in model_plots(workspace, model_id)
        ],
    }
    if test.empty:
        return Content(found)
    measured = test.set_index("metric")
    sensitivity = measured.loc[[f"sensitivity_stage{stage}" for stage in STAGES], "value"]
    worst = int(sensitivity.to_numpy(float).argsort()[0])  # NaN comes last
    return Content(
        found
        | {
            "eyes": len(graded_eyes(workspace, model_id)),
            "measured": measured.to_dict("index"),
            "worst": worst,
            "lowest": sensitivity.iloc[worst],
            "scores": scores(test),
            "stages": stages(test),
            "operating": operating(test),
            "strata": strata(evaluation),
            "referred": referred(test),
        }
    )


def in_words(measured: pd.DataFrame) -> dict[str, str]:
    """Each metric of one split and stratum with its interval, in words."""
    return {
        row.metric: with_interval(row.value, row.low, row.high) for row in measured.itertuples()
    }


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
                "95 % interval": interval(row.low, row.high),
                "0 to 1": Whisker(*ends, row.value) if within else "",
            }
        )
    return rows


def stages(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stage: its eyes, and how well it is told from all others."""
    counts, words = confusion(test).sum(axis=1), in_words(test)
    return [
        {
            "stage": stage_text(stage),
            "eyes": int(counts[stage]),
            "sensitivity": words[f"sensitivity_stage{stage}"],
            "specificity": words[f"specificity_stage{stage}"],
        }
        for stage in STAGES
    ]


def operating(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row an operating point: what is held, what is then reached, and from which probability on
    an eye is called."""
    rows, words = [], in_words(test)
    for row in test[test["metric"].str.startswith("threshold_at_")].itertuples():
        fixed, target = row.metric.removeprefix("threshold_at_").split("_")
        free = "sensitivity" if fixed == "specificity" else "specificity"
        rows.append(
            {
                "held": f"{fixed} {target}",
                "reached": f"{free} {words[f'{free}_at_{fixed}_{target}']}",
                "called_from_probability": row.value,
            }
        )
    return rows


def referred(test: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a share of eyes sent to a person: sensitivity and specificity of the rest."""
    return [
        {
            "sent_to_a_person": percent(share),
            **{
                f"{row.side} of the rest": with_interval(row.value, row.low, row.high)
                for row in rows.itertuples()
            },
        }
        for share, rows in referral_points(test).groupby("share")
    ]


def strata(evaluation: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a stratum: its eyes, and the main measures with their intervals; further readings of
    the model come last."""
    of_model = evaluation[evaluation["source"].isna()]  # maps judged by lesion masks: elsewhere
    groups = dict(tuple(of_model.groupby("stratum", sort=False)))
    rows = []
    for name in dict.fromkeys([*(name for name in STRATA if name in groups), *groups]):
        words, eyes = in_words(groups[name]), int(groups[name]["images"].iloc[0])
        metrics = {title: words[metric] for metric, title in STRATA_METRICS.items()}
        part = STRATA.get(name, name.replace(f"+{GRADING}", ", ").replace("=", ": "))
        rows.append({"part": part, "eyes": eyes, **metrics})
    return rows
