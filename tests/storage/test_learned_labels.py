"""It is known which labels a model learned from, and said how today's differ."""

import pandas as pd
import pytest

from storage.admin.learned_labels import label_changes, learned_from
from storage.contents.models import ModelRecord, save_model
from tasks.access.status import describe
from tests.storage.test_models_store import HISTORY, weights_file
from tests.storage.test_tables import example, photos

FUNDI = "f" * 12
SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
RECORD = ModelRecord(training_id="t", preprocess_id=FUNDI, least_quality=0.5)


def catalogue(count: int = 10, **columns) -> pd.DataFrame:
    """Labelled eyes in three splits, eyes past the tenth to learn from."""
    stages = pd.array([row % 5 for row in range(count)], "Int8")
    return photos(count).assign(
        stage=stages, split=(SPLITS + ["train"] * count)[:count], present=True, **columns
    )


def write_quality(ws, scores: list[float]) -> None:
    rows = example("quality", len(scores)).assign(
        image_id=[f"{row}_left" for row in range(len(scores))], score=scores
    )
    ws.write_table("quality", rows, partition=FUNDI)


@pytest.fixture
def learned(ws, tmp_path):
    """A workspace with a model that learned from ten eyes, two of them test eyes; and its id."""
    frame = catalogue()
    ws.write_table("photos", frame)
    write_quality(ws, [1.0] * 10)
    return ws, save_model(ws.files, weights_file(tmp_path), RECORD, HISTORY, learned_from(frame))


def test_equal_labels_are_not_worth_a_word(learned):
    ws, model_id = learned
    assert label_changes(ws, model_id) is None
    assert "labels differ" not in str(describe(ws))


def test_corrected_labels_count_where_the_model_learned_from_them(learned):
    ws, model_id = learned
    frame = catalogue()
    ws.write_table("photos", frame.assign(stage=(frame["stage"] + 1) % 5))
    assert (
        label_changes(ws, model_id)
        == "8 of 8 labels differ from those the model learned from (8 corrected)"
    )
    (row,) = (row for row in describe(ws) if row["what"] == "model")
    told = (
        "8 of 8 labels differ from those the model learned from (8 corrected): train one that"
        " learns from today's with"
    )
    assert told in row["detail"]
    assert row["detail"].endswith("--set training.on_new_data=retrain")


def test_labels_of_test_eyes_decide_no_model(learned):
    ws, model_id = learned
    frame = catalogue()
    ws.write_table("photos", frame.assign(stage=frame["stage"].mask(frame["split"] == "test", 4)))
    assert label_changes(ws, model_id) is None


def test_removed_labels_and_removed_photographs_are_removed(learned):
    ws, model_id = learned
    frame = catalogue()
    frame.loc[0, "stage"] = pd.NA
    frame.loc[1, "present"] = False
    ws.write_table("photos", frame)
    assert (
        label_changes(ws, model_id)
        == "2 of 8 labels differ from those the model learned from (2 removed)"
    )


def test_new_labels_count_where_a_model_could_learn_from_them(learned):
    ws, model_id = learned
    frame = catalogue(15)
    frame.loc[14, "split"] = "test"
    frame.loc[13, "stage"] = pd.NA
    ws.write_table("photos", frame)
    assert label_changes(ws, model_id) is None, "none of them has a fundus"
    write_quality(ws, [1.0] * 11 + [0.4] + [1.0] * 3)
    changes = label_changes(ws, model_id)
    assert changes == "2 of 10 labels differ from those the model learned from (2 new)", (
        "10 and 12; 11 is too poor"
    )


def test_eyes_that_moved_into_the_test_split_are_said_to_test_what_they_taught(learned):
    ws, model_id = learned
    frame = catalogue()
    frame.loc[[0, 1], "split"] = "test"
    frame.loc[2, "split"] = "validation"
    frame.loc[[0, 3], "stage"] = 4
    ws.write_table("photos", frame)
    changes = label_changes(ws, model_id)
    assert changes == (
        "4 of 8 labels differ from those the model learned from"
        " (2 corrected, 2 in another split; 2 of them now test it)"
    )


def test_of_a_model_that_does_not_say_what_it_learned_from_nothing_is_said(ws, tmp_path):
    ws.write_table("photos", catalogue())
    model_id = save_model(
        ws.files, weights_file(tmp_path), ModelRecord(preprocess_id=FUNDI), HISTORY
    )
    assert label_changes(ws, model_id) is None
    assert label_changes(ws, "absent") is None


def test_only_of_the_newest_model_of_its_settings_is_said_what_to_do(learned, tmp_path):
    ws, old = learned
    frame = catalogue()
    corrected = frame.assign(stage=(frame["stage"] + 1) % 5)
    ws.write_table("photos", corrected)
    new = save_model(
        ws.files, weights_file(tmp_path, seed=1), RECORD, HISTORY, learned_from(corrected)
    )
    details = {row["id"]: row["detail"] for row in describe(ws) if row["what"] == "model"}
    assert details[old].endswith(
        "8 of 8 labels differ from those the model learned from (8 corrected)"
    )
    assert "differ" not in details[new]
