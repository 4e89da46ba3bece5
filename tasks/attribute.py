"""Attributions of the chosen images, a shard a Dask task: outcome → pixels, outcome → neurons → pixels (METHOD §4–5)."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.explain import layer_shapes
from storage import open_workspace
from storage.arrays import ShardedStore
from storage.explanations import DONE, FAILED, attributions_path, explanation_specs, save_record
from tasks.errors import UserError
from tasks.pool import Failure, culprits
from tasks.preprocess import usable_rows
from tasks.recipe import Recipe
from tasks.runs import versions
from tasks.session import Session, StageResult
from tasks.settings import AttributionSelection, StorageParams
from tasks.stores import blank, blank_row, explanation_store, whole
from tasks.waves import run_in_waves
from tasks.worker import explainer, fundi, loaded_model

STEP = "attribute"


def attribute(session: Session, recipe: Recipe, storage: StorageParams) -> StageResult:
    """Explains the chosen images that have no explanation yet (or whose photograph changed)."""
    workspace, params, engine = session.workspace, recipe.attribution, recipe.engine
    model_id, explain_id = recipe.model_id(workspace), recipe.explain_id(workspace)
    photos = workspace.photos()
    usable = usable_rows(workspace, recipe.preprocess_id)
    here = photos.iloc[usable]
    chosen = chosen_images(here[here["present"]], params)
    if chosen.empty:
        raise UserError(f"no usable photograph is in the {params.split} split; choose another with --set attribution.split=all")
    path = attributions_path(explain_id)
    if ShardedStore.exists(workspace, path):
        store = explanation_store(workspace, explain_id)
    else:
        try:
            shapes = layer_shapes(loaded_model(workspace.location, model_id), engine)
        except ValueError as error:  # a layer that is missing or no full cut, named
            raise UserError(str(error)) from None
        specs = explanation_specs(
            params.quantities,
            recipe.preprocess.size,
            {name: dataclasses.asdict(shape) for name, shape in shapes.items()},
            params.neurons,
        )
        store = ShardedStore.create_or_open(workspace, path, specs, storage.shard_images, {"explain_id": explain_id})
    save_record(
        workspace,
        explain_id,
        {"model_id": model_id, "preprocess_id": recipe.preprocess_id, "attribution": dataclasses.asdict(engine)},
    )
    known = set(store.image_ids)
    store.extend([image_id for image_id in chosen["image_id"] if image_id not in known])

    by_id = photos.set_index("image_id")
    digests = by_id.loc[store.image_ids, "sha256"].tolist()
    positions = by_id.loc[store.image_ids, "position"].to_numpy()
    place = (workspace.location, recipe.preprocess_id, model_id, explain_id)
    jobs = []
    for span in store.pending(digests):
        kept = store.done_rows(span, digests[span.rows])
        hopeless = tuple(set(positions[span.rows].tolist()) - set(usable.tolist()))  # replaced by what cannot be graded
        jobs.append((place, engine, span, positions[span.rows], digests[span.rows], kept, hopeless))

    def rescue(job: tuple, failure: Failure) -> Any:
        if not failure.killed:
            return failure
        *same, rows, shard_digests, kept, hopeless = job
        tried = [int(row) for row, keep in zip(rows, kept, strict=True) if not keep and row not in hopeless]
        found = culprits(session.pool, _try_images, tried, place, engine)
        again = (*same, rows, shard_digests, kept, (*hopeless, *found))
        return next(result for _, result in session.pool.run(_attribute_shard, [again]))

    new = sum(
        run_in_waves(
            session.pool, STEP, _attribute_shard, jobs, images_of=lambda job: sum(not keep for keep in job[5]), rescue=rescue
        )
    )
    return StageResult(STEP, len(store.image_ids), new, f"explanation {explain_id} of model {model_id}: {_summary(store)}")


def chosen_images(photos: pd.DataFrame, selection: AttributionSelection) -> pd.DataFrame:
    """The photographs to explain, in the catalogue's order; with a limit, the stages take turns until it is reached."""
    if selection.split != "all":
        photos = photos[photos["split"] == selection.split]
    if not selection.limit or len(photos) <= selection.limit:
        return photos
    turn = photos.groupby("stage", dropna=False).cumcount()
    taken = turn.sort_values(kind="stable").index[: selection.limit]
    return photos.loc[taken].sort_values("position")


def _try_images(rows: Sequence[int], place: tuple, params: AttributionParams) -> None:
    location, fundus_id, model_id, _ = place
    explainer(location, model_id, params).explain(fundi(location, fundus_id, np.asarray(rows)))


def _attribute_shard(
    place: tuple[str, str, str, str],
    params: AttributionParams,
    span: Any,
    positions: np.ndarray,
    digests: Sequence[str],
    kept: Sequence[bool],
    hopeless: Sequence[int],
) -> int:
    """Runs on a worker: explains, writes and marks one shard; rows to keep are copied from the old one. Returns new rows.

    hopeless: positions that have no fundus any more, or that killed their worker; they are marked as failed.
    """
    location, fundus_id, model_id, explain_id = place
    store = explanation_store(open_workspace(location), explain_id)
    started = time.monotonic()
    wanted = np.array([not keep and position not in hopeless for keep, position in zip(kept, positions, strict=True)])
    arrays = store.read(span) if any(kept) else blank(store, span)
    for row in np.flatnonzero(~np.asarray(kept, bool) & ~wanted):
        blank_row(store, arrays, row)
        arrays["pixels/status"][row] = FAILED
    if wanted.any():
        found = explainer(location, model_id, params).explain(fundi(location, fundus_id, positions[wanted]))
        failed = found.pop("pixels/failed").astype(bool)
        for path, values in found.items():
            arrays[path][wanted] = values
        arrays["pixels/status"][wanted] = np.where(failed, FAILED, DONE)
    record = {"seconds": round(time.monotonic() - started, 3), "model_id": model_id, "versions": versions()}
    store.write_shard(span, arrays, digests=list(digests), record=record)
    return int(sum(not keep for keep in kept))


def _summary(store: Any) -> str:
    status = whole(store, "pixels/status")
    outcome, baseline, gap = (whole(store, f"pixels/{name}")[status == DONE] for name in ("outcome", "baseline_outcome", "gap"))
    converged = whole(store, "pixels/converged")[status == DONE]
    if not len(gap):
        return f"{int((status == FAILED).sum())} failed"
    relative = np.abs(gap) / np.maximum(np.abs(outcome - baseline), 1e-3)
    failed = f", {int((status == FAILED).sum())} failed" if (status == FAILED).any() else ""
    return f"median completeness gap {np.nanmedian(relative):.2%}, {converged.mean():.1%} of maps converged{failed}"
