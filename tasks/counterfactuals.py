"""Counterfactuals and adversarial examples of the eyes that a model misses, a shard of eyes a Dask task (METHOD §7).

The images stand beside the explanation in `counterfactuals.zarr`; the ledger of that store is what says that a shard's
images and its rows in both tables are finished.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.adversarial import AdversarialParams, smallest_epsilon
from dr_lib.attribution import AttributionParams, integrated_gradients, stage_head
from dr_lib.counterfactual import SATURATION, CounterfactualParams, smallest_strength
from dr_lib.model import scaled
from dr_lib.strength import result_rows, select_eyes
from storage import Workspace, open_workspace
from storage.arrays import ArraySpec, ShardedStore, Span
from storage.explanations import counterfactuals_path
from storage.ids import content_id
from tasks.aggregate import part_name
from tasks.preprocess import usable_rows
from tasks.recipe import Recipe
from tasks.session import Session, StageResult
from tasks.stores import blank
from tasks.waves import run_in_waves
from tasks.worker import fundi, logits_evaluator, stage_outcomes

STEP = "counterfactuals"
SHARD_EYES = 8
TABLES = ("counterfactuals", "adversarials")


def counterfactuals(
    session: Session, recipe: Recipe, params: CounterfactualParams, adversarial: AdversarialParams
) -> StageResult:
    """Makes what is missing for every eye of the true stage that the model took for the predicted one."""
    workspace = session.workspace
    model_id, explain_id = recipe.model_id(workspace), recipe.explain_id(workspace)
    eyes = missed_eyes(workspace, recipe, model_id, params)
    confusion = f"of stage {params.true_stage} predicted as {params.predicted_stage}"
    path = counterfactuals_path(explain_id)
    if eyes.empty and not ShardedStore.exists(workspace, path):
        for table in TABLES:
            if not workspace.parts(table, explain_id):
                workspace.write_table(table, [], partition=explain_id, part=part_name(Span(0, 0, 0)))
        return StageResult(STEP, 0, 0, f"no eye {confusion}: nothing to change")
    store = ShardedStore.create_or_open(workspace, path, _specs(recipe.preprocess.size), SHARD_EYES, {"explain_id": explain_id})
    known = set(store.image_ids)
    store.extend([image_id for image_id in eyes["image_id"] if image_id not in known])
    eyes = eyes.set_index("image_id").reindex(store.image_ids)
    asked = dataclasses.replace(params, limit=0)  # which eyes there are is said by the eyes
    settings = content_id({"counterfactuals": dataclasses.asdict(asked), "adversarials": dataclasses.asdict(adversarial)})
    # An eye that no longer qualifies (its label was corrected) stays on the axis and gets an empty row.
    digests = ["" if pd.isna(sha256) else f"{sha256}-{settings}" for sha256 in eyes["sha256"]]
    place = (workspace.location, recipe.preprocess_id, model_id, explain_id)
    pending = set(store.pending(digests))
    jobs = [
        (place, span, eyes.iloc[span.rows], digests[span.rows], params, adversarial, recipe.engine)
        for span in store.spans()
        if span in pending or not all(workspace.has_part(table, explain_id, part_name(span)) for table in TABLES)
    ]
    new = sum(run_in_waves(session.pool, STEP, _make_shard, jobs, images_of=lambda job: int(job[2]["sha256"].notna().sum())))
    count = int(eyes["sha256"].notna().sum())
    return StageResult(STEP, count, new, f"{count:,} eyes {confusion}; {_summary(workspace, explain_id)}")


def missed_eyes(workspace: Workspace, recipe: Recipe, model_id: str, params: CounterfactualParams) -> pd.DataFrame:
    """Eyes of the true stage predicted as the other, of any split, in the catalogue's order: image_id, position, sha256."""
    predictions = workspace.frame("predictions", model_id=model_id)
    photos = workspace.photos().set_index("image_id")[["position", "sha256"]]
    predictions = predictions[predictions["stage"].notna()].join(photos, on="image_id").sort_values("position")
    usable = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    predictions = predictions[predictions["position"].isin(usable)]
    rows = select_eyes(
        predictions["stage"].to_numpy(np.int64),
        predictions["predicted_stage"].to_numpy(np.int64),
        params.true_stage,
        params.predicted_stage,
        params.limit,
    )
    return predictions.iloc[rows][["image_id", "position", "sha256"]]


def _specs(size: int) -> list[ArraySpec]:
    text = "the eye moved along its attribution until the model predicts the target stage; not reached: the best attempt"
    specs = []
    for form in SATURATION:
        specs += [
            ArraySpec(
                f"{form}/image",
                ("image", "y", "x", "channel"),
                (size, size, 3),
                "float32",
                np.nan,
                "counterfactual",
                "scaled pixel",
                text,
            ),
            ArraySpec(
                f"{form}/reached",
                ("image",),
                (),
                "bool",
                False,
                "target reached",
                "1",
                "whether the model predicts the target stage",
            ),
            ArraySpec(f"{form}/strength", ("image",), (), "float32", np.nan, "strength", "1", "c of METHOD §7"),
        ]
    return specs


def _make_shard(
    place: tuple[str, str, str, str],
    span: Span,
    eyes: pd.DataFrame,
    digests: Sequence[str],
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    engine: AttributionParams,
) -> int:
    """Runs on a worker: both tables' rows of one shard of eyes, then its images, then the mark."""
    location, preprocess_id, model_id, explain_id = place
    workspace = open_workspace(location)
    store = ShardedStore.open(workspace, counterfactuals_path(explain_id))
    arrays = blank(store, span)
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    qualifying = np.flatnonzero(eyes["sha256"].notna())
    if len(qualifying):
        chosen = eyes.iloc[qualifying]
        x = scaled(fundi(location, preprocess_id, chosen["position"].to_numpy(np.int64)))
        outcomes = stage_outcomes(location, model_id, params.batch_size)
        logits = logits_evaluator(location, model_id, params.batch_size)
        baseline = np.zeros(x.shape[1:], np.float32)

        def attribute(images: np.ndarray) -> np.ndarray:
            head = stage_head((f"stage{params.target_stage}",))
            found = integrated_gradients(
                logits,
                images,
                baseline,
                points=engine.points,
                tolerance=engine.tolerance or None,
                max_points=engine.max_points,
                head=head,
            )
            return found.values.reshape(images.shape)

        attributions = attribute(x)
        for form in params.forms:
            found = smallest_strength(
                outcomes.predict, x, baseline, attributions, params.target_stage, params, form=form, attribute=attribute
            )
            rows["counterfactuals"] += result_rows(list(chosen.index), form, params.target_stage, x, found)
            arrays[f"{form}/image"][qualifying] = found.images
            arrays[f"{form}/reached"][qualifying] = found.reached
            arrays[f"{form}/strength"][qualifying] = found.strength
        for method in adversarial.methods:
            found = smallest_epsilon(outcomes.predict, outcomes.gradient, x, params.target_stage, adversarial, method=method)
            rows["adversarials"] += result_rows(list(chosen.index), method, params.target_stage, x, found)
    for table in TABLES:
        workspace.write_table(table, rows[table], partition=explain_id, part=part_name(span))
    store.write_shard(span, arrays, digests=list(digests))
    return len(qualifying)


def _summary(workspace: Workspace, explain_id: str) -> str:
    frame = workspace.frame("counterfactuals", explain_id=explain_id)
    parts = []
    for form, rows in frame.groupby("method", sort=True):
        reached = rows[rows["reached"]]
        strength = f" at median strength {reached['strength'].median():.3g}" if len(reached) else ""
        parts.append(f"{form}: {len(reached)} of {len(rows)} reached the target{strength}")
    return "; ".join(parts)
