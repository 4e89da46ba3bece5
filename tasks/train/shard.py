"""What is trained and predicted where the network runs: on a worker with a GPU, or in the run's own
process. Knows no Prefect.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.evaluation.grading import averaged_probabilities
from dr_lib.network import backend
from dr_lib.network.model import build, probabilities
from dr_lib.training import History, TrainingDiverged, TrainingParams, write_weights
from dr_lib.training import train as fit
from dr_lib.vocabulary import PROBABILITIES, REFERABLE, STAGE_COUNT
from storage import Workspace
from storage.arrays.row_copy import RowCopy
from storage.contents.models import ModelRecord, save_model
from storage.errors import writing
from storage.files.scratch import remove_scratch, scratch_folder
from tasks.access.stores import fundus_store
from tasks.execution.worker import fundi, loaded_model
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe, settings_of, weights_identity
from tasks.run.table_part import TablePart
from tasks.train.model_record import model_record

PREDICTION_BATCH = 16


@dataclass(frozen=True)
class TrainingJob:
    """A model to train. splits: the eyes of `train` and `validation`. labels: what it learns, as
    its files keep them. config: the whole configuration. manifest, labels_digest: digests of the
    photographs with their splits, and of the labels.
    """

    workspace: Workspace
    recipe: Recipe
    splits: Mapping[str, pd.DataFrame]
    labels: pd.DataFrame
    config: dict[str, Any]
    manifest: str
    labels_digest: str


def train_model(job: TrainingJob, report: Callable[..., None]) -> str:
    """Trains, from the last checkpoint where there is one, and stores the model; returns its id.

    Parameters
    ----------
    report: gets each mini-batch's number, its loss, and the best validation's kappa.

    Raises
    ------
    UserError: where it cannot be trained, such as for want of a stage, or has diverged.
    """
    backend.configure(deterministic=True)
    recipe, files = job.recipe, job.workspace.files
    store = fundus_store(job.workspace, recipe.preprocess_id)
    scratch = scratch_folder(files, f"training-{recipe.training_id}-{job.manifest}")
    with writing(scratch), RowCopy(store, "pixels", scratch) as pixels:

        def fetch_from(rows: pd.DataFrame, indices: np.ndarray) -> np.ndarray:
            return pixels.read(rows["position"].to_numpy()[indices])

        learnt, validation = job.splits["train"], job.splits["validation"]
        try:
            model = build(recipe.model)
            with backend.computing_in("tf32"):  # as both frameworks choose; grading does not
                history = fit(
                    model,
                    functools.partial(fetch_from, learnt),
                    learnt["stage"].to_numpy(np.int64),
                    recipe.training,
                    sources=learnt["source"].fillna("").to_numpy(str),
                    validation_fetch=functools.partial(fetch_from, validation),
                    validation_stages=validation["stage"].to_numpy(np.int64),
                    checkpoint_dir=scratch,
                    on_step=lambda step: report(step.step, step.loss, step.best_qwk),
                )
        except (ValueError, TrainingDiverged) as error:  # such as a stage without examples, named
            raise UserError(str(error)) from None
        weights = scratch / "final.weights.h5"
        write_weights(model, weights)
    model_id = save_model(
        files, weights, trained_record(job, history), pd.DataFrame(history.rows), job.labels
    )
    remove_scratch(files, scratch.name)
    return model_id


def trained_record(job: TrainingJob, history: History) -> ModelRecord:
    """The record of a model trained here."""
    recipe = job.recipe
    notes = {
        "backbone_weights_identity": weights_identity(recipe.model),
        "seed": {"model": recipe.model.seed, "training": recipe.training.seed},
        "training": settings_of(TrainingParams, recipe.training),
        "eyes": {name: len(rows) for name, rows in job.splits.items()},
        "chosen_step": history.chosen_step,
        "best_validation_qwk": history.best_qwk,
        "input_wait_share": history.wait_share,
    }
    return model_record(
        recipe,
        "trained",
        job.config,
        notes,
        training_id=recipe.training_id,
        manifest=job.manifest,
        labels=job.labels_digest,
        least_quality=recipe.least_quality,
        step_seconds=history.step_s,
    )


@dataclass(frozen=True)
class PredictionJob:
    """Parts of a table of predictions, each with its eyes."""

    workspace: Workspace
    table: str
    preprocess_id: str
    model_id: str
    parts: Sequence[tuple[TablePart, pd.DataFrame]]
    poses: int


def predict(job: PredictionJob, report: Callable[..., None]) -> None:
    """Predicts the eyes and writes the parts; `report` gets how many eyes each has."""
    extra = {} if job.poses == 1 else {"poses": job.poses}
    location = job.workspace.location
    model = loaded_model(location, job.model_id)
    answers = functools.partial(probabilities, model, batch_size=PREDICTION_BATCH)
    for part, eyes in job.parts:
        if part.missing(job.table):  # else a worker that died has written it
            pixels = fundi(location, job.preprocess_id, eyes["position"].to_numpy())
            mean = averaged_probabilities(answers, pixels, job.poses)
            part.write(job.table, prediction_rows(eyes, mean).assign(**extra))
        report(len(eyes))


def prediction_rows(eyes: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Rows of `predictions` for eyes and their probabilities (eye, 5)."""
    columns = ["image_id", "source", "patient_id", "eye", "split", "stage"]
    frame = eyes[columns].reset_index(drop=True)
    frame["predicted_stage"] = probabilities.argmax(axis=1).astype(np.int8)
    frame[PROBABILITIES] = probabilities
    frame["expected_stage"] = (probabilities @ np.arange(STAGE_COUNT)).astype(np.float32)
    frame["probability_referable"] = probabilities[:, REFERABLE:].sum(axis=1)
    return frame
