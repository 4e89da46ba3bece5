"""What a run would do now, for `dr plan`: counts from the catalogue, time, bytes and memory from
rates. Writes nothing.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dr_lib.formatting import counted, duration, number
from storage import Workspace, open_workspace
from storage.arrays.store import spans
from storage.contents.explanations import LayerShape, explanation_specs
from storage.contents.fundus import DONE
from storage.files.scratch import remember
from storage.photos.types import Source
from tasks.access.images import chosen_images, usable_rows
from tasks.access.rejects import reason_counts
from tasks.access.sources import labelled_sources
from tasks.access.stores import explanation_store, fundus_store, whole
from tasks.attribute.calibration import calibrate, specs_of, untrained
from tasks.attribute.estimate import (
    Estimate,
    Rates,
    bound,
    calibration_name,
    check_room,
    estimate,
    known_rates,
)
from tasks.attribute.selection import image_axis, shard_sizes
from tasks.execution.network import NetworkWorkers
from tasks.execution.pool import WORKER_BASE_BYTES, Pool
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.run.settings import DaskParams, StorageParams

HEAD_BYTES = 4 * 10**6  # of the dense layers' weights; a trunk's count once there is a model


def plan(
    location: str,
    sources: Sequence[Source],
    recipe: Recipe,
    storage: StorageParams,
    dask: DaskParams,
    *,
    measure: bool | None = None,
    seconds: float | None = None,
    exact: bool = True,
) -> tuple[list[dict[str, Any]], str | None]:
    """What a run would do, step by step, and whether it fits.

    Parameters
    ----------
    location, sources: the workspace and the photographs. recipe, storage, dask: the settings.
    measure: whether to calibrate on this machine; None does so where no finished shard and no
        earlier calibration tells. A calibration is remembered in the user's cache, so that the run
        after it can be compared with it.
    seconds: what an image takes one worker, if known.
    exact: whether the sizes of layers are looked up in a network; until there is one, the maps
        stand for the whole explanation otherwise.

    Returns
    -------
    A row for each step: images, images still to do, shards, MB to write, memory, passes, time, and
    where the numbers are from; of `ingest`, what is set aside as far as names and labels tell.
    Then, if the run cannot fit, a line that says so and by how much.

    Raises
    ------
    UserError: if the labels cannot be used.
    """
    workspace = open_workspace(location)
    listed = labelled_sources(sources, not recipe.trains_none(workspace))
    count, unusable = len(listed.photographs()), [one.reason for one in listed.problems()]
    new = max(count - int(workspace.photos()["present"].sum()), 0)
    pool = Pool(dask)
    network = NetworkWorkers(pool)
    fundi = _fundi(workspace, recipe, storage, count, pool.workers)
    to_do = _to_explain(workspace, recipe, storage, count)
    sizes, rates = shard_sizes(to_do, storage.shard_images), Rates(0.0, 0, "")
    try:
        if sizes:
            most = _bound(workspace, recipe, storage, exact)
            rates = known_rates(workspace, recipe, most, network.device)
            if seconds is not None:
                rates = replace(rates, seconds=seconds, start_seconds=0.0, basis="the given rate")
            elif measure or (measure is None and rates.seconds is None):
                rates = calibrate(workspace, network, recipe, sources, storage.shard_images)
                name = calibration_name(workspace, recipe, network.device)
                remember(name, dataclasses.asdict(rates))
    finally:
        pool.close()
    explain = estimate(rates, sizes, network.workers)
    if pool.gpus and explain.seconds is not None:
        hours = number(explain.seconds * pool.gpus / 3600)
        basis = f"{explain.basis}; {hours} GPU hours on {counted(pool.gpus, 'GPU')}"
        explain = replace(explain, basis=basis)
    rows = [
        _row("ingest", count, _paced(workspace, "ingest", Estimate(new))),
        _row("preprocess", count, _paced(workspace, "preprocess", fundi)),
        _row("train", count, _training(workspace, recipe, count)),
        _row("attribute", len(to_do), explain),
    ]
    if unusable:
        rows[0]["by"] = f"set aside: {reason_counts(unusable)}"
    try:
        planned = replace(explain, bytes=explain.bytes + fundi.bytes)
        check_room(workspace, planned, workers_here=not dask.address)
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
    """Refuses a whole run that will plainly not fit, so that nobody waits a day to hear it; loads
    no network. `attribute` looks again, exactly.

    Raises
    ------
    UserError: if the run does not fit the disk or the memory, or the labels cannot be used.
    """
    _, refusal = plan(location, sources, recipe, storage, dask, measure=False, exact=False)
    if refusal:
        raise UserError(refusal)


def _bound(workspace: Workspace, recipe: Recipe, storage: StorageParams, exact: bool) -> Rates:
    """The bound from the explanation's arrays: those there are, or those that a network of this
    architecture will have.
    """
    if not exact:
        params = recipe.attribution
        layers = dict.fromkeys(params.layers, LayerShape((1,), 1, params.neurons))
        lesions = bool(params.lesion_poses)
        size = recipe.preprocess.size
        specs = explanation_specs(params.quantities, size, layers, lesions=lesions)
        return bound(specs, storage.shard_images)
    try:
        specs = explanation_store(workspace, recipe.explain_id(workspace)).specs
    except (FileNotFoundError, UserError):
        specs = specs_of(untrained(recipe.model), recipe.attribution, recipe.preprocess.size)
    weights = {record.model_id: record.weights_bytes for record in workspace.models()}
    return bound(
        specs, storage.shard_images, weights.get(recipe.find_model(workspace)) or HEAD_BYTES
    )


def _to_explain(
    workspace: Workspace, recipe: Recipe, storage: StorageParams, count: int
) -> list[bool]:
    """For every image of the explanation, as far as can be told, whether it is still to be
    explained; before `ingest` all that were found are.
    """
    photos = workspace.photos()
    if photos.empty:
        return [True] * min(count, recipe.selection.limit or count)
    try:
        status = whole(fundus_store(workspace, recipe.preprocess_id), "status")
        usable = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
        unusable = np.setdiff1d(np.flatnonzero(status), usable)
    except FileNotFoundError:
        unusable = np.empty(0, np.int64)
    # What is not preprocessed yet may well turn out to be usable.
    usable = ~photos["position"].isin(unusable)
    chosen = chosen_images(photos[usable & photos["present"]], recipe.selection)
    try:
        store = explanation_store(workspace, recipe.explain_id(workspace))
    except (FileNotFoundError, UserError):  # UserError: not even a model is there
        store = None
    images = image_axis(photos, usable, chosen["image_id"], store, storage.retry_set_aside)
    return images["to_do"].tolist()


def _fundi(
    workspace: Workspace, recipe: Recipe, storage: StorageParams, count: int, workers: int
) -> Estimate:
    """What preprocessing will write and hold in memory."""
    try:
        status = whole(fundus_store(workspace, recipe.preprocess_id), "status")
        finished = int((status == DONE if storage.retry_set_aside else status > 0).sum())
    except FileNotFoundError:
        finished = 0
    to_do, image_bytes = max(count - finished, 0), 3 * recipe.preprocess.size**2
    shards = len(spans(to_do, storage.shard_images))
    worker_bytes = WORKER_BASE_BYTES // 2 + 2 * image_bytes * storage.shard_images
    memory = min(workers, shards) * worker_bytes
    return Estimate(to_do, shards, workers, to_do * image_bytes, memory)


def _paced(workspace: Workspace, step: str, planned: Estimate) -> Estimate:
    """The same with the pace of the step's last run that had work."""
    runs = workspace.frame("runs", stage=step, state="completed")
    runs = runs[runs["new_images"] > 0].sort_values("started")
    if runs.empty:
        return planned
    pace = runs["seconds"].iloc[-1] / runs["new_images"].iloc[-1]
    return replace(planned, seconds=float(pace * planned.images), basis="pace of the last run")


def _training(workspace: Workspace, recipe: Recipe, count: int) -> Estimate:
    """By the pace of the newest model of the same trunk."""
    planned = Estimate(0 if recipe.find_model(workspace) else count)
    pace = [
        record.step_seconds
        for record in workspace.models()
        if record.architecture["backbone"] == recipe.model.backbone and record.step_seconds
    ]
    if not pace:
        return planned
    seconds = pace[-1] * recipe.training.steps
    return replace(planned, seconds=seconds, basis="pace of the last model")


def _row(step: str, images: int, planned: Estimate) -> dict[str, Any]:
    time = "unknown before a first run" if planned.seconds is None else duration(planned.seconds)
    return {
        "step": step,
        "images": images,
        "to do": planned.images,
        "shards": planned.shards or "",
        "MB on disk": round(planned.bytes / 1e6) or "",
        "MB of memory": round(planned.memory_bytes / 1e6) or "",
        "passes": "" if planned.passes is None else planned.passes,
        "time": time if planned.images else "nothing to do",
        "by": planned.basis if planned.images else "",
    }
