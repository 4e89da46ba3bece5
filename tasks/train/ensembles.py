"""Ensembles of a model's answers, measured beside its own: poses averaged, both eyes of a patient
together, thresholds (`dr_lib.evaluation.grading`).

An ensemble is a stratum of the table `evaluation`, such as grading=poses+fellow, with what was
chosen on the validation eyes as rows of its own: fellow_share, threshold_stage1 …
threshold_stage4. Only held-out eyes are graded this way.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.evaluation.calibration import calibrated_on
from dr_lib.evaluation.grading import (
    GradingParams,
    decided,
    expected_stage,
    fellow_share,
    fellows,
    kappa_thresholds,
    with_fellow,
)
from dr_lib.evaluation.metrics import evaluate, operating_points
from dr_lib.evaluation.referral import referral_rows
from dr_lib.vocabulary import PROBABILITIES, REFERABLE
from storage import Workspace
from tasks.access.images import predictions_here
from tasks.access.sources import GRADING, SOURCE, reading

POSES_TABLE = "pose_predictions"
SCREENING = ("specificity", 0.90)  # where an eye begins to be called referable


@dataclass(frozen=True)
class Ensemble:
    """One way to grade every eye: probabilities (eye, 5), the stages decided on (None: the
    likeliest), what was chosen.
    """

    stratum: str
    probabilities: np.ndarray
    predicted: np.ndarray | None = None
    chosen: dict[str, float] = field(default_factory=dict)


def evaluation_rows(
    eyes: pd.DataFrame, graded: Ensemble, strata: Mapping[str, pd.Series]
) -> list[dict[str, Any]]:
    """Rows of `evaluation` for each split and stratum that has eyes, with what a second look at
    the least certain ones is worth, and what was chosen.

    Parameters
    ----------
    eyes : rows of `predictions`
    graded : how all of them are graded
    strata : for each stratum which of the eyes are in it, labelled ones alone
    """
    rows: list[dict[str, Any]] = []
    threshold = referable_threshold(eyes, graded.probabilities)
    for split, (stratum, among) in itertools.product(
        sorted(eyes["split"].unique()), strata.items()
    ):
        chosen = (among & (eyes["split"] == split)).to_numpy()
        if not chosen.any():
            continue
        stages = eyes.loc[chosen, "stage"].to_numpy(np.int64)
        patients = eyes.loc[chosen, "patient_id"].to_numpy(str)
        probabilities = graded.probabilities[chosen]
        predicted = None if graded.predicted is None else graded.predicted[chosen]
        measured = evaluate(
            stages, probabilities, predicted=predicted, bootstrap_patients=patients
        ).rows()
        referable = probabilities[:, REFERABLE:].sum(axis=1)
        measured += referral_rows(stages, referable, threshold, patients)
        measured += [
            {"metric": name, "value": value, "low": math.nan, "high": math.nan}
            for name, value in graded.chosen.items()
        ]
        about = {"split": split, "stratum": stratum, "images": len(stages)}
        rows += [about | row for row in measured]
    return rows


def referable_threshold(eyes: pd.DataFrame, probabilities: np.ndarray) -> float:
    """The P(stage ≥ 2) from which on an eye is called referable: of the labelled validation eyes
    among `eyes`, nine healthy or mild ones of ten lie below; NaN where they do not tell.
    """
    chosen = ((eyes["split"] == "validation") & eyes["stage"].notna()).to_numpy()
    positive = eyes.loc[chosen, "stage"].to_numpy(np.int64) >= REFERABLE
    points = operating_points(positive, probabilities[chosen, REFERABLE:].sum(axis=1))
    return next(point.threshold for point in points if (point.fixed, point.target) == SCREENING)


def ensemble_rows(
    workspace: Workspace, grading: GradingParams, model_id: str
) -> list[dict[str, Any]]:
    """Rows of `evaluation` for each ensemble that is asked for and each held-out split, of the last
    one for each source, too; none by default.
    """
    if grading == GradingParams():
        return []
    table = "predictions" if grading.poses == 1 else POSES_TABLE
    eyes = predictions_here(workspace, model_id, table)
    eyes = eyes[~eyes["split"].isin(["train", "excluded"])].reset_index(drop=True)
    labelled, sources = eyes["stage"].notna(), eyes["source"].dropna().unique()
    rows: list[dict[str, Any]] = []
    for ensemble in (ensembles := list(_ensembles(eyes, grading))):
        strata = {ensemble.stratum: labelled}
        if ensemble is ensembles[-1]:
            strata |= {
                f"{SOURCE}{name}+{ensemble.stratum}": labelled & (eyes["source"] == name)
                for name in sorted(sources)
            }
        rows += evaluation_rows(eyes, ensemble, strata)
    return rows


def in_words(rows: pd.DataFrame) -> str:
    """What the last ensemble of one split brings, as the end of a sentence; empty where there is
    none.

    rows: of `evaluation`, one split, every stratum.
    """
    strata = [name for name in rows["stratum"].unique() if name.startswith(GRADING)]
    if not strata:
        return ""
    last = max(strata, key=len)
    value = rows[rows["stratum"] == last].set_index("metric")["value"]
    return (
        f"; with {reading(last)} kappa {value['qwk']:.3f}, stage 1"
        f" sensitivity {value['sensitivity_stage1']:.3f} at specificity"
        f" {value['specificity_stage1']:.3f}"
    )


def _ensembles(eyes: pd.DataFrame, grading: GradingParams) -> Iterator[Ensemble]:
    """Each ensemble goes on from the one before it, so that the table tells what each step
    brings.
    """
    probabilities = eyes[PROBABILITIES].to_numpy(np.float32)
    stages = eyes["stage"].fillna(-1).to_numpy(np.int64)
    patients = eyes["patient_id"].to_numpy(str)
    validation = (eyes["split"] == "validation").to_numpy() & (stages >= 0)
    stratum = GRADING
    if grading.poses > 1:
        stratum += "poses+"
        yield Ensemble(stratum[:-1], probabilities)
    if grading.fellow_eye:
        stratum += "fellow+"
        fellow = fellows(patients)
        share = fellow_share(stages, probabilities, fellow, validation)
        probabilities = with_fellow(probabilities, fellow, share)
        yield Ensemble(stratum[:-1], probabilities, chosen={"fellow_share": share})
    if grading.calibration != "none" and validation.any():
        stratum += "calibrated+"
        calibration = calibrated_on(
            stages[validation], probabilities[validation], grading.calibration
        )
        probabilities = calibration.apply(probabilities)
        yield Ensemble(stratum[:-1], probabilities, chosen=calibration.chosen())
    if grading.decision == "thresholds" and validation.any():
        expected = expected_stage(probabilities)
        thresholds = kappa_thresholds(
            stages[validation], expected[validation], patients[validation]
        )
        chosen = {
            f"threshold_stage{stage}": float(value) for stage, value in enumerate(thresholds, 1)
        }
        predicted = decided(expected, thresholds)
        yield Ensemble(f"{stratum}thresholds", probabilities, predicted, chosen)
