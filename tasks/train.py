"""Training, grading and predicting: one Prefect task in the flow's own process, since it uses every core (or the GPU).

A model belongs to its settings: `training_id` is the hash of everything that decides it except the photographs, so a
nightly run with new photographs keeps the model unless `training.on_new_data = "retrain"`.
"""

import functools
import importlib.metadata
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from dr_lib import backend
from dr_lib.evaluation import evaluate
from dr_lib.model import STAGES, ModelParams, build, probabilities
from dr_lib.training import StepReport, TrainingDiverged, TrainingParams
from dr_lib.training import train as fit
from storage import Workspace
from storage.ids import content_id
from storage.models import save_model
from storage.scratch import remove_scratch, scratch_folder
from tasks.errors import UserError
from tasks.preprocess import usable_rows
from tasks.progress import progress, say
from tasks.recipe import Recipe, settings_of
from tasks.runs import versions
from tasks.session import Session, StageResult
from tasks.settings import TrainingPolicy
from tasks.stores import as_text, fundus_store
from tasks.worker import loaded_model

STEP = "train"
PREDICTION_BATCH = 16


def train(session: Session, recipe: Recipe, config: dict[str, Any]) -> StageResult:
    """Trains a model unless these settings already have one; then predicts and grades every eye not yet predicted."""
    workspace = session.workspace
    photos = workspace.photos()
    eyes = photos.iloc[usable_rows(workspace, recipe.preprocess_id)]
    labelled = eyes[eyes["stage"].notna() & eyes["present"]]
    manifest = content_id({"eyes": as_text(labelled[["image_id", "sha256", "split"]])})
    retrain = isinstance(recipe.training, TrainingPolicy) and recipe.training.on_new_data == "retrain"
    model_id = recipe.find_model(workspace, manifest if retrain else None)
    trained = 0
    if model_id is None:
        model_id = _train(workspace, recipe, labelled, manifest, config)
        trained = int((labelled["split"] == "train").sum())
    new = _predict(workspace, recipe.preprocess_id, model_id, eyes)
    return StageResult(STEP, len(eyes), trained or new, f"model {model_id}: {_grade(workspace, model_id)}")


@task(name="train the model", task_run_name="train {recipe.model.backbone}", cache_policy=NO_CACHE, persist_result=False)
def _train(workspace: Workspace, recipe: Recipe, labelled: pd.DataFrame, manifest: str, config: dict[str, Any]) -> str:
    params = recipe.training
    backend.configure(deterministic=True)
    say(f"train: {params.steps:,} mini-batches of {params.batch_size} on {backend.device()}")
    store = fundus_store(workspace, recipe.preprocess_id)
    splits = {name: labelled[labelled["split"] == name] for name in ("train", "validation")}
    for name, rows in splits.items():
        if rows.empty:
            raise UserError(
                f"no labelled eye is in the {name} split; run dr preprocess, add photographs or change data.split_seed"
            )

    def fetch_from(rows: pd.DataFrame, indices: np.ndarray) -> np.ndarray:
        return store.read_rows(rows["position"].to_numpy()[indices], ["pixels"])["pixels"]

    try:
        model = build(recipe.model)
    except ValueError as error:
        raise UserError(str(error)) from None
    scratch = scratch_folder(workspace, f"training-{recipe.training_id}-{manifest}")
    try:
        with progress(STEP, params.steps, "mini-batches") as advance:
            history = fit(
                model,
                functools.partial(fetch_from, splits["train"]),
                splits["train"]["stage"].to_numpy(np.int64),
                params,
                validation_fetch=functools.partial(fetch_from, splits["validation"]),
                validation_stages=splits["validation"]["stage"].to_numpy(np.int64),
                checkpoint_dir=scratch,
                on_step=_Reporter(advance),
            )
    except TrainingDiverged as error:
        raise UserError(str(error)) from None
    except ValueError as error:  # such as a stage without examples, named
        raise UserError(str(error)) from None
    weights = scratch / "final.weights.h5"
    model.save_weights(weights)
    record = {
        "training_id": recipe.training_id,
        "manifest": manifest,
        "preprocess_id": recipe.preprocess_id,
        "architecture": settings_of(ModelParams, recipe.model),
        "training": settings_of(TrainingParams, params),
        "eyes": {name: len(rows) for name, rows in splits.items()},
        "chosen_step": history.chosen_step,
        "best_validation_qwk": history.best_qwk,
        "step_seconds": history.step_s,
        "input_wait_share": history.wait_share,
        "versions": versions() | {"dr-explain": importlib.metadata.version("dr-explain")},
        "git_commit": _git_commit(),
        "configuration": config,
    }
    model_id = save_model(workspace, weights, record, pd.DataFrame(history.rows))
    say(
        f"train: {history.step_s:.2f} s a mini-batch, {history.wait_share:.1%} of it waiting for pixels; best after {history.chosen_step}"
    )
    remove_scratch(workspace, scratch.name)
    return model_id


class _Reporter:
    """Turns the loop's step reports into progress; the first report of a resumed run counts what was done before."""

    def __init__(self, advance: Any):
        self.advance, self.done = advance, 0

    def __call__(self, report: StepReport) -> None:
        kappa = "" if report.best_qwk is None else f" · best validation kappa {report.best_qwk:.3f}"
        self.advance(report.step - self.done, f"loss {report.loss:.3f}{kappa}")
        self.done = report.step


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _predict(workspace: Workspace, fundus_id: str, model_id: str, eyes: pd.DataFrame) -> int:
    """Writes the predictions that are missing, a part a fundus shard; returns how many eyes were predicted now."""
    store = fundus_store(workspace, fundus_id)
    parts = []
    for span in store.spans():
        rows = eyes[(eyes["position"] >= span.start) & (eyes["position"] < span.stop)]
        part = f"{span.index:05d}"
        digest = content_id({"eyes": as_text(rows[["image_id", "sha256", "split", "stage"]])})
        if rows.empty:
            workspace.remove_part("predictions", model_id, part)
        elif not workspace.has_part("predictions", model_id, part, digest=digest):
            parts.append((part, digest, rows))
    if not parts:
        return 0
    model = loaded_model(workspace.location, model_id)
    with progress("predict", sum(len(rows) for *_, rows in parts)) as advance:
        for part, digest, rows in parts:
            pixels = store.read_rows(rows["position"].to_numpy(), ["pixels"])["pixels"]
            workspace.write_table(
                "predictions",
                prediction_rows(rows, probabilities(model, pixels, PREDICTION_BATCH)),
                partition=model_id,
                part=part,
                digest=digest,
            )
            advance(len(rows))
    return sum(len(rows) for *_, rows in parts)


def prediction_rows(eyes: pd.DataFrame, found: np.ndarray) -> pd.DataFrame:
    """Rows of `predictions` for eyes and their probabilities (eye, 5)."""
    frame = eyes[["image_id", "patient_id", "eye", "split", "stage"]].reset_index(drop=True)
    frame["predicted_stage"] = found.argmax(axis=1).astype(np.int8)
    for stage in range(STAGES):
        frame[f"probability_stage{stage}"] = found[:, stage]
    frame["expected_stage"] = (found @ np.arange(STAGES)).astype(np.float32)
    frame["probability_referable"] = found[:, 2:].sum(axis=1)
    return frame


def _grade(workspace: Workspace, model_id: str) -> str:
    """Writes the table `evaluation` for the model; returns the test split's kappa and AUC in words."""
    predictions = workspace.frame("predictions", model_id=model_id)
    predictions = predictions[predictions["stage"].notna()]
    digest = content_id({"rows": len(predictions), "parts": workspace.part_digests("predictions", model_id)})
    if not workspace.has_part("evaluation", model_id, "model", digest=digest):
        rows = []
        for split in sorted(predictions["split"].unique()):
            in_split = predictions[predictions["split"] == split]
            rows += _evaluation_rows(in_split, split, "all")
            for eye in ("left", "right"):
                rows += _evaluation_rows(in_split[in_split["eye"] == eye], split, f"eye={eye}")
        workspace.write_table("evaluation", pd.DataFrame(rows), partition=model_id, part="model", digest=digest)
    graded = workspace.frame("evaluation", model_id=model_id)
    graded = graded[(graded["split"] == "test") & (graded["stratum"] == "all")].set_index("metric")
    if graded.empty:
        return "no labelled eye in the test split"

    def with_interval(name: str) -> str:
        value, low, high = graded.loc[name, ["value", "low", "high"]]
        return f"{value:.3f} ({low:.3f}–{high:.3f})"

    eyes = int(graded["images"].iloc[0])
    return f"on {eyes:,} test eyes kappa {with_interval('qwk')}, AUC of referable disease {with_interval('auc_referable')}"


def _evaluation_rows(predictions: pd.DataFrame, split: str, stratum: str) -> Sequence[dict[str, Any]]:
    if predictions.empty:
        return []
    found = predictions[[f"probability_stage{stage}" for stage in range(STAGES)]].to_numpy(np.float32)
    graded = evaluate(predictions["stage"].to_numpy(np.int64), found, bootstrap_patients=predictions["patient_id"].to_numpy(str))
    return [{"split": split, "stratum": stratum, "images": len(predictions), **row} for row in graded.rows()]
