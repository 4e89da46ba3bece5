"""Training, grading and predicting: one Prefect task in the flow's own process, since it uses every
core (or the GPU).

A model belongs to its settings: `training_id` is the hash of everything that decides it except the
photographs, so a nightly run with new photographs keeps the model unless `training.on_new_data =
"retrain"`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from dr_lib.evaluation.grading import averaged_probabilities
from dr_lib.formatting import percent, score, with_interval
from dr_lib.network import backend
from dr_lib.network.model import build, probabilities
from dr_lib.training import StepReport, TrainingDiverged, write_weights
from dr_lib.training import train as fit
from dr_lib.vocabulary import PROBABILITIES, REFERABLE, STAGE_COUNT
from storage import Workspace
from storage.admin.learned_labels import RETRAIN, label_changes, learned_from
from storage.arrays.row_copy import RowCopy
from storage.contents.models import save_model
from storage.errors import writing
from storage.files.scratch import remove_scratch, scratch_folder
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.images import usable_rows
from tasks.access.present import predictions_here
from tasks.access.quality import FLAGGED, GOOD, strata
from tasks.access.sources import SOURCE, graded_sources
from tasks.access.stores import as_text, fundus_store, stored_digests
from tasks.execution.gpu import gpu_turn
from tasks.execution.worker import loaded_model
from tasks.run.artifacts import show_model
from tasks.run.errors import UserError
from tasks.run.progress import progress, say
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.table_part import TablePart
from tasks.train.ensembles import POSES_TABLE, ensemble_rows, evaluation_rows, in_words
from tasks.train.model_record import LearnedFrom, record_metrics, trained_record

STEP = "train"
PREDICTION_BATCH = 16


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
    labels = content_id({"labels": as_text(learned_from(labelled))})
    model_id = recipe.find_model(
        workspace, *((manifest, labels) if recipe.policy.on_new_data == "retrain" else ())
    )
    trained = 0
    if model_id is None:
        _check_preprocessed(workspace, recipe.preprocess_id, photos)
        model_id = _train(workspace, recipe, labelled, LearnedFrom(manifest, labels), config)
        trained = int((labelled["split"] == "train").sum())
    new = _predict(workspace, recipe.preprocess_id, model_id, eyes)
    if (poses := recipe.grading.poses) > 1:
        held_out = eyes[eyes["split"] != "train"]
        _predict(workspace, recipe.preprocess_id, model_id, held_out, poses)
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
    task_run_name="train {recipe.model.backbone}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _train(
    workspace: Workspace,
    recipe: Recipe,
    labelled: pd.DataFrame,
    data: LearnedFrom,
    config: dict[str, Any],
) -> str:
    params = recipe.training
    store = fundus_store(workspace, recipe.preprocess_id)
    splits = {name: labelled[labelled["split"] == name] for name in ("train", "validation")}
    for name, rows in splits.items():
        if rows.empty:
            raise UserError(
                f"no labelled eye is in the {name} split; run dr preprocess, add photographs or"
                " change data.split_seed"
            )
    scratch = scratch_folder(workspace.files, f"training-{recipe.training_id}-{data.manifest}")
    with contextlib.ExitStack() as held:
        held.enter_context(gpu_turn())
        backend.configure(deterministic=True)
        say(f"train: {params.steps:,} mini-batches of {params.batch_size} on {backend.device()}")
        held.enter_context(writing(scratch))
        pixels = held.enter_context(RowCopy(store, "pixels", scratch))

        def fetch_from(rows: pd.DataFrame, indices: np.ndarray) -> np.ndarray:
            return pixels.read(rows["position"].to_numpy()[indices])

        advance = held.enter_context(progress(STEP, params.steps, "mini-batches"))
        try:
            model = build(recipe.model)
            history = fit(
                model,
                functools.partial(fetch_from, splits["train"]),
                splits["train"]["stage"].to_numpy(np.int64),
                params,
                validation_fetch=functools.partial(fetch_from, splits["validation"]),
                validation_stages=splits["validation"]["stage"].to_numpy(np.int64),
                checkpoint_dir=scratch,
                on_step=_reporter(advance),
            )
        except (ValueError, TrainingDiverged) as error:  # such as a stage without examples, named
            raise UserError(str(error)) from None
        weights = scratch / "final.weights.h5"
        write_weights(model, weights)
    eyes = {name: len(rows) for name, rows in splits.items()}
    record = trained_record(recipe, config, data, eyes, history)
    model_id = save_model(
        workspace.files, weights, record, pd.DataFrame(history.rows), learned_from(labelled)
    )
    say(
        f"train: {history.step_s:.2f} s a mini-batch, {percent(history.wait_share, 1)} of it"
        f" waiting for pixels; best after {history.chosen_step}"
    )
    remove_scratch(workspace.files, scratch.name)
    return model_id


def _reporter(advance: Callable[..., None]) -> Callable[[StepReport], None]:
    """Turns the loop's step reports into progress. A resumed run begins with what was done before,
    at no time at all.
    """
    done = 0

    def report_progress(report: StepReport) -> None:
        nonlocal done
        if not done and report.step > 1:
            advance(report.step - 1, earlier=True)
        done = report.step
        kappa = "" if report.best_qwk is None else f" · best validation kappa {report.best_qwk:.3f}"
        advance(1, f"loss {report.loss:.3f}{kappa}")

    return report_progress


def _predict(
    workspace: Workspace, preprocess_id: str, model_id: str, eyes: pd.DataFrame, poses: int = 1
) -> int:
    """Writes the predictions that are missing, a part a fundus shard; returns how many eyes were
    predicted now.

    With more than one pose of the disc their mean goes into a table of its own: the model's own
    answer is what is explained.
    """
    table, extra = ("predictions", {}) if poses == 1 else (POSES_TABLE, {"poses": poses})
    # Eyes of a source without a name keep the digest that they had before there were sources.
    columns = ["image_id", "sha256", "split", "stage"]
    columns += ["source"] if eyes["source"].notna().any() else []
    store = fundus_store(workspace, preprocess_id)
    waiting = []
    for span in store.spans():
        rows = eyes[eyes["position"].between(span.start, span.stop - 1)]
        made_from = {"eyes": as_text(rows[columns]), **extra}
        part = TablePart(workspace, model_id, span.part, content_id(made_from))
        if rows.empty:
            workspace.remove_part(table, model_id, span.part)
        elif part.missing(table):
            waiting.append((part, rows))
    count = sum(len(rows) for _, rows in waiting)
    if not waiting:
        return 0
    with gpu_turn(), progress("predict", count) as advance:
        model = loaded_model(workspace.location, model_id)
        predict = functools.partial(probabilities, model, batch_size=PREDICTION_BATCH)
        for part, rows in waiting:
            pixels = store.read_rows(rows["position"].to_numpy(), ["pixels"])["pixels"]
            mean = averaged_probabilities(predict, pixels, poses)
            part.write(table, prediction_rows(rows, mean).assign(**extra))
            advance(len(rows))
    return count


def prediction_rows(eyes: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Rows of `predictions` for eyes and their probabilities (eye, 5)."""
    columns = ["image_id", "source", "patient_id", "eye", "split", "stage"]
    frame = eyes[columns].reset_index(drop=True)
    frame["predicted_stage"] = probabilities.argmax(axis=1).astype(np.int8)
    frame[PROBABILITIES] = probabilities
    frame["expected_stage"] = (probabilities @ np.arange(STAGE_COUNT)).astype(np.float32)
    frame["probability_referable"] = probabilities[:, REFERABLE:].sum(axis=1)
    return frame


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
        rows = [
            row
            for split in sorted(predictions["split"].unique())
            for stratum, among in members.items()
            for row in evaluation_rows(
                predictions[(predictions["split"] == split) & among], split, stratum
            )
        ]
        rows += ensemble_rows(workspace, recipe.grading, model_id)
        frame = pd.DataFrame(rows).reindex(columns=SCHEMAS["evaluation"].names)
        part.write("evaluation", frame)
    test = workspace.frame("evaluation", model_id=model_id, split="test")
    graded = test[test["stratum"] == "all"].set_index("metric")
    if graded.empty:
        return "no labelled eye in the test split" + external_words(workspace, model_id)

    kappa, auc = (
        with_interval(*graded.loc[name, ["value", "low", "high"]])
        for name in ("qwk", "auc_referable")
    )
    return (
        f"on {graded['images'].iloc[0]:,} test eyes kappa {kappa}, AUC of referable disease"
        f" {auc}{in_words(test)}{external_words(workspace, model_id)}"
    )


def external_words(workspace: Workspace, model_id: str) -> str:
    """How the model does on external sources, as the end of a sentence; empty without any."""
    told = [
        f"{graded.source} kappa {score(graded.measures['qwk'][0])},"
        f" AUC {score(graded.measures['auc_referable'][0])}"
        for graded in graded_sources(workspace, model_id)
        if graded.split == "external"
    ]
    return f"; external: {'; '.join(told)}" if told else ""
