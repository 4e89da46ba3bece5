"""Ensembles of a model's answers: what each step brings, chosen on validation eyes, never touching
the model's own answer.
"""

import numpy as np
import pandas as pd
import pytest

from dr_lib.evaluation.grading import GradingParams
from storage import open_workspace
from storage.tables.schemas import SCHEMAS
from tasks.train.ensembles import POSES_TABLE, ensemble_rows, in_words
from tasks.train.shard import prediction_rows

MODEL = "0123456789ab"
ALL = GradingParams(poses=8, fellow_eye=True, decision="thresholds")
CHOSEN = r"fellow_share|threshold_stage\d|temperature|bias_stage\d"


def eyes(split, patients, seed):
    """Patients with a stage each, and probabilities that lean towards stage 0."""
    draws = np.random.default_rng(seed)
    stages = draws.integers(0, 5, patients).repeat(2)
    frame = pd.DataFrame(
        {
            "image_id": [
                f"{split}{row // 2}_{('left', 'right')[row % 2]}" for row in range(2 * patients)
            ],
            "source": None,
            "patient_id": [f"{split}{row // 2}" for row in range(2 * patients)],
            "eye": ["left", "right"] * patients,
            "split": split,
            "stage": pd.array(stages, "Int8"),
        }
    )
    found = draws.dirichlet(np.ones(5), 2 * patients)
    found[np.arange(2 * patients), stages] += 0.2
    found[:, 0] += 1.0
    return prediction_rows(frame, (found / found.sum(axis=1, keepdims=True)).astype(np.float32))


@pytest.fixture
def workspace(tmp_path):
    opened = open_workspace(tmp_path / "workspace")
    rows = pd.concat([eyes("train", 5, 0), eyes("validation", 40, 1), eyes("test", 30, 2)])
    opened.write_table("predictions", rows, partition=MODEL, part="00000")
    held_out = rows[rows["split"] != "train"].assign(poses=8)
    opened.write_table(POSES_TABLE, held_out, partition=MODEL, part="00000")
    return opened


def table(rows):
    return pd.DataFrame(rows).set_index(["split", "stratum", "metric"])["value"].sort_index()


def test_nothing_is_read_that_was_not_asked_for(workspace):
    assert ensemble_rows(workspace, GradingParams(), MODEL) == []
    strata = {
        row["stratum"]
        for row in ensemble_rows(workspace, GradingParams(decision="thresholds"), MODEL)
    }
    assert strata == {"grading=thresholds"}


def test_each_reading_goes_on_from_the_one_before_on_held_out_eyes(workspace):
    rows = ensemble_rows(workspace, ALL, MODEL)
    assert set(rows[0]) <= set(SCHEMAS["evaluation"].names)
    found = table(rows)
    assert found.index.is_unique
    assert set(found.index.droplevel("metric")) == {
        (split, f"grading={name}")
        for split in ("validation", "test")
        for name in ("poses", "poses+fellow", "poses+fellow+thresholds")
    }
    test = found["test"]
    assert test["grading=poses", "eyes"] == 60
    # Every patient's eyes share a stage, and stage 0 is called too often: each step helps here.
    kappas = [
        test[f"grading={name}", "qwk"]
        for name in ("poses", "poses+fellow", "poses+fellow+thresholds")
    ]
    assert kappas == sorted(kappas)
    assert kappas[0] < kappas[2]
    assert test["grading=poses+fellow", "fellow_share"] > 0.25
    thresholds = [
        test["grading=poses+fellow+thresholds", f"threshold_stage{number}"]
        for number in (1, 2, 3, 4)
    ]
    assert thresholds == sorted(thresholds)


def test_calibration_is_chosen_on_validation_eyes_and_told_before_and_after(workspace):
    grading = GradingParams(fellow_eye=True, calibration="bias_corrected", decision="thresholds")
    found = table(ensemble_rows(workspace, grading, MODEL))
    test = found["test"]
    before, after = "grading=fellow", "grading=fellow+calibrated"
    assert {f"{after}+thresholds", before, after} == set(test.index.droplevel("metric"))
    # Stage 0 was made too likely: it gets the lowest bias, and the answers' sureness becomes truer.
    biases = [test[after, f"bias_stage{stage}"] for stage in range(5)]
    assert min(biases) == biases[0] < 0
    assert test[after, "temperature"] > 0
    assert test[after, "ece"] < test[before, "ece"]
    shares = test[after].filter(like="referral_specificity_")
    assert len(shares) == 7
    assert shares.iloc[-1] >= shares.iloc[0]


def test_what_is_chosen_never_depends_on_test_eyes(workspace):
    def chosen(rows):
        found = table(rows)
        return found[found.index.get_level_values("metric").str.fullmatch(CHOSEN)]

    before = chosen(ensemble_rows(workspace, ALL, MODEL))
    rows = workspace.frame(POSES_TABLE, model_id=MODEL)
    test = rows["split"] == "test"
    rows.loc[test, "stage"] = 4 - rows.loc[test, "stage"]
    workspace.write_table(POSES_TABLE, rows.drop(columns="model_id"), partition=MODEL, part="00000")
    pd.testing.assert_series_equal(chosen(ensemble_rows(workspace, ALL, MODEL)), before)


def test_without_labelled_validation_eyes_there_are_no_thresholds(workspace):
    rows = workspace.frame("predictions", model_id=MODEL).drop(columns="model_id")
    rows.loc[rows["split"] == "validation", "stage"] = pd.NA
    workspace.write_table("predictions", rows, partition=MODEL, part="00000")
    found = ensemble_rows(workspace, GradingParams(fellow_eye=True, decision="thresholds"), MODEL)
    assert {(row["split"], row["stratum"]) for row in found} == {("test", "grading=fellow")}
    assert table(found)["test", "grading=fellow", "fellow_share"] == 0


def test_the_last_ensemble_is_told_in_words(workspace):
    found = pd.DataFrame(ensemble_rows(workspace, ALL, MODEL))
    words = in_words(found[found["split"] == "test"])
    value = table(ensemble_rows(workspace, ALL, MODEL))["test", "grading=poses+fellow+thresholds"]
    assert (
        words == f"; with poses, fellow, thresholds kappa {value['qwk']:.3f}, stage 1 sensitivity "
        f"{value['sensitivity_stage1']:.3f} at specificity {value['specificity_stage1']:.3f}"
    )
    assert in_words(found[:0]) == ""
