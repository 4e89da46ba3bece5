"""Training, grading and predicting. Training cannot be divided: it has one GPU, or every core of
the flow's own process.

A model belongs to its settings: `training_id` is the hash of everything that decides it except the
photographs, so a nightly run with new photographs keeps the model unless `training.on_new_data =
"retrain"`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from dr_lib.formatting import percent, score, with_interval
from dr_lib.vocabulary import PROBABILITIES
from storage import Workspace
from storage.admin.learned_labels import RETRAIN, label_changes, learned_from
from storage.contents.models import load_record
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.images import predictions_here, usable_rows
from tasks.access.quality import FLAGGED, GOOD, strata
from tasks.access.sources import SOURCE, graded_sources
from tasks.access.stores import as_text, fundus_store, stored_digests
from tasks.execution.network import NetworkWorkers
from tasks.run.artifacts import show_model
from tasks.run.errors import UserError
from tasks.run.progress import progress, say
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.table_part import TablePart
from tasks.train.ensembles import (
    POSES_TABLE,
    Ensemble,
    ensemble_rows,
    evaluation_rows,
    in_words,
)
from tasks.train.model_record import record_metrics
from tasks.train.shard import PredictionJob, TrainingJob, predict, train_model

STEP = "train"


def train(session: Session, recipe: Recipe, config: dict[str, Any]) -> StepResult:
    """Trains a model unless these settings already have one; then predicts and grades every eye
    not yet predicted.
    """
    workspace = session.workspace
    photos = workspace.photos()
    eyes = photos.iloc[usable_rows(workspace, recipe.preprocess_id)]
    learnable = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    labelled = eyes[
        eyes["stage"].notna()
        & eyes["present"]
        & eyes["position"].isin(learnable)
        & ~eyes["split"].isin(["external", "excluded"])  # new ones call for no new model
    ]
    manifest = content_id({"eyes": as_text(labelled[["image_id", "sha256", "split"]])})
    learned = learned_from(labelled)
    labels = content_id({"labels": as_text(learned)})
    model_id = recipe.find_model(
        workspace, *((manifest, labels) if recipe.policy.on_new_data == "retrain" else ())
    )
    trained = 0
    if model_id is None:
        _check_preprocessed(workspace, recipe.preprocess_id, photos)
        splits = {name: labelled[labelled["split"] == name] for name in ("train", "validation")}
        job = TrainingJob(workspace, recipe, splits, learned, config, manifest, labels)
        model_id = _train(job, session.network)
        trained = int((labelled["split"] == "train").sum())
    new = _predict(session, recipe, model_id, eyes)
    if (poses := recipe.grading.poses) > 1:
        held_out = eyes[eyes["split"] != "train"]
        _predict(session, recipe, model_id, held_out, poses)
    graded = _grade(workspace, recipe, model_id)
    record_metrics(workspace, model_id)
    if trained or new:
        show_model(workspace, model_id)
    present = int(eyes["present"].sum())
    return StepResult(STEP, present, trained or new, f"model {model_id}: {graded}").and_then(
        labels_differ(workspace, recipe, model_id)
    )


def labels_differ(workspace: Workspace, recipe: Recipe, model_id: str) -> str:
    """That labels differ from those the model learned from, and what to do; empty where none
    does.
    """
    changes = label_changes(workspace, model_id)
    if changes is None:
        return ""
    free = "leave training.model_id empty and " if recipe.policy.model_id else ""
    return f"{changes}: it is kept; {free}{RETRAIN}"


def _check_preprocessed(workspace: Workspace, preprocess_id: str, photos: pd.DataFrame) -> None:
    """Raises UserError for photographs that an interrupted `dr preprocess` left out: the model
    would never see them.
    """
    present = photos.loc[photos["present"], "image_id"]
    waiting = int((~present.isin(stored_digests(fundus_store(workspace, preprocess_id)))).sum())
    if waiting:
        raise UserError(
            f"{waiting:,} of {len(present):,} photographs have not been preprocessed; "
            "run `dr preprocess` with the same configuration and --set first"
        )


@task(
    name="train the model",
    task_run_name="train {job.recipe.model.backbone}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _train(job: TrainingJob, workers: NetworkWorkers) -> str:
    params = job.recipe.training
    for name, rows in job.splits.items():
        if rows.empty:
            raise UserError(
                f"no labelled eye is in the {name} split; run dr preprocess, add photographs or"
                " change data.split_seed"
            )
    say(
        f"train: {params.steps:,} mini-batches of {params.batch_size} on the"
        f" {'GPU' if workers.has_gpus else 'CPU'}"
    )
    with progress(STEP, params.steps, "mini-batches") as advance:
        model_id = workers.run_whole(train_model, job, _reporter(advance))
    record = load_record(job.workspace.files, model_id)
    waiting = percent(record.notes["input_wait_share"], 1)
    say(
        f"train: {record.step_seconds:.2f} s a mini-batch, {waiting} of it waiting for pixels; best"
        f" after {record.notes['chosen_step']}"
    )
    return model_id


def _reporter(advance: Callable[..., None]) -> Callable[[int, float, float | None], None]:
    """Turns reports of mini-batches into progress. A run that goes on where it, or a worker that
    died, had stopped begins with what was done before, at no time at all.
    """
    done = 0

    def report_progress(step: int, loss: float, best_qwk: float | None) -> None:
        nonlocal done
        if step > done + 1:
            advance(step - 1 - done, earlier=True)
        kappa = "" if best_qwk is None else f" · best validation kappa {best_qwk:.3f}"
        advance(int(step > done), f"loss {loss:.3f}{kappa}")
        done = max(done, step)

    return report_progress


def _predict(
    session: Session, recipe: Recipe, model_id: str, eyes: pd.DataFrame, poses: int = 1
) -> int:
    """Writes the predictions that are missing, a part a fundus shard; returns how many eyes were
    predicted now.

    With more than one pose of the disc their mean goes into a table of its own: the model's own
    answer is what is explained.
    """
    workspace, preprocess_id = session.workspace, recipe.preprocess_id
    table, extra = ("predictions", {}) if poses == 1 else (POSES_TABLE, {"poses": poses})
    # Eyes of a source without a name keep the digest that they had before there were sources.
    columns = ["image_id", "sha256", "split", "stage"]
    columns += ["source"] if eyes["source"].notna().any() else []
    waiting = []
    for span in fundus_store(workspace, preprocess_id).spans():
        rows = eyes[eyes["position"].between(span.start, span.stop - 1)]
        made_from = {"eyes": as_text(rows[columns]), **extra}
        # An imported model may have been asked on another backend.
        made_from |= {"backend": recipe.backend} if recipe.backend != "tensorflow" else {}
        part = TablePart(workspace, model_id, span.part, content_id(made_from))
        if rows.empty:
            workspace.remove_part(table, model_id, span.part)
        elif part.missing(table):
            waiting.append((part, rows))
    count = sum(len(rows) for _, rows in waiting)
    if waiting:
        job = PredictionJob(workspace, table, preprocess_id, model_id, waiting, poses)
        with progress("predict", count) as advance:
            session.network.run_whole(predict, job, advance)
    return count


def _grade(workspace: Workspace, recipe: Recipe, model_id: str) -> str:
    """Writes the table `evaluation` for the model; returns the test split's kappa and AUC in
    words.
    """
    predictions = predictions_here(workspace, model_id)
    predictions = predictions[predictions["stage"].notna() & (predictions["split"] != "excluded")]
    quality = strata(workspace, recipe, predictions["image_id"])
    made_from = {
        "eyes": predictions["image_id"].tolist(),
        "parts": workspace.part_digests("predictions", model_id),
        "quality": quality.tolist(),
        "grading": dataclasses.asdict(recipe.grading),
        "poses": workspace.part_digests(POSES_TABLE, model_id),
    }
    part = TablePart(workspace, model_id, "model", content_id(made_from))
    if part.missing("evaluation"):
        members = {
            "all": quality.notna(),
            "eye=left": predictions["eye"] == "left",
            "eye=right": predictions["eye"] == "right",
            GOOD: quality == GOOD,
            FLAGGED: quality == FLAGGED,
        }
        members |= {
            f"{SOURCE}{name}": predictions["source"] == name
            for name in sorted(predictions["source"].dropna().unique())
        }
        own = Ensemble("all", predictions[PROBABILITIES].to_numpy(np.float32))
        rows = evaluation_rows(predictions, own, members)
        rows += ensemble_rows(workspace, recipe.grading, model_id)
        frame = pd.DataFrame(rows).reindex(columns=SCHEMAS["evaluation"].names)
        part.write("evaluation", frame)
    test = workspace.frame("evaluation", model_id=model_id, split="test")
    graded = test[test["stratum"] == "all"].set_index("metric")
    external = external_words(workspace, model_id)
    if graded.empty:
        return f"no labelled eye in the test split{external}"

    kappa, auc = (
        with_interval(*graded.loc[name, ["value", "low", "high"]])
        for name in ("qwk", "auc_referable")
    )
    return (
        f"on {graded['images'].iloc[0]:,} test eyes kappa {kappa}, AUC of referable disease"
        f" {auc}{in_words(test)}{external}"
    )


def external_words(workspace: Workspace, model_id: str) -> str:
    """How the model does on external sources, as the end of a sentence; empty without any."""
    told = [
        f"{graded.source} kappa {score(graded.measures['qwk'][0])},"
        f" AUC {score(graded.measures['auc_referable'][0])}"
        for graded in graded_sources(workspace, model_id)
        if graded.split == "external" and not graded.reading
    ]
    return f"; external: {'; '.join(told)}" if told else ""
