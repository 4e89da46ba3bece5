"""What a run would do now, for `dr plan`: counts from the catalogue, time, bytes and memory from
rates. Writes nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from storage import Workspace, open_workspace
from storage.arrays.store import ArraySpec, spans
from storage.contents.explanations import explanation_specs
from storage.contents.fundus import DONE
from storage.photos.types import Source
from tasks.access.data_folder import labelled_sources
from tasks.access.images import chosen_images, usable_rows
from tasks.access.stores import explanation_store, fundus_store, set_aside, stored_digests, whole
from tasks.attribute.calibration import calibrate, specs_of, untrained
from tasks.attribute.estimate import (
    Estimate,
    Rates,
    bound,
    check_room,
    estimate,
    known_rates,
    remember_rates,
)
from tasks.execution.pool import WORKER_BASE_BYTES, Pool
from tasks.run.errors import UserError
from tasks.run.progress import duration
from tasks.run.recipe import Recipe
from tasks.run.settings import DaskParams, StorageParams


def plan(
    location: str,
    sources: Sequence[Source],
    recipe: Recipe,
    storage: StorageParams,
    dask: DaskParams,
    *,
    measure: bool | None = None,
    seconds: float | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """A row a step — images, images still to do, shards, MB to write, memory, passes, time and
    where the numbers are from — and, where the run cannot fit, the line that says so and by how
    much.

    measure: calibrate on this machine; None does so where no finished shard and no earlier
    calibration tells. seconds: what an image takes one worker, if known. Writes nothing into the
    workspace; a calibration is remembered in the user's cache, so that the run after it can be
    compared with it. Raises UserError where the labels cannot be used.
    """
    workspace = open_workspace(location)
    catalogue = workspace.photos()
    found = len(labelled_sources(sources, not recipe.trains_none(workspace)).photographs())
    new_photos = max(found - int(catalogue["present"].sum()), 0)
    pool = Pool(dask)
    rows = [_row("ingest", found, _paced(workspace, "ingest", new_photos, new_photos, 1))]
    unprocessed = max(found - _finished(workspace, recipe, storage), 0)
    fundus = _paced(
        workspace,
        "preprocess",
        unprocessed,
        found,
        storage.shard_images,
        3 * recipe.preprocess.size**2,
        pool.workers,
    )
    rows.append(_row("preprocess", found, fundus))
    trained = recipe.find_model(workspace)
    seconds_of_training = _training_seconds(workspace, recipe)
    basis = "pace of the last model" if seconds_of_training else ""
    training = Estimate(0 if trained else found, 0, 1, 0, 0, None, seconds_of_training, basis)
    rows.append(_row("train", found, training))
    sizes, chosen = _to_explain(workspace, recipe, storage, catalogue, found)
    try:
        rates = (
            _rates(workspace, pool, recipe, sources, storage, measure, seconds)
            if sizes
            else Rates(0.0, 0, "")
        )
    finally:
        pool.close()
    explain = estimate(rates, sizes, pool.workers)
    rows.append(_row("attribute", chosen, explain))
    try:
        check_room(workspace, _with_fundi(explain, fundus), workers_here=not dask.address)
    except UserError as error:
        return rows, str(error)
    return rows, None


def check_run(
    location: str,
    sources: Sequence[Source],
    recipe: Recipe,
    storage: StorageParams,
    dask: DaskParams,
) -> None:
    """Raises UserError where a whole run will plainly not fit or the labels cannot be used, so that
    nobody waits a day to hear it.

    Loads no network: until there is one, the maps stand for the whole explanation. `attribute`
    looks again, exactly.
    """
    workspace = open_workspace(location)
    found = len(labelled_sources(sources, not recipe.trains_none(workspace)).photographs())
    sizes, _ = _to_explain(workspace, recipe, storage, workspace.photos(), found)
    if not sizes:
        return
    size, params = recipe.preprocess.size, recipe.attribution
    layers = {name: {"unit_shape": (1,), "window": 1} for name in params.layers}
    specs = explanation_specs(
        params.quantities, size, layers, params.neurons, lesions=bool(params.lesion_poses)
    )
    rates = bound(specs, storage.shard_images)
    if recipe.find_model(workspace):
        rates = known_rates(workspace, recipe, rates)
    workers = Pool(dask).workers
    fundus = Estimate(
        0,
        0,
        workers,
        3 * size**2 * max(found - _finished(workspace, recipe, storage), 0),
        0,
        None,
        None,
        "",
    )
    check_room(
        workspace,
        _with_fundi(estimate(rates, sizes, workers), fundus),
        workers_here=not dask.address,
    )


def _with_fundi(explain: Estimate, fundus: Estimate) -> Estimate:
    return replace(explain, bytes=explain.bytes + fundus.bytes)


def _rates(
    workspace: Workspace,
    pool: Pool,
    recipe: Recipe,
    sources: Sequence[Source],
    storage: StorageParams,
    measure: bool | None,
    seconds: float | None,
) -> Rates:
    weights = 4 * 10**6  # of the head; a trunk's are in the bound only once a model is there
    record = next(
        (one for one in workspace.models() if one["model_id"] == recipe.find_model(workspace)), {}
    )
    rates = bound(
        _specs(workspace, recipe), storage.shard_images, record.get("weights_bytes") or weights
    )
    if recipe.find_model(workspace):
        rates = known_rates(workspace, recipe, rates)
    if seconds is not None:
        return replace(rates, seconds=seconds, start_seconds=0.0, basis="the given rate")
    if measure or (measure is None and rates.seconds is None):
        rates = calibrate(workspace, pool, recipe, sources, storage.shard_images)
        remember_rates(workspace, recipe, rates)
    return rates


def _to_explain(
    workspace: Workspace, recipe: Recipe, storage: StorageParams, catalogue: Any, found: int
) -> tuple[list[int], int]:
    """How many images of each shard are to be explained, and how many are chosen in all; all
    found ones before ingest.
    """
    stored, known = {}, []
    if recipe.find_model(workspace):
        try:
            store = explanation_store(workspace, recipe.explain_id(workspace))
            stored, known = stored_digests(store), store.image_ids
            if storage.retry_set_aside:
                stored |= dict.fromkeys(set_aside(store), "")
        except FileNotFoundError:
            pass
    if catalogue.empty:
        limit = recipe.selection.limit
        to_do = [True] * (min(found, limit) if limit else found)
    else:
        chosen = chosen_images(_explainable(workspace, recipe, catalogue), recipe.selection)
        unusable = catalogue["position"].isin(_unusable(workspace, recipe))
        digests = catalogue.set_index("image_id")["sha256"].where(~unusable.to_numpy(), "")
        every = list(dict.fromkeys([*known, *chosen["image_id"]]))
        to_do = [stored.get(image_id) != digests.get(image_id) for image_id in every]
    sizes = [sum(to_do[span.rows]) for span in spans(len(to_do), storage.shard_images)]
    return [size for size in sizes if size], len(to_do)


def _explainable(workspace: Workspace, recipe: Recipe, catalogue: Any) -> Any:
    """The photographs present, and of those preprocessed already only the usable ones."""
    return catalogue[
        catalogue["present"] & ~catalogue["position"].isin(_unusable(workspace, recipe))
    ]


def _unusable(workspace: Workspace, recipe: Recipe) -> np.ndarray:
    """Positions of the photographs that were preprocessed and cannot be used."""
    try:
        status = whole(fundus_store(workspace, recipe.preprocess_id), "status")
    except FileNotFoundError:
        return np.empty(0, np.int64)
    return np.setdiff1d(
        np.flatnonzero(status), usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    )


def _specs(workspace: Workspace, recipe: Recipe) -> list[ArraySpec]:
    """The explanation's arrays: those there are, or those that a network of this architecture
    will have.
    """
    try:
        return explanation_store(workspace, recipe.explain_id(workspace)).specs
    except (FileNotFoundError, UserError):
        return specs_of(untrained(recipe.model), recipe.engine, recipe.preprocess.size)


def _paced(
    workspace: Workspace,
    step: str,
    to_do: int,
    images: int,
    shard_images: int,
    image_bytes: int = 0,
    workers: int = 1,
) -> Estimate:
    """A step by the pace of its last run that had work."""
    pace = seconds_per_image(workspace, step)
    shards = len(spans(to_do, shard_images)) if image_bytes else 0
    memory = min(workers, shards) * (WORKER_BASE_BYTES // 2 + 2 * image_bytes * shard_images)
    seconds = None if pace is None else pace * to_do
    return Estimate(
        to_do,
        shards,
        workers,
        to_do * image_bytes,
        memory,
        None,
        seconds,
        "pace of the last run" if pace else "",
    )


def _row(step: str, images: int, found: Estimate) -> dict[str, Any]:
    if not found.images:
        time = "nothing to do"
    else:
        time = "unknown before a first run" if found.seconds is None else duration(found.seconds)
    return {
        "step": step,
        "images": images,
        "to do": found.images,
        "shards": found.shards or "",
        "MB on disk": round(found.bytes / 1e6) or "",
        "MB of memory": round(found.memory_bytes / 1e6) or "",
        "passes": "" if found.passes is None else found.passes,
        "time": time,
        "by": found.basis if found.images else "",
    }


def _training_seconds(workspace: Workspace, recipe: Recipe) -> float | None:
    """From the pace of the newest model of the same trunk."""
    pace = [
        record["step_seconds"]
        for record in workspace.models()
        if record["architecture"]["backbone"] == recipe.model.backbone
        and record.get("step_seconds")
    ]
    return pace[-1] * recipe.training.steps if pace else None


def seconds_per_image(workspace: Workspace, step: str) -> float | None:
    """From the last run of the step that had work, or None."""
    runs = workspace.frame("runs", stage=step, state="completed")
    runs = runs[runs["new_images"] > 0].sort_values("started")
    return float(runs.iloc[-1]["seconds"] / runs.iloc[-1]["new_images"]) if len(runs) else None


def _finished(workspace: Workspace, recipe: Recipe, storage: StorageParams) -> int:
    try:
        status = whole(fundus_store(workspace, recipe.preprocess_id), "status")
        return int((status == DONE if storage.retry_set_aside else status > 0).sum())
    except FileNotFoundError:
        return 0
