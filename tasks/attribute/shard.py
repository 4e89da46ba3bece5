"""What a worker does with one shard: explain its images, write it, mark it, say what that took.
Knows no Prefect.

An image is set aside for what is its own alone: its results are not finite, or it killed its worker
though nothing else ran there. Whatever is raised (memory, a device, a fault of the program) may be
anybody's, so it leaves the shard unmarked.
"""

import os
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dr_lib.attribution import AttributionParams
from dr_lib.network import backend
from storage.arrays.ledger import LedgerEntry, ShardRecord
from storage.arrays.store import Span
from storage.contents.explanations import DONE, FAILED
from tasks.access.stores import blank_but, explanation_store
from tasks.execution.worker import explainer, fundi
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.run_log import versions

NOT_FINITE = "its results are not finite"
GAP_ARRAYS = tuple(f"pixels/{name}" for name in ("outcome", "baseline_outcome", "gap"))


@dataclass(frozen=True)
class ExplainJob:
    """One shard to explain, as `explain_shard` takes it.

    positions: each image's row in the fundus store. kept: rows that are done and stay. unusable:
    positions that have no fundus any more, or that killed their worker, with the reason.
    """

    ids: ResolvedIds
    params: AttributionParams
    span: Span
    positions: np.ndarray
    digests: Sequence[str]
    kept: np.ndarray
    unusable: Mapping[int, str]

    @property
    def new_images(self) -> int:
        return int((~self.kept).sum())


def try_images(rows: Sequence[int], ids: ResolvedIds, params: AttributionParams) -> None:
    """The work without its result: run on a worker to find which image kills it. Without rows: of
    an image of noise.
    """
    pixels = fundi(ids.location, ids.preprocess_id, np.asarray(rows or [0]))
    if not rows:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    with backend.computing_in(params.precision):
        explainer(ids.location, ids.model_id, params).explain(pixels)


def explain_shard(job: ExplainJob) -> LedgerEntry:
    """Explains, writes and marks one shard; rows to keep are copied from the old one. Returns what
    the ledger says of it.
    """
    ids, span, positions, kept = job.ids, job.span, job.positions, job.kept
    store = explanation_store(ids.workspace, ids.explain_id)
    started = time.monotonic()
    entry = store.ledger.entry(span.index)
    if entry and store.done_rows(span, job.digests).all():
        # Finished by a worker that died before it could say so: Dask gives the job to another,
        # which need not do it again.
        return entry
    new = ~kept & ~np.isin(positions, list(job.unusable))
    arrays, names = blank_but(store, span, kept), store.image_ids[span.rows]
    before = entry.record.failed if entry else {}
    failed = {
        name: reason
        for name, position, done in zip(names, positions.tolist(), kept, strict=True)
        if (reason := before.get(name) if done else job.unusable.get(position))
    }
    if new.any():
        rows = np.flatnonzero(new)
        engine = explainer(ids.location, ids.model_id, job.params)
        with backend.computing_in(job.params.precision):
            results = engine.explain(fundi(ids.location, ids.preprocess_id, positions[rows]))
        finite = ~results.pop("pixels/failed").astype(bool)
        # An explanation that an older version began keeps the arrays that it has.
        for path in arrays.keys() & results.keys():
            arrays[path][rows[finite]] = results[path][finite]
        arrays["pixels/status"][rows[finite]] = DONE
        failed |= {names[row]: NOT_FINITE for row in rows[~finite]}
    aside = np.isin(names, list(failed))
    arrays["pixels/status"][aside] = FAILED
    gaps = relative_gaps(arrays, ~aside)
    record = ShardRecord(
        images=int(new.sum()),
        seconds=round(time.monotonic() - started, 3),
        passes=passes_of(arrays, new),
        peak_memory_bytes=peak_memory_bytes(),
        gap_median=round(float(np.median(gaps)), 6) if gaps.size else None,
        unconverged=int((~arrays["pixels/converged"][~aside]).sum()),
        worker=f"{platform.node()}:{os.getpid()}",
        failed=failed,
        notes={
            "gap_max": round(float(gaps.max()), 6) if gaps.size else None,
            "model_id": ids.model_id,
            "device": backend.device(),
            "versions": versions(),
        },
    )
    return store.write_shard(span, arrays, digests=list(job.digests), record=record)


def relative_gaps(arrays: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """|gap| of some images (a mask) as a share of their outcomes' change, at least 0.001."""
    outcome, baseline_outcome, gap = (arrays[path][images] for path in GAP_ARRAYS)
    return np.abs(gap) / np.maximum(np.abs(outcome - baseline_outcome), 1e-3)


def passes_of(arrays: Mapping[str, np.ndarray], images: np.ndarray) -> int:
    """The points at which gradients were taken for some images (a mask)."""
    # The quantities share the points on the line, so the most of them is what was run.
    return int(arrays["pixels/points"][images].max(axis=1).sum()) + sum(
        int(values[images].sum())
        for path, values in arrays.items()
        if path.startswith("layers/") and path.endswith("/points")
    )


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
