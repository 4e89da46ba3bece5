"""Counterfactuals and adversarial examples of the eyes that a model misses (METHOD §7), a shard of
eyes a Dask task.

First the searches, whose images and numbers stand beside the explanation; the ledger of that store
says which are finished. Then the tables, made of the arrays: they follow cheaply when a second
model is asked or the reference eyes change.
"""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from dr_lib.perturbation.adversarial import METHODS as ADVERSARIAL_METHODS
from dr_lib.perturbation.adversarial import AdversarialParams
from dr_lib.perturbation.counterfactual import METHODS, CounterfactualParams
from storage import Workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.explanations import DONE, counterfactual_specs
from storage.ids import content_id
from storage.layout import counterfactuals_path
from tasks.access.images import gone_words, usable_rows
from tasks.access.stores import crop_settings, explanation_store, stored_digests, whole
from tasks.counterfactuals.shard import PairStudy, SearchJob, search_shard
from tasks.counterfactuals.tables import (
    EYE_TABLES,
    PAIR_TABLES,
    summary,
    tabulate,
    write_pair_tables,
)
from tasks.execution.waves import run_in_waves
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
    ids = recipe.resolve(workspace)
    second = getattr(params, "second_model", "")
    science = CounterfactualParams(**settings_of(CounterfactualParams, params))
    study = PairStudy(
        **vars(ids),
        params=science,
        adversarial=adversarial,
        engine=recipe.attribution,
        crop=recipe.preprocess.crop,
        second=second and recipe.second_model(workspace, ids.model_id, second),
    )
    graded = graded_eyes(workspace, recipe, ids.model_id)
    confused = (graded["stage"] == params.true_stage) & (
        graded["predicted_stage"] == params.predicted_stage
    )
    missed = graded.loc[confused.to_numpy(bool), ["image_id", "position", "sha256"]]
    confusion = f"of stage {params.true_stage} predicted as {params.predicted_stage}"
    path = counterfactuals_path(ids.explain_id, params.pair)
    if missed.empty and not ShardedStore.exists(workspace.files, path):
        names = dict.fromkeys(EYE_TABLES, f"{params.pair}-{Span(0, 0, 0).part}")
        for table, part in (names | dict.fromkeys(PAIR_TABLES, params.pair)).items():
            if part not in workspace.parts(table, ids.explain_id):
                workspace.write_table(table, [], partition=ids.explain_id, part=part)
        return StepResult(STEP, 0, 0, f"no eye {confusion}: nothing to change")
    store = ShardedStore.create_or_open(
        workspace.files,
        path,
        counterfactual_specs(METHODS, ADVERSARIAL_METHODS, recipe.preprocess.size),
        min(SHARD_EYES, storage.shard_images),
        {"explain_id": ids.explain_id, "pair": params.pair},
    )
    limited = missed["image_id"].head(params.limit or None)
    store.extend(limited[~limited.isin(store.image_ids)].tolist())
    # An eye that no longer qualifies (its label was corrected) stays on the axis and gets an empty
    # row.
    eyes = missed.set_index("image_id").reindex(store.image_ids)
    eyes["explained_row"] = _explained_rows(workspace, ids.explain_id, eyes["sha256"])
    new = _search(session, study, eyes, recipe)
    reference = graded[graded["stage"] == params.target_stage].head(REFERENCE_EYES)
    tabulate(session, study, eyes, reference)
    write_pair_tables(workspace, study)
    qualifying = eyes.index[eyes["sha256"].notna()]
    count, absent = len(qualifying), gone_words(workspace, qualifying)
    return StepResult(
        STEP, count, new, f"{count:,} eyes {confusion}{absent}; {summary(workspace, study)}"
    )


def _search(session: Session, study: PairStudy, eyes: pd.DataFrame, recipe: Recipe) -> int:
    """Runs the searches of all shards that lack some; returns how many eyes had work done."""
    store, quantities = study.store, list(recipe.attribution.quantities)
    asked = dataclasses.replace(study.params, limit=0)  # which eyes there are is said by the eyes
    settings = {
        "counterfactuals": dataclasses.asdict(asked),
        "adversarials": dataclasses.asdict(study.adversarial),
    }
    made_how = content_id(settings | crop_settings(recipe.preprocess))
    digests = ["" if pd.isna(sha256) else f"{sha256}-{made_how}" for sha256 in eyes["sha256"]]
    target = f"stage{study.params.target_stage}"
    quantity = quantities.index(target) if target in quantities else None
    jobs = []
    for span in store.pending(digests):
        digests_here = digests[span.rows]
        kept = store.done_rows(span, digests_here)
        jobs.append(SearchJob(study, span, eyes.iloc[span.rows], digests_here, kept, quantity))
    return sum(
        run_in_waves(
            session.network, STEP, search_shard, jobs, images_of=lambda job: len(job.new_rows)
        )
    )


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


def _explained_rows(workspace: Workspace, explain_id: str, sha256: pd.Series) -> Sequence[int]:
    """For each eye the row of its maps in the explanation, −1 where it has none of this
    photograph.
    """
    try:
        store = explanation_store(workspace, explain_id)
    except FileNotFoundError:
        return [-1] * len(sha256)
    status, stored = whole(store, "pixels/status"), stored_digests(store)
    rows = {image_id: row for row, image_id in enumerate(store.image_ids) if status[row] == DONE}
    return [
        rows.get(name, -1) if stored.get(name) == digest else -1 for name, digest in sha256.items()
    ]
