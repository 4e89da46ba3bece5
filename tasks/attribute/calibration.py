"""What explaining an image costs here: measured on a few images, on every worker at once, in a
folder that is thrown away.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.explain import Explainer, layer_shapes
from dr_lib.fundus import normalise
from dr_lib.fundus.photo import UnusablePhoto
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build
from storage import Workspace, open_workspace
from storage.arrays.store import ArraySpec, ShardedStore
from storage.contents.explanations import DONE, explanation_specs
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.access.images import usable_rows
from tasks.access.stores import blank, fundus_store
from tasks.attribute.estimate import ARRAYS_AT_ONCE, Rates
from tasks.attribute.shard import explain_measures, peak_memory_bytes
from tasks.execution.pool import Failure, Pool
from tasks.execution.worker import loaded_model, threads_here
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe

IMAGES = 4  # a worker explains so many in one go, after one that pays for compiling


def calibrate(
    workspace: Workspace,
    pool: Pool,
    recipe: Recipe,
    sources: Sequence[Source],
    shard_images: int,
    images: int = IMAGES,
) -> Rates:
    """Rates measured on this run's workers; writes nothing into the workspace.

    The images are fundi of the workspace or, before there are any, the first photographs of the
    data folder. Before training, the network has random weights: its passes cost the same, but it
    may need fewer of them.
    """
    model_id = recipe.find_model(workspace)
    model = (workspace.location, model_id) if model_id else recipe.model
    pixels = sample(workspace, recipe, sources, images + 1)
    pool.connect()
    jobs = [(model, recipe.engine, pixels, min(shard_images, images))] * pool.workers
    found = [result for _, result in pool.run(measure, jobs)]
    if failures := [one for one in found if isinstance(one, Failure)]:
        raise UserError(
            f"the calibration failed: {failures[0].reason}; dr plan --no-calibrate leaves it out"
        )
    one_image = found[0]["raw_bytes"]
    return Rates(
        bytes=float(np.mean([one["bytes"] for one in found])),
        worker_bytes=max(one["peak"] for one in found)
        + ARRAYS_AT_ONCE * one_image * max(shard_images - images, 0),
        basis=f"calibration on {images} eyes a worker"
        + ("" if model_id else ", untrained network"),
        seconds=float(np.mean([one["seconds"] for one in found])),
        start_seconds=max(one["start_seconds"] for one in found),
        passes=float(np.mean([one["passes"] for one in found])),
    )


def sample(
    workspace: Workspace, recipe: Recipe, sources: Sequence[Source], count: int
) -> np.ndarray:
    """`count` fundi (image, y, x, 3), spread over what there is; again from the front where
    there are fewer.
    """
    try:
        rows = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    except FileNotFoundError:
        rows = np.empty(0, np.int64)
    if len(rows):
        chosen = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        return fundus_store(workspace, recipe.preprocess_id).read_rows(chosen, ["pixels"])["pixels"]
    photos, found = PhotoSources(sources), []
    for photograph in photos.photographs()[: 10 * count]:
        try:
            found.append(normalise(photos.read(photograph.path), recipe.preprocess).pixels)
        except (UnusablePhoto, OSError):
            continue
        if len(found) == count:
            break
    if not found:
        raise UserError(
            f"{sources[0].photos} has no photograph to calibrate with; dr plan --no-calibrate plans"
            " without"
        )
    return np.stack([found[index % len(found)] for index in range(count)])


def measure(
    model: tuple[str, str] | ModelParams,
    params: AttributionParams,
    pixels: np.ndarray,
    shard_images: int,
) -> dict[str, Any]:
    """Runs on a worker: one image to start with, then all others in one go, written as a shard
    of a store elsewhere.
    """
    started = time.monotonic()
    network = untrained(model) if isinstance(model, ModelParams) else loaded_model(*model)
    engine = Explainer(network, params)
    engine.explain(pixels[:1])
    running = time.monotonic()
    rest = pixels[1:]
    found = engine.explain(rest)
    specs = specs_of(network, params, pixels.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        stored, arrays = _stored(folder, specs, found, len(rest), shard_images)
    seconds = (time.monotonic() - running) / len(rest)
    good = arrays["pixels/status"] == DONE
    return {
        "seconds": seconds,
        "start_seconds": max(running - started - seconds, 0.0),
        "bytes": stored / len(rest),
        "raw_bytes": sum(spec.row_bytes for spec in specs),
        "peak": peak_memory_bytes(),
        "passes": explain_measures(arrays, good, good)["passes"] / len(rest),
    }


def _stored(
    folder: str, specs: Sequence[ArraySpec], found: dict, images: int, shard_images: int
) -> tuple[int, dict]:
    """Bytes of the results as a store keeps them, and the arrays of the whole axis."""
    store = ShardedStore.create_or_open(
        open_workspace(folder).files, "explanations/0/attributions.zarr", specs, shard_images
    )
    store.extend([f"{number}_left" for number in range(images)])
    failed = found.pop("pixels/failed").astype(bool)
    found["pixels/status"] = np.where(failed, 0, DONE).astype(np.uint8)
    total = 0
    for span in store.spans():
        arrays = blank(store, span)
        for path, values in found.items():
            arrays[path][:] = values[span.rows]
        entry = store.write_shard(span, arrays, digests=[""] * span.images)
        total += sum(size for size, _ in entry["files"].values())
    return total, found


def untrained(params: ModelParams) -> Any:
    """A network of this architecture with random weights: it costs what the trained one will, a
    pass for a pass.
    """
    backend.configure(threads=threads_here())
    return build(dataclasses.replace(params, backbone_weights="none"))


def specs_of(network: Any, params: AttributionParams, size: int) -> list[ArraySpec]:
    """The arrays of an explanation by this network. Raises UserError for a layer that does not
    cut it in two.
    """
    try:
        shapes = layer_shapes(network, params)
    except ValueError as error:  # a layer that is missing or no full cut, named
        raise UserError(str(error)) from None
    layers = {name: dataclasses.asdict(shape) for name, shape in shapes.items()}
    lesions = bool(params.lesion_poses)
    return explanation_specs(
        params.quantities,
        size,
        layers,
        params.neurons,
        layer_quantity=params.layer_quantity,
        lesions=lesions,
    )
