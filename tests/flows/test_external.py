"""Eyes of an external source are graded by themselves: never learnt from, never validated on, never
used for a threshold, and shown side by side.
"""

import types

import numpy as np
import pandas as pd
import pytest

from dr_lib.evaluation.grading import GradingParams
from dr_lib.report import Head, render
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from flows.config import load_config
from storage import Workspace
from storage.tables.schemas import SCHEMAS
from tasks.access.quality import GOOD
from tasks.access.sources import evaluation_rows, graded_sources
from tasks.report.sections import sources
from tasks.run.session import Session
from tasks.run.table_part import TablePart
from tasks.train import shard, step
from tasks.train.ensembles import ensemble_rows
from tests.flows.explainable import prepare, write_config
from tests.flows.inline import InlinePool

EYES = 48
SPLITS = ["train"] * 12 + ["validation"] * 12 + ["test"] * 10 + ["external"] * 10 + ["excluded"] * 4


@pytest.fixture
def prepared(tmp_path):
    file = write_config(tmp_path)
    ids = [f"{number // 2 + 1}_{('left', 'right')[number % 2]}" for number in range(EYES)]
    _, workspace = prepare(file, ids)
    frame = workspace.photos().assign(
        split=SPLITS, source=["here"] * 34 + ["far"] * 10 + ["here"] * 4
    )
    workspace.write_table("photos", frame)
    return file, workspace


def graded(file, workspace: Workspace, monkeypatch) -> tuple[str, str]:
    """The model's id, and what the step says of its grades."""
    frame = workspace.photos()
    found = np.random.default_rng(0).dirichlet(np.ones(5), EYES).astype(np.float32)
    model_id = workspace.latest_model()
    workspace.write_table("predictions", shard.prediction_rows(frame, found), partition=model_id)
    monkeypatch.setattr(step, "strata", lambda workspace, recipe, ids: pd.Series(GOOD, ids.index))
    return model_id, step._grade(workspace, load_config(file).recipe, model_id)


def test_external_and_excluded_eyes_never_reach_the_training(prepared, monkeypatch):
    file, workspace = prepared
    taught = []
    monkeypatch.setattr(
        step,
        "_train",
        lambda job, _: taught.append(pd.concat(job.splits.values())) or "0123456789ab",
    )
    for name in ("_predict", "_grade", "record_metrics", "show_model", "labels_differ"):
        monkeypatch.setattr(step, name, lambda *_given: "")
    recipe = load_config(file, ["training.seed=7"]).recipe
    step.train(Session(workspace, InlinePool()), recipe, {})
    assert set(taught[0]["split"]) == {"train", "validation"}
    assert set(taught[0]["source"]) == {"here"}


def test_each_source_is_graded_in_a_stratum_of_its_own(prepared, monkeypatch):
    file, workspace = prepared
    model_id, told = graded(file, workspace, monkeypatch)
    rows = workspace.frame("evaluation", model_id=model_id)
    sizes = rows.drop_duplicates(["split", "stratum"]).set_index(["split", "stratum"])["images"]
    assert sizes["external", "source=far"] == 10
    assert sizes["test", "source=here"] == 10
    assert sizes["test", "all"] == 10, "eyes from elsewhere are no part of the test split"
    assert "excluded" not in sizes.index.get_level_values("split")
    own = rows[(rows["split"] == "external") & (rows["stratum"] == "source=far")]
    kappa = own.set_index("metric").loc["qwk"]
    assert kappa["low"] <= kappa["value"] <= kappa["high"]
    assert "; external: far kappa" in told


def test_a_threshold_does_not_depend_on_external_eyes(prepared, monkeypatch):
    file, workspace = prepared
    model_id, _ = graded(file, workspace, monkeypatch)

    def thresholds():
        rows = ensemble_rows(workspace, GradingParams(decision="thresholds"), model_id)
        found = pd.DataFrame(rows)
        return found[found["metric"].str.startswith("threshold_stage")]["value"].tolist()

    before = thresholds()
    rows = workspace.frame("predictions", model_id=model_id).drop(columns="model_id")
    outside = rows["split"].isin(["external", "excluded"])
    rows.loc[outside, "stage"] = 4 - rows.loc[outside, "stage"]
    workspace.write_table("predictions", rows, partition=model_id)
    assert thresholds() == before


def test_each_source_is_graded_by_the_last_ensemble_too(prepared, monkeypatch):
    file, workspace = prepared
    model_id, _ = graded(file, workspace, monkeypatch)
    grading = GradingParams(calibration="temperature", decision="thresholds")
    rows = pd.DataFrame(ensemble_rows(workspace, grading, model_id))
    part = TablePart(workspace, model_id, "ensembles", "1")
    part.write("evaluation", rows.reindex(columns=SCHEMAS["evaluation"].names))
    told = [(one.source, one.split, one.reading) for one in graded_sources(workspace, model_id)]
    last = "calibrated, thresholds"
    assert told == [
        ("here", "test", ""),
        ("here", "test", last),
        ("far", "external", ""),
        ("far", "external", last),
    ]


def test_predictions_know_their_source(prepared, monkeypatch):
    file, workspace = prepared
    model_id, _ = graded(file, workspace, monkeypatch)
    rows = workspace.frame("predictions", model_id=model_id).set_index("image_id")
    assert rows["source"].value_counts().to_dict() == {"here": 38, "far": 10}


def test_the_section_sets_the_sources_side_by_side(prepared, monkeypatch):
    file, workspace = prepared
    model_id, _ = graded(file, workspace, monkeypatch)
    shown = types.SimpleNamespace(workspace=workspace, ids=types.SimpleNamespace(model_id=model_id))

    def page() -> str:
        folder = Folder()
        section = Section("sources", "Sources", sources.content(shown, folder))
        return render(Head(), [section], folder)["sources.html"]

    assert "The photographs come from one source." in page()
    row = dict.fromkeys(workspace.frame("sources").columns, 0) | {"reasons": "", "place": "p"}
    held = [
        row | {"source": "here", "use": "train", "layout": "eyepacs", "patients_named": True},
        row | {"source": "far", "use": "external", "layout": "aptos", "patients_named": False},
    ]
    workspace.write_table("sources", pd.DataFrame(held))
    assert "On eyes from elsewhere: far AUC " in page()
    table = sources.side_by_side(graded_sources(workspace, model_id))
    assert [(row["source"], row["eyes"], row["learnt_from"]) for row in table] == [
        ("here", 10, "other patients of it"),
        ("far", 10, "never"),
    ]
    assert [row["split"] for row in evaluation_rows(workspace, model_id)] == ["test", "external"]
