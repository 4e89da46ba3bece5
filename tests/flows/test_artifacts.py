"""What a run leaves on Prefect's page: sheets and plots as small pictures, rejects and measures
as tables.
"""

import base64
import json
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)

from dr_lib.evaluation.metrics import evaluate
from storage import open_workspace
from storage.tables.schemas import SCHEMAS
from tasks.access import model_quality as report_model
from tasks.run.artifacts import REJECTS_SHOWN, SHEET_BYTES, show_model, show_rejects
from tasks.train.shard import prediction_rows

MODEL = "0123456789ab"
EYES = 40

pytestmark = pytest.mark.usefixtures("prefect_server")


def left_by(work) -> dict:
    """The artifacts that a flow and the flows within it leave, by key."""

    @flow(name="probe")
    def probe():
        from prefect.runtime import flow_run

        work()
        return flow_run.id

    run_id = probe()
    wanted = (
        FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id])),
    )
    with get_client(sync_client=True) as client:
        found = [
            artifact for one in wanted for artifact in client.read_artifacts(flow_run_filter=one)
        ]
    return {artifact.key: artifact for artifact in found}


def picture(artifact) -> tuple[int, np.ndarray]:
    """How many bytes the picture of a markdown artifact has, and the picture."""
    data = base64.b64decode(
        re.search(r"\(data:image/(?:jpeg|png);base64,([^)]+)\)", artifact.data)[1]
    )
    return len(data), cv2.imdecode(np.frombuffer(data, np.uint8), 1)


@pytest.fixture
def graded(tmp_path, monkeypatch):
    """A workspace with the predictions and grades of a model that is right about most eyes, and
    is never unsure.
    """
    ws = open_workspace(tmp_path / "workspace")
    stages = np.arange(EYES) % 5
    wrong = np.where(np.arange(EYES) % 7 == 0, (stages + 1) % 5, stages)
    probabilities = np.where(np.arange(5) == wrong[:, None], 0.8, 0.05).astype(np.float32)
    eyes = pd.DataFrame(
        {
            "image_id": [f"{n}_left" for n in range(EYES)],
            "patient_id": [str(n) for n in range(EYES)],
        }
    )
    eyes = eyes.assign(source=None, eye="left", split="test", stage=pd.array(stages, "Int8"))
    ws.write_table("predictions", prediction_rows(eyes, probabilities), partition=MODEL)
    rows = evaluate(
        stages, probabilities, bootstrap_patients=eyes["patient_id"].to_numpy(str), resamples=20
    ).rows()
    grades = [
        {"split": "test", "stratum": name, "images": EYES, **row}
        for name in ("all", "quality=good")
        for row in rows
    ]
    ws.write_table(
        "evaluation",
        pd.DataFrame(grades).reindex(columns=SCHEMAS["evaluation"].names),
        partition=MODEL,
    )
    step = np.arange(1, 9)
    history = pd.DataFrame(
        {"step": step, "loss": 1 / step, "learning_rate": 1e-3, "validation_qwk": step / 10}
    )
    monkeypatch.setattr(report_model, "load_history", lambda workspace, model_id: history)
    return ws


def test_a_models_plots_and_measures_are_left_to_look_at(graded):
    left = left_by(lambda: show_model(graded, MODEL))
    assert set(left) == {
        f"train-{name}"
        for name in ("confusion", "roc", "reliability", "learning-curves", "evaluation")
    }
    for key in set(left) - {"train-evaluation"}:
        size, drawn = picture(left[key])
        assert size < 150_000
        assert drawn.std() > 5, "a plot, not an empty page"
    table = json.loads(left["train-evaluation"].data)
    assert [row["measure"] for row in table[:3]] == [
        "Quadratic weighted kappa",
        "Kappa of the expected stage",
        "Accuracy",
    ]
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3} to \d\.\d{3}\)", table[0]["value (95 % interval)"])


def test_rejects_are_a_table_of_their_step_and_a_long_one_is_cut_and_says_so(tmp_path):
    ws = open_workspace(tmp_path / "workspace")
    assert left_by(lambda: show_rejects(ws, "ingest")) == {}
    blank = dict.fromkeys(ws.rejects().columns)
    rows = [
        {**blank, "image_id": f"{n}_left", "step": "ingest", "reason": "empty"}
        for n in range(REJECTS_SHOWN + 5)
    ]
    ws.write_table(
        "rejects",
        pd.DataFrame(
            [*rows, {**blank, "image_id": "x_left", "step": "preprocess", "reason": "no_retina"}]
        ),
    )
    table = left_by(lambda: show_rejects(ws, "ingest"))["ingest-rejects"]
    assert len(json.loads(table.data)) == REJECTS_SHOWN
    assert table.description.startswith(
        f"{REJECTS_SHOWN + 5} set aside: {REJECTS_SHOWN + 5} empty; the first"
    )


def test_preprocessing_leaves_its_sheets_when_it_had_work(
    tmp_path, drawn_photos, tiny_config, dask_address
):
    from flows.pipeline import FLOWS

    photos = tmp_path / "photos"
    shutil.copytree(
        drawn_photos, photos, ignore=lambda folder, names: [n for n in names if n[0] in "3456789"]
    )
    cv2.imwrite(str(photos / "train" / "501_left.jpeg"), np.full((300, 400, 3), 90, np.uint8))
    with (photos / "trainLabels.csv").open("a") as labels:
        labels.write("501_left,0\n")
    config = str(tiny_config(photos))
    FLOWS["ingest"](config)

    def preprocess():
        FLOWS["preprocess"](
            config, ["preprocess.quality_threshold=1.0", f"dask.address={dask_address}"]
        )

    sheets = {"preprocess-samples", "preprocess-flagged", "preprocess-set-aside"}
    left = left_by(preprocess)
    assert sheets | {"preprocess-rejects"} <= set(left)
    for key in sheets:
        size, drawn = picture(left[key])
        assert size <= SHEET_BYTES
        assert drawn.shape[1] > 250
    assert "score below 1 and are flagged" in left["preprocess-flagged"].data
    assert not sheets & set(left_by(preprocess)), "nothing new, nothing left"


def test_outside_a_run_nothing_is_left_anywhere(graded):
    show_model(graded, MODEL)
    show_rejects(graded, "ingest")
