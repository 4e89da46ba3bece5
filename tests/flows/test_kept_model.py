"""A model that is kept though labels were corrected says so; no grade rests on photographs that
are gone.
"""

import numpy as np
import pandas as pd
import pytest

from dr_lib.report import Head, render
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from dr_lib.training import History
from flows.config import PipelineConfig, load_config
from storage import Workspace
from storage.contents.models import save_model
from tasks.access.images import gone_words, predictions_here
from tasks.access.quality import GOOD
from tasks.report.data import ReportData
from tasks.report.sections import model
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session
from tasks.train import shard, step
from tests.flows.explainable import prepare, write_config
from tests.flows.inline import InlinePool

EYES = 20


def section_says(workspace: Workspace, model_id: str) -> str:
    """What the report's section of the model says."""
    ids = ResolvedIds(workspace.location, "", model_id, "")
    data = ReportData(workspace, None, {}, ids, None, pd.DataFrame())
    folder = Folder()
    section = Section("model", "Model", model.content(data, folder))
    return render(Head(), [section], folder)["index.html"]


def labelled(workspace: Workspace) -> pd.DataFrame:
    frame = workspace.photos()
    return frame.assign(split=["train"] * 10 + ["validation"] * 4 + ["test"] * 6)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A configuration, its workspace, and the list of the trainings that the step has started."""
    file = write_config(tmp_path)
    _, workspace = prepare(
        file, [f"{number // 2 + 1}_{('left', 'right')[number % 2]}" for number in range(EYES)]
    )
    frame = labelled(workspace)
    workspace.write_table("photos", frame)
    trained = []

    def fit(job, workers):
        trained.append((job.manifest, job.labels_digest))
        weights = tmp_path / f"{len(trained)}.weights.h5"
        shard.build(job.recipe.model).save_weights(weights)
        record = shard.trained_record(job, History([], 0, 0, None, 0.0, 0.0))
        return save_model(
            job.workspace.files, weights, record, pd.DataFrame({"step": [1]}), job.labels
        )

    monkeypatch.setattr(step, "_train", fit)
    monkeypatch.setattr(step, "_predict", lambda *_given: 0)
    monkeypatch.setattr(step, "_grade", lambda *_given: "graded")
    monkeypatch.setattr(step, "show_model", lambda *_given: None)
    return file, workspace, trained


def run(file, workspace: Workspace, *settings: str) -> str:
    config: PipelineConfig = load_config(
        file, ["training.seed=7", *settings]
    )  # not the settings of the model that is there
    return step.train(Session(workspace, InlinePool()), config.recipe, {}).message


def correct(workspace: Workspace, change: int = 1) -> None:
    frame = labelled(workspace)
    workspace.write_table("photos", frame.assign(stage=(np.arange(EYES) + change) % 5))


def test_corrected_labels_are_told_with_what_to_do_and_the_model_is_kept(kept):
    file, workspace, trained = kept
    first = run(file, workspace)
    assert "differ" not in first
    correct(workspace)
    told = run(file, workspace)
    assert len(trained) == 1
    assert (
        told
        == f"{first}; 14 of 14 labels differ from those the model learned from (14 corrected): it"
        " is kept; train one that learns from today's with --set training.on_new_data=retrain"
    )
    assert "14 of 14 labels differ" in section_says(workspace, first.split()[1].rstrip(":"))


def test_retrain_takes_corrected_labels_for_new_data(kept):
    file, workspace, trained = kept
    first = run(file, workspace)
    assert run(file, workspace, "training.on_new_data=retrain") == first, "nothing is new"
    correct(workspace)
    second = run(file, workspace, "training.on_new_data=retrain")
    assert len(trained) == 2
    assert "differ" not in second
    assert run(file, workspace) == second, "the newest is the model of these settings from then on"
    correct(workspace, 0)
    assert run(file, workspace, "training.on_new_data=retrain") == first, (
        "taken back, the first one is the right one again"
    )


def test_a_model_from_before_its_labels_were_kept_is_not_trained_anew(kept):
    file, workspace, trained = kept
    first = run(file, workspace).split()[1].rstrip(":")
    record = workspace.files.read_json(f"models/{first}/model.json")
    workspace.files.write_json(
        f"models/{first}/model.json", {key: record[key] for key in record if key != "labels"}
    )
    workspace.files.remove(f"models/{first}/labels.parquet")
    assert run(file, workspace, "training.on_new_data=retrain") == f"model {first}: graded"
    assert len(trained) == 1


def test_a_named_model_says_that_its_name_must_go(kept):
    file, workspace, _ = kept
    first = run(file, workspace).split()[1].rstrip(":")
    correct(workspace)
    told = run(file, workspace, f"training.model_id={first}")
    assert "it is kept; leave training.model_id empty and train one" in told


def grade(file, workspace: Workspace, monkeypatch, absent: list[str]) -> str:
    """What the step says of a model's grades where these eyes' photographs are gone."""
    frame = labelled(workspace)
    workspace.write_table("photos", frame.assign(present=~frame["image_id"].isin(absent)))
    found = np.random.default_rng(0).dirichlet(np.ones(5), EYES).astype(np.float32)
    model_id = workspace.latest_model()
    workspace.write_table("predictions", shard.prediction_rows(frame, found), partition=model_id)
    monkeypatch.setattr(step, "strata", lambda workspace, recipe, ids: pd.Series(GOOD, ids.index))
    return step._grade(workspace, load_config(file).recipe, model_id)


@pytest.fixture
def graded(tmp_path):
    file = write_config(tmp_path)
    _, workspace = prepare(
        file, [f"{number // 2 + 1}_{('left', 'right')[number % 2]}" for number in range(EYES)]
    )
    return file, workspace


def test_grades_rest_on_photographs_that_are_there(graded, monkeypatch):
    file, workspace = graded
    test = labelled(workspace).loc[lambda frame: frame["split"] == "test", "image_id"].tolist()
    assert grade(file, workspace, monkeypatch, []).startswith("on 6 test eyes kappa")
    assert grade(file, workspace, monkeypatch, test[:2]).startswith("on 4 test eyes kappa")
    assert grade(file, workspace, monkeypatch, test[:1] + test[2:3]).startswith(
        "on 4 test eyes kappa"
    )
    assert grade(file, workspace, monkeypatch, test) == "no labelled eye in the test split"
    evaluation = workspace.frame("evaluation")
    assert set(evaluation["split"]) == {"train", "validation"}
    model_id = workspace.latest_model()
    assert len(predictions_here(workspace, model_id)) == EYES - len(test)
    assert len(workspace.frame("predictions")) == EYES, (
        "what was explained of them still finds its grade"
    )
    assert "No labelled eye is in the test split.</span>" in section_says(workspace, model_id)
    assert grade(file, workspace, monkeypatch, []).startswith("on 6 test eyes kappa"), "back again"


def test_eyes_that_are_gone_are_counted_in_words(graded):
    _, workspace = graded
    frame = workspace.photos()
    assert gone_words(workspace, frame["image_id"]) == ""
    workspace.write_table("photos", frame.assign(present=frame["position"] > 1))
    assert gone_words(workspace, frame["image_id"]) == ", 2 of them no longer in the data folder"
    assert gone_words(workspace, frame["image_id"][5:]) == ""
