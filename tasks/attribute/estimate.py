"""What explaining some images will take — time, bytes, memory, passes — and whether the machine has
it.

Rates come from the best source there is: what this explanation's finished shards took, a
calibration on this machine, the shards of another model with the same settings, and else a bound on
bytes and memory that follows from the arrays alone. A run that cannot fit is refused before its
first byte is written.
"""

import dataclasses
import heapq
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from dr_lib.formatting import size_text
from dr_lib.network import memory
from storage import Workspace
from storage.arrays.store import ArraySpec
from storage.files.files import free_bytes
from storage.files.scratch import recall
from storage.ids import content_id
from tasks.access.stores import explanation_store
from tasks.execution.pool import WORKER_BASE_BYTES
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe, settings_in_ids

ARRAYS_AT_ONCE = (
    3  # a shard's blank arrays, the engine's results, and the rounded copy that is written
)


@dataclass(frozen=True)
class Rates:
    """What one image costs one worker. None: not known. basis: where the numbers are from, for
    people.

    seconds: of a worker, once it runs; start_seconds: until then. bytes: on disk. worker_bytes: a
    worker's peak memory. passes: points at which gradients are taken.
    """

    bytes: float
    worker_bytes: int
    basis: str
    seconds: float | None = None
    start_seconds: float = 0.0
    passes: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What explaining `images` images will take on `workers` workers; seconds of the clock,
    memory of all workers.
    """

    images: int
    shards: int = 0
    workers: int = 1
    bytes: int = 0
    memory_bytes: int = 0
    passes: int | None = None
    seconds: float | None = None
    basis: str = ""


def estimate(rates: Rates, shard_sizes: Sequence[int], workers: int) -> Estimate:
    """The whole of some shards, given how many images of each are to be explained.

    >>> estimate(
    ...     Rates(100.0, 5, "given", seconds=2.0, start_seconds=1.0, passes=16),
    ...     [4, 4, 2],
    ...     workers=2,
    ... )
    Estimate(images=10, shards=3, workers=2, bytes=1000, memory_bytes=10, passes=160,
             seconds=13.0, basis='given')
    """
    images, seconds = sum(shard_sizes), None
    if rates.seconds is not None:
        # The worker that ends last decides; each takes the next shard as it finishes one.
        loads = [0] * max(workers, 1)
        for size in shard_sizes:
            heapq.heapreplace(loads, loads[0] + size)
        seconds = rates.start_seconds + rates.seconds * max(loads)
    return Estimate(
        images,
        len(shard_sizes),
        workers,
        round(rates.bytes * images),
        rates.worker_bytes * min(workers, len(shard_sizes)),
        None if rates.passes is None else round(rates.passes * images),
        seconds,
        rates.basis,
    )


def bound(specs: Sequence[ArraySpec], shard_images: int, weights_bytes: int = 0) -> Rates:
    """What holds whatever the images: no time, but bytes and memory that no shard exceeds."""
    raw = sum(spec.row_bytes for spec in specs)
    stored = sum(spec.most_stored_bytes for spec in specs)
    return Rates(
        stored,
        WORKER_BASE_BYTES + 3 * weights_bytes + ARRAYS_AT_ONCE * raw * shard_images,
        "bound from the arrays' sizes",
    )


def known_rates(workspace: Workspace, recipe: Recipe, fallback: Rates, device: str) -> Rates:
    """The best rates there are on a `device` (CPU or GPU) without measuring anew: see the module.
    What none knows is taken from `fallback`.
    """
    wanted = content_id(settings_in_ids(dataclasses.asdict(recipe.attribution)))
    others = [
        record.explain_id
        for record in workspace.explanations()
        if content_id(settings_in_ids(record.attribution)) == wanted
        and record.preprocess_id == recipe.preprocess_id
    ]
    this = recipe.explain_id(workspace) if recipe.find_model(workspace) else None
    if this and (rates := _shard_rates(workspace, this, fallback, device)):
        return rates
    if calibration := recall(calibration_name(workspace, recipe, device)):
        return Rates(**calibration)
    for explain_id in reversed(others):
        if rates := _shard_rates(workspace, explain_id, fallback, device):
            return rates
    return fallback


def calibration_name(workspace: Workspace, recipe: Recipe, device: str) -> str:
    """Under which name this machine remembers a calibration of this model (or, before training,
    of its architecture).
    """
    model = recipe.find_model(workspace) or recipe.training_id
    machine = (platform.node(), os.cpu_count(), device)
    return f"calibration-{content_id(model, recipe.preprocess_id, recipe.attribution, machine)}"


def check_room(workspace: Workspace, planned: Estimate, *, workers_here: bool) -> None:
    """Raises UserError, one line saying by how much, where a run that has images to explain does
    not fit the disk or the memory.

    Parameters
    ----------
    planned: what the run will take.
    workers_here: whether the workers are this machine's; another one's memory is not looked at.
    """
    if not planned.images:
        return
    place, free = free_bytes(workspace.files)
    if free is not None and planned.bytes > free:
        raise UserError(
            f"attribute needs {size_text(planned.bytes)} on disk for {planned.images:,} images, and"
            f" {place} has {size_text(free)} free: {size_text(planned.bytes - free)} too little;"
            " free some space, choose another workspace or set attribution.limit"
        )
    there = memory.host_free_bytes() if workers_here else planned.memory_bytes
    if planned.memory_bytes > there:
        raise UserError(
            f"attribute needs {size_text(planned.memory_bytes)} of memory for {planned.workers}"
            f" workers, and {size_text(there)} are free:"
            f" {size_text(planned.memory_bytes - there)} too little; set fewer dask.workers or"
            " smaller storage.shard_images"
        )


def _shard_rates(
    workspace: Workspace, explain_id: str, fallback: Rates, device: str
) -> Rates | None:
    """From an explanation's finished shards; None where no image was explained there in any."""
    try:
        entries = explanation_store(workspace, explain_id).records()
    except FileNotFoundError:
        return None
    worked = [
        entry.record
        for entry in entries
        if entry.record.images and entry.record.notes.get("device", "CPU") == device
    ]
    images = sum(record.images for record in worked)
    if not images:
        return None
    return Rates(
        sum(entry.bytes for entry in entries) / sum(entry.span.images for entry in entries),
        max(record.peak_memory_bytes for record in worked) or fallback.worker_bytes,
        f"{len(worked)} shards of {explain_id}",
        seconds=sum(record.seconds for record in worked) / images,
        passes=sum(record.passes for record in worked) / images,
    )
