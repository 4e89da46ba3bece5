"""Counterfactuals and adversarial examples of the eyes that a model misses (METHOD §7), a shard of
eyes a Dask task.

First the searches, whose images and numbers stand beside the explanation; the ledger of that store
says which are finished. Then the tables, made of the arrays: they follow cheaply when a second
model is asked or the reference eyes change.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dr_lib.perturbation.adversarial import METHODS as ADVERSARIAL_METHODS
from dr_lib.perturbation.adversarial import AdversarialParams
from dr_lib.perturbation.counterfactual import METHODS, CounterfactualParams
from dr_lib.perturbation.strength_search import select_eyes
from storage import Workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.counterfactuals import change_specs
from storage.contents.explanations import DONE
from storage.contents.models import load_record
from storage.ids import content_id
from storage.layout import attributions_path, counterfactuals_path
from tasks.access.images import usable_rows
from tasks.access.present import gone_words
from tasks.access.stores import crop_settings, explanation_store, stored_digests, whole
from tasks.counterfactuals.shard import ChangeJob, PairIds, change_shard
from tasks.counterfactuals.tables import (
    CHANGE_TABLES,
    PAIR_TABLES,
    summary,
    tabulate,
    write_pair_tables,
)
from tasks.execution.waves import run_in_waves
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe, settings_of
from tasks.run.session import Session, StepResult
from tasks.run.settings import StorageParams

STEP = "counterfactuals"
SHARD_EYES = 8  # at most: a dozen images of an eye are kept
REFERENCE_EYES = (
    200  # real eyes of the target stage, the first of the catalogue: they stay the same as it grows
)


def counterfactuals(
    session: Session,
    recipe: Recipe,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    storage: StorageParams,
) -> StepResult:
    """Makes what is missing for every eye of the true stage that the model took for the
    predicted one.
    """
    workspace = session.workspace
    model_id, explain_id = recipe.model_id(workspace), recipe.explain_id(workspace)
    second = second_model(workspace, recipe, model_id, getattr(params, "second_model", ""))
    science = CounterfactualParams(**settings_of(CounterfactualParams, params))
    graded = graded_eyes(workspace, recipe, model_id)
    missed = missed_eyes(graded, science)
    confusion = f"of stage {params.true_stage} predicted as {params.predicted_stage}"
    path = counterfactuals_path(explain_id, params.pair)
    if missed.empty and not ShardedStore.exists(workspace.files, path):
        parts = [(table, f"{params.pair}-{Span(0, 0, 0).part}") for table in CHANGE_TABLES]
        for table, part in [*parts, *((table, params.pair) for table in PAIR_TABLES)]:
            if not workspace.has_part(table, explain_id, part):
                workspace.write_table(table, [], partition=explain_id, part=part)
        return StepResult(STEP, 0, 0, f"no eye {confusion}: nothing to change")
    shard_eyes = min(SHARD_EYES, storage.shard_images)
    specs = change_specs(METHODS, ADVERSARIAL_METHODS, recipe.preprocess.size)
    store = ShardedStore.create_or_open(
        workspace.files, path, specs, shard_eyes, {"explain_id": explain_id, "pair": params.pair}
    )
    known = set(store.image_ids)
    limited = missed["image_id"].tolist()[: params.limit or None]
    store.extend([image_id for image_id in limited if image_id not in known])
    # An eye that no longer qualifies (its label was corrected) stays on the axis and gets an empty
    # row.
    eyes = missed.set_index("image_id").reindex(store.image_ids)
    eyes["explained_row"] = _explained_rows(workspace, explain_id, eyes["sha256"])
    ids = PairIds(workspace.location, recipe.preprocess_id, model_id, explain_id, params.pair)
    new = _search(session, store, ids, eyes, science, adversarial, recipe)
    reference = graded[graded["stage"] == params.target_stage].head(REFERENCE_EYES)
    tabulate(session, store, ids, eyes, reference, science, adversarial, second)
    write_pair_tables(workspace, store, ids, science, adversarial, second)
    count = int(eyes["sha256"].notna().sum())
    absent = gone_words(workspace, eyes.index[eyes["sha256"].notna()])
    return StepResult(
        STEP,
        count,
        new,
        f"{count:,} eyes {confusion}{absent}; {summary(workspace, ids, store, science)}",
    )


def _search(
    session: Session,
    store: ShardedStore,
    ids: PairIds,
    eyes: pd.DataFrame,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    recipe: Recipe,
) -> int:
    """Runs the searches of all shards that lack some; returns how many eyes had work done."""
    asked = dataclasses.replace(params, limit=0)  # which eyes there are is said by the eyes
    made_how = {
        "counterfactuals": dataclasses.asdict(asked),
        "adversarials": dataclasses.asdict(adversarial),
    }
    settings = content_id(made_how | crop_settings(recipe.preprocess))
    digests = ["" if pd.isna(sha256) else f"{sha256}-{settings}" for sha256 in eyes["sha256"]]
    quantity = f"stage{params.target_stage}"
    at = (
        recipe.attribution.quantities.index(quantity)
        if quantity in recipe.attribution.quantities
        else None
    )
    jobs = []
    for span in store.pending(digests):
        kept = store.done_rows(span, digests[span.rows])
        jobs.append(
            ChangeJob(
                ids,
                span,
                eyes.iloc[span.rows],
                digests[span.rows],
                kept,
                at,
                params,
                adversarial,
                recipe.engine,
            )
        )

    def new_eyes(job: ChangeJob) -> int:
        return int((job.eyes["sha256"].notna().to_numpy() & ~job.kept).sum())

    return sum(run_in_waves(session.pool, STEP, change_shard, jobs, images_of=new_eyes))


def second_model(workspace: Workspace, recipe: Recipe, model_id: str, wanted: str) -> str:
    """The model asked whether changes transfer; empty for none. Raises UserError where it cannot
    be asked.
    """
    if not wanted:
        return ""
    there = [one.model_id for one in workspace.models() if one.model_id != model_id]
    if wanted == model_id:
        raise UserError(
            "counterfactuals.second_model is the explained model itself; name another one, trained"
            " with another seed"
        )
    if wanted not in there:
        others = (
            f"there are {', '.join(there)}"
            if there
            else "there is no other yet: train one with --set training.seed=1"
        )
        raise UserError(
            f"counterfactuals.second_model = {wanted}: {workspace.location} holds no such model;"
            f" {others}"
        )
    if load_record(workspace.files, wanted).preprocess_id != recipe.preprocess_id:
        raise UserError(
            f"counterfactuals.second_model = {wanted}: it was made for fundi of other [preprocess]"
            " settings"
        )
    return wanted


def graded_eyes(workspace: Workspace, recipe: Recipe, model_id: str) -> pd.DataFrame:
    """Labelled eyes that have a fundus and a grade, of any split, in the catalogue's order."""
    photos = workspace.photos().set_index("image_id")[["position", "sha256"]]
    predictions = workspace.frame("predictions", model_id=model_id)
    predictions = (
        predictions[predictions["stage"].notna()]
        .join(photos, on="image_id")
        .sort_values("position")
    )
    usable = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    return predictions[predictions["position"].isin(usable)]


def missed_eyes(graded: pd.DataFrame, params: CounterfactualParams) -> pd.DataFrame:
    """All eyes of the true stage predicted as the other: image_id, position, sha256."""
    stages, predicted = (graded[name].to_numpy(np.int64) for name in ("stage", "predicted_stage"))
    rows = select_eyes(stages, predicted, params.true_stage, params.predicted_stage)
    return graded.iloc[rows][["image_id", "position", "sha256"]]


def _explained_rows(workspace: Workspace, explain_id: str, sha256: pd.Series) -> Sequence[int]:
    """For each eye the row of its maps in the explanation, −1 where it has none of this
    photograph.
    """
    if not ShardedStore.exists(workspace.files, attributions_path(explain_id)):
        return [-1] * len(sha256)
    store = explanation_store(workspace, explain_id)
    status, stored = whole(store, "pixels/status"), stored_digests(store)
    rows = {image_id: row for row, image_id in enumerate(store.image_ids) if status[row] == DONE}
    return [
        rows.get(name, -1) if stored.get(name) == digest else -1 for name, digest in sha256.items()
    ]
