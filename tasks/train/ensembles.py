"""Further readings of a model, measured beside its own: poses averaged, both eyes, thresholds
(`dr_lib.evaluation.grading`).

A reading is a stratum of the table `evaluation`, such as grading=poses+fellow, with what was chosen
on the validation eyes as rows of its own: fellow_share, threshold_stage1 … threshold_stage4. Only
held-out eyes are read this way.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.evaluation.grading import (
    GradingParams,
    decided,
    expected_stage,
    fellow_share,
    fellows,
    kappa_thresholds,
    with_fellow,
)
from dr_lib.evaluation.metrics import evaluate
from dr_lib.vocabulary import STAGE_COUNT
from storage import Workspace
from tasks.access.present import predictions_here

POSES_TABLE = "pose_predictions"
PREFIX = "grading="


@dataclass(frozen=True)
class Reading:
    """One way to grade every held-out eye: probabilities (eye, 5), the stages decided on (None:
    the likeliest), what was chosen.
    """

    stratum: str
    probabilities: np.ndarray
    predicted: np.ndarray | None = None
    chosen: dict[str, float] = field(default_factory=dict)


def reading_rows(
    workspace: Workspace, grading: GradingParams, model_id: str
) -> list[dict[str, Any]]:
    """Rows of `evaluation` for each reading that is asked for and each held-out split; none by
    default.
    """
    if grading == GradingParams():
        return []
    eyes = predictions_here(
        workspace, model_id, "predictions" if grading.poses == 1 else POSES_TABLE
    )
    eyes = eyes[~eyes["split"].isin(["train", "excluded"])].reset_index(drop=True)
    rows: list[dict[str, Any]] = []
    for reading in _readings(eyes, grading):
        for split in sorted(eyes["split"].unique()):
            those = ((eyes["split"] == split) & eyes["stage"].notna()).to_numpy()
            if not those.any():
                continue
            graded = evaluate(
                eyes["stage"][those].to_numpy(np.int64),
                reading.probabilities[those],
                predicted=None if reading.predicted is None else reading.predicted[those],
                bootstrap_patients=eyes["patient_id"][those].to_numpy(str),
            )
            chosen = [
                {"metric": n, "value": v, "low": math.nan, "high": math.nan}
                for n, v in reading.chosen.items()
            ]
            place = {"split": split, "stratum": reading.stratum, "images": int(those.sum())}
            rows += [{**place, **row} for row in (*graded.rows(), *chosen)]
    return rows


def in_words(rows: pd.DataFrame) -> str:
    """What the last reading of one split brings, as the end of a sentence; empty where there is
    none.

    rows: of `evaluation`, one split, every stratum.
    """
    strata = [name for name in rows["stratum"].unique() if name.startswith(PREFIX)]
    if not strata:
        return ""
    last = max(strata, key=len)
    value = rows[rows["stratum"] == last].set_index("metric")["value"]
    return (
        f"; with {last.removeprefix(PREFIX).replace('+', ', ')} kappa {value['qwk']:.3f}, stage 1"
        f" sensitivity {value['sensitivity_stage1']:.3f} at specificity"
        f" {value['specificity_stage1']:.3f}"
    )


def _readings(eyes: pd.DataFrame, grading: GradingParams) -> Iterator[Reading]:
    """Each reading goes on from the one before it, so that the table tells what each step
    brings.
    """
    found = eyes[[f"probability_stage{stage}" for stage in range(STAGE_COUNT)]].to_numpy(np.float32)
    stages = eyes["stage"].fillna(-1).to_numpy(np.int64)
    patients = eyes["patient_id"].to_numpy(str)
    validation = (eyes["split"] == "validation").to_numpy() & (stages >= 0)
    names = []
    if grading.poses > 1:
        names.append("poses")
        yield Reading(f"{PREFIX}poses", found)
    if grading.fellow_eye:
        names.append("fellow")
        fellow = fellows(patients)
        share = fellow_share(stages, found, fellow, validation)
        found = with_fellow(found, fellow, share)
        yield Reading(f"{PREFIX}{'+'.join(names)}", found, chosen={"fellow_share": share})
    if grading.decision == "thresholds" and validation.any():
        names.append("thresholds")
        expected = expected_stage(found)
        thresholds = kappa_thresholds(
            stages[validation], expected[validation], patients[validation]
        )
        chosen = {
            f"threshold_stage{number}": float(place) for number, place in enumerate(thresholds, 1)
        }
        yield Reading(f"{PREFIX}{'+'.join(names)}", found, decided(expected, thresholds), chosen)
