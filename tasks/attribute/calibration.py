"""What explaining an image costs here: measured on a few images, on every worker at once, in a
folder that is thrown away.
"""

import contextlib
import functools
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.explain import Explainer, layer_shapes
from dr_lib.fundus import normalise
from dr_lib.fundus.photo import UnusablePhoto
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build
from storage import Workspace, open_workspace
from storage.arrays.store import ArraySpec, ShardedStore
from storage.contents.explanations import DONE, LayerShape, explanation_specs
from storage.layout import attributions_path
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.access.images import usable_rows
from tasks.access.stores import blank
from tasks.attribute.estimate import ARRAYS_AT_ONCE, Rates
from tasks.attribute.shard import passes_of, peak_memory_bytes
from tasks.execution.failures import Failure
from tasks.execution.network import NetworkWorkers
from tasks.execution.worker import fundi, loaded_model, threads_here
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe

IMAGES = 4  # a worker explains so many in one go, after one that pays for compiling


def calibrate(
    workspace: Workspace,
    pool: NetworkWorkers,
    recipe: Recipe,
    sources: Sequence[Source],
    shard_images: int,
) -> Rates:
    """Rates measured on this run's workers; writes nothing into the workspace.

    The images are fundi of the workspace or, before there are any, the first photographs of the
    data folder. Before training, the network has random weights: its passes cost the same, but it
    may need fewer of them.

    Raises
    ------
    UserError: if there is no photograph, or a worker fails.
    """
    model_id = recipe.find_model(workspace)
    pixels = sample(workspace, recipe, sources, IMAGES + 1)
    work = functools.partial(
        measure,
        location=workspace.location,
        model_id=model_id,
        recipe=recipe,
        pixels=pixels,
        more_images=max(shard_images - IMAGES, 0),
    )
    pool.connect()
    workers: list[Rates] = []
    for _, result in pool.run(work, range(pool.workers)):
        if isinstance(result, Failure):
            raise UserError(
                f"the calibration failed: {result.reason}; dr plan --no-calibrate leaves it out"
            )
        workers.append(result)
    means, most = ("bytes", "seconds", "passes"), ("worker_bytes", "start_seconds", "basis")
    together = dict.fromkeys(means, "mean") | dict.fromkeys(most, "max")
    return Rates(**pd.DataFrame(workers).agg(together).to_dict())


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
        return fundi(workspace.location, recipe.preprocess_id, chosen)
    photos, made = PhotoSources(sources), []
    for photograph in photos.photographs()[: 10 * count]:
        with contextlib.suppress(UnusablePhoto, OSError):
            made.append(normalise(photos.read(photograph.path), recipe.preprocess).pixels)
        if len(made) == count:
            break
    if not made:
        raise UserError(
            f"{sources[0].photos} has no photograph to calibrate with; dr plan --no-calibrate plans"
            " without"
        )
    return np.stack(list(itertools.islice(itertools.cycle(made), count)))


def measure(
    _worker: int,
    *,
    location: str,
    model_id: str | None,
    recipe: Recipe,
    pixels: np.ndarray,
    more_images: int,
) -> Rates:
    """Runs on a worker: explains one image to start with, then all others in one go, and writes
    these as a shard of a store elsewhere.

    Parameters
    ----------
    model_id: a model of the workspace; None: an untrained one.
    pixels: fundi (image, y, x, 3); the first one is explained alone, to compile for it.
    more_images: that a shard has, beside those explained in one go here.
    """
    started, params = time.monotonic(), recipe.attribution
    network = loaded_model(location, model_id) if model_id else untrained(recipe.model)
    engine = Explainer(network, params)
    with backend.computing_in(params.precision):
        engine.explain(pixels[:1])
        running = time.monotonic()
        results = engine.explain(pixels[1:])
    images = len(pixels) - 1
    done = ~results.pop("pixels/failed").astype(bool)
    results["pixels/status"] = np.where(done, DONE, 0).astype(np.uint8)
    specs = specs_of(network, params, pixels.shape[1])
    stored_bytes = _stored_bytes(specs, results, images)
    seconds = (time.monotonic() - running) / images
    array_bytes = sum(spec.row_bytes for spec in specs)
    return Rates(
        bytes=stored_bytes / images,
        worker_bytes=peak_memory_bytes() + ARRAYS_AT_ONCE * array_bytes * more_images,
        basis=f"calibration on {images} eyes a worker"
        + ("" if model_id else ", untrained network"),
        seconds=seconds,
        start_seconds=max(running - started - seconds, 0.0),
        passes=passes_of(results, done) / images,
    )


def _stored_bytes(
    specs: Sequence[ArraySpec], results: Mapping[str, np.ndarray], images: int
) -> int:
    """Bytes of the results in a store's files."""
    with tempfile.TemporaryDirectory() as folder:
        store = ShardedStore.create_or_open(
            open_workspace(folder).files, attributions_path("0"), specs, images
        )
        store.extend([f"{number}_left" for number in range(images)])
        (span,) = store.spans()
        arrays = blank(store, span)
        for path, values in results.items():
            arrays[path][:] = values
        return store.write_shard(span, arrays, digests=[""] * images).bytes


def untrained(params: ModelParams) -> Any:
    """A network of this architecture with random weights: it costs what the trained one will, a
    pass for a pass.
    """
    backend.configure(threads=threads_here())
    return build(params.explained)


def specs_of(network: Any, params: AttributionParams, size: int) -> list[ArraySpec]:
    """The arrays of an explanation by this network, of fundi of `size` px.

    Raises
    ------
    UserError: for a layer that is missing or does not cut the network in two.
    """
    try:
        shapes = layer_shapes(network, params)
    except ValueError as error:
        raise UserError(str(error)) from None
    layers = {name: LayerShape(**vars(shape)) for name, shape in shapes.items()}
    return explanation_specs(
        params.quantities,
        size,
        layers,
        layer_quantity=params.layer_quantity,
        lesions=bool(params.lesion_poses),
    )
