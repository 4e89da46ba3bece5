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
from typing import Any

import numpy as np

from dr_lib.attribution import AttributionParams
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


def try_images(rows: Sequence[int], ids: ResolvedIds, params: AttributionParams) -> None:
    """The work without its result: run on a worker to find which image kills it. Without rows: of
    an image of noise.
    """
    pixels = fundi(ids.location, ids.preprocess_id, np.asarray(rows or [0]))
    if not rows:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    explainer(ids.location, ids.model_id, params).explain(pixels)


def explain_shard(job: ExplainJob) -> dict[str, Any]:
    """Explains, writes and marks one shard; rows to keep are copied from the old one.

    Returns
    -------
    What it took: the shard's record in the ledger, its number, rows and bytes, and how many images
    were new.
    """
    ids, span, positions, kept = job.ids, job.span, job.positions, job.kept
    store = explanation_store(ids.workspace, ids.explain_id)
    started = time.monotonic()
    entry = store.ledger.entry(span.index)
    if entry and store.done_rows(span, job.digests).all():
        # Finished by a worker that died before it could say so: Dask gives the job to another,
        # which need not do it again.
        return _summary(entry, job.new_images)
    new = ~kept & ~np.isin(positions, list(job.unusable))
    arrays = store.read(span) if kept.any() else blank(store, span)
    failed_before = shard_record(store, span).get("failed", {}) if kept.any() else {}
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
    record = {
        "images": int(new.sum()),
        "seconds": round(time.monotonic() - started, 3),
        "failed": failed,
        **explain_measures(arrays, ~aside, new),
        "peak_memory_bytes": peak_memory_bytes(),
        "worker": f"{platform.node()}:{os.getpid()}",
        "model_id": ids.model_id,
        "versions": versions(),
    }
    entry = store.write_shard(span, arrays, digests=list(job.digests), record=record)
    return _summary(entry, job.new_images)


def _summary(entry: Mapping[str, Any], new_images: int) -> dict[str, Any]:
    return {
        **entry["record"],
        "shard": entry["shard"],
        "rows": entry["stop"] - entry["start"],
        "new_images": new_images,
        "bytes": sum(size for size, _ in entry["files"].values()),
    }


def relative_gaps(outcome: np.ndarray, baseline_outcome: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """|gap| as a share of the outcomes' change, at least 0.001, elementwise."""
    return np.abs(gap) / np.maximum(np.abs(outcome - baseline_outcome), 1e-3)


def explain_measures(
    arrays: Mapping[str, np.ndarray], good: np.ndarray, new: np.ndarray
) -> dict[str, Any]:
    """Gaps of all good images of a shard, relative to their outcomes' change, and the passes
    that the new ones took.
    """
    relative = relative_gaps(
        *(arrays[f"pixels/{name}"][good] for name in ("outcome", "baseline_outcome", "gap"))
    )
    # The quantities share the points on the line, so the most of them is what was run.
    passes = int(arrays["pixels/points"][new].max(axis=1).sum()) + sum(
        int(values[new].sum())
        for path, values in arrays.items()
        if path.startswith("layers/") and path.endswith("/points")
    )
    return {
        "gap_median": round(float(np.median(relative)), 6) if relative.size else None,
        "gap_max": round(float(relative.max()), 6) if relative.size else None,
        "unconverged": int((~arrays["pixels/converged"][good]).sum()),
        "passes": passes,
    }


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
