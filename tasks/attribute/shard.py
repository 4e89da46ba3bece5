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
from tasks.access.stores import blank, blank_row, explanation_store, shard_record
from tasks.execution.worker import explainer, fundi
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.run_log import versions

NOT_FINITE = "its results are not finite"


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


@dataclass(frozen=True)
class ExplainedShard:
    """What the run hears of a finished shard. bytes: of its files."""

    span: Span
    new_images: int
    bytes: int
    record: ShardRecord


def try_images(rows: Sequence[int], ids: ResolvedIds, params: AttributionParams) -> None:
    """The work without its result: run on a worker to find which image kills it. Without rows: of
    an image of noise.
    """
    pixels = fundi(ids.location, ids.preprocess_id, np.asarray(rows or [0]))
    if not rows:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    with backend.computing_in(params.precision):
        explainer(ids.location, ids.model_id, params).explain(pixels)


def explain_shard(job: ExplainJob) -> ExplainedShard:
    """Explains, writes and marks one shard; rows to keep are copied from the old one. Returns what
    that took.
    """
    ids, span, positions, kept = job.ids, job.span, job.positions, job.kept
    store = explanation_store(ids.workspace, ids.explain_id)
    started = time.monotonic()
    entry = store.ledger.entry(span.index)
    if entry and store.done_rows(span, job.digests).all():
        # Finished by a worker that died before it could say so: Dask gives the job to another,
        # which need not do it again.
        return _explained(entry, job.new_images)
    new = ~kept & ~np.isin(positions, list(job.unusable))
    arrays = store.read(span) if kept.any() else blank(store, span)
    failed_before = shard_record(store, span).failed if kept.any() else {}
    names = store.image_ids[span.rows]
    failed = {
        names[row]: failed_before[names[row]]
        for row in np.flatnonzero(kept)
        if names[row] in failed_before
    }
    failed |= {
        names[row]: job.unusable[int(positions[row])] for row in np.flatnonzero(~kept & ~new)
    }
    if new.any():
        rows = np.flatnonzero(new)
        engine = explainer(ids.location, ids.model_id, job.params)
        with backend.computing_in(job.params.precision):
            results = engine.explain(fundi(ids.location, ids.preprocess_id, positions[rows]))
        not_finite = rows[results.pop("pixels/failed").astype(bool)]
        for path, values in results.items():
            arrays[path][rows] = values
        arrays["pixels/status"][rows] = DONE
        failed |= {names[row]: NOT_FINITE for row in not_finite}
    aside = np.isin(names, list(failed))
    for row in np.flatnonzero(aside & ~kept):
        blank_row(store, arrays, row)
    arrays["pixels/status"][aside] = FAILED
    measures = explain_measures(arrays, ~aside, new)
    record = ShardRecord(
        images=int(new.sum()),
        seconds=round(time.monotonic() - started, 3),
        passes=measures.passes,
        peak_memory_bytes=peak_memory_bytes(),
        gap_median=measures.gap_median,
        unconverged=measures.unconverged,
        worker=f"{platform.node()}:{os.getpid()}",
        failed=failed,
        notes={
            "gap_max": measures.gap_max,
            "model_id": ids.model_id,
            "device": backend.device(),
            "versions": versions(),
        },
    )
    entry = store.write_shard(span, arrays, digests=list(job.digests), record=record)
    return _explained(entry, job.new_images)


def _explained(entry: LedgerEntry, new_images: int) -> ExplainedShard:
    return ExplainedShard(entry.span, new_images, entry.bytes, entry.record)


@dataclass(frozen=True)
class Measures:
    """Of a shard: gaps of all good images relative to their outcomes' change, None where there are
    none, and the passes that the new ones took.
    """

    gap_median: float | None
    gap_max: float | None
    unconverged: int
    passes: int


def relative_gaps(outcome: np.ndarray, baseline_outcome: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """|gap| as a share of the outcomes' change, at least 0.001, elementwise."""
    return np.abs(gap) / np.maximum(np.abs(outcome - baseline_outcome), 1e-3)


def explain_measures(
    arrays: Mapping[str, np.ndarray], good: np.ndarray, new: np.ndarray
) -> Measures:
    """The measures of a shard's arrays; good, new: (images,) bool."""
    relative = relative_gaps(
        *(arrays[f"pixels/{name}"][good] for name in ("outcome", "baseline_outcome", "gap"))
    )
    # The quantities share the points on the line, so the most of them is what was run.
    passes = int(arrays["pixels/points"][new].max(axis=1).sum()) + sum(
        int(values[new].sum())
        for path, values in arrays.items()
        if path.startswith("layers/") and path.endswith("/points")
    )
    return Measures(
        round(float(np.median(relative)), 6) if relative.size else None,
        round(float(relative.max()), 6) if relative.size else None,
        int((~arrays["pixels/converged"][good]).sum()),
        passes,
    )


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
