"""What a worker does with one shard of missed eyes: search, write, mark. Knows no Prefect."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams, integrated_gradients, stage_quantities
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.network.model import scaled
from dr_lib.perturbation.adversarial import AdversarialParams, smallest_epsilon
from dr_lib.perturbation.counterfactual import CounterfactualParams, smallest_strength
from dr_lib.perturbation.strength_search import StrengthResult
from storage import open_workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.rounding import round_mantissa
from storage.arrays.store import ShardedStore, Span
from storage.contents.declared import MAP_BITS
from storage.layout import counterfactuals_path
from tasks.access.stores import blank, blank_row, crop_of, explanation_store, fundus_store
from tasks.execution.worker import classifier_outputs, fundi, logits_evaluator
from tasks.run.resolved_ids import ResolvedIds


@dataclass(frozen=True)
class PairIds(ResolvedIds):
    """What a pair of stages is about: the resolved ids, and the pair's own name such as 1-0-1."""

    pair: str


@dataclass(frozen=True)
class ChangeJob:
    """One shard of eyes to change, as `change_shard` takes it."""

    ids: PairIds
    span: Span
    eyes: pd.DataFrame
    digests: Sequence[str]
    kept: np.ndarray
    quantity: int | None
    params: CounterfactualParams
    adversarial: AdversarialParams
    engine: AttributionParams


def change_shard(job: ChangeJob) -> int:
    """Changes, writes and marks one shard of eyes; rows to keep are copied from the old one.
    Returns how many were changed.

    eyes: position, sha256 (missing: the eye does not qualify) and explained_row of every image of
    the shard. quantity: the target stage's place among the stored maps.
    """
    workspace = open_workspace(job.ids.location)
    store = ShardedStore.open(
        workspace.files, counterfactuals_path(job.ids.explain_id, job.ids.pair)
    )
    started = time.monotonic()
    arrays = store.read(job.span) if job.kept.any() else blank(store, job.span)
    for row in np.flatnonzero(~job.kept):
        blank_row(store, arrays, row)
    rows = np.flatnonzero(job.eyes["sha256"].notna().to_numpy() & ~job.kept)
    maps = {}
    if len(rows):
        maps = _change(
            job.ids,
            job.eyes.iloc[rows],
            job.quantity,
            job.params,
            job.adversarial,
            job.engine,
            _setter(arrays, rows),
        )
    store.write_shard(
        job.span,
        arrays,
        digests=list(job.digests),
        record=ShardRecord(len(rows), round(time.monotonic() - started, 3), notes=maps),
    )
    return len(rows)


def _setter(
    arrays: dict[str, np.ndarray], rows: np.ndarray
) -> Callable[[str, StrengthResult, np.ndarray], None]:
    """Puts a search's result where it belongs."""

    def put(method: str, found: StrengthResult, x: np.ndarray) -> None:
        arrays["original/probability"][rows] = found.before
        arrays[f"{method}/image"][rows] = found.images
        arrays[f"{method}/probability"][rows] = found.after
        for name in ("reached", "failed", "strength", "best_probability"):
            arrays[f"{method}/{name}"][rows] = getattr(found, name)
        if f"{method}/difference" in arrays:
            arrays[f"{method}/difference"][rows] = found.images - x

    return put


def _change(
    ids: PairIds,
    eyes: pd.DataFrame,
    quantity: int | None,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    engine: AttributionParams,
    put: Callable[[str, StrengthResult, np.ndarray], None],
) -> dict[str, int]:
    """All methods on some eyes; returns of how many the map was stored and of how many it had to
    be made.
    """
    x = scaled(fundi(ids.location, ids.preprocess_id, eyes["position"].to_numpy(np.int64)))
    outcomes = classifier_outputs(ids.location, ids.model_id, params.batch_size)
    logits = logits_evaluator(ids.location, ids.model_id, params.batch_size)
    baseline = np.zeros(x.shape[1:], np.float32)
    crop = crop_of(fundus_store(open_workspace(ids.location), ids.preprocess_id))
    inside = visible_disc(x.shape[1], crop=crop)
    quantities = stage_quantities((f"stage{params.target_stage}",))

    def attributed(images: np.ndarray, **points) -> np.ndarray:
        # Summed over the colours and rounded like the stored maps, so that it makes no difference
        # which of them is taken.
        values = integrated_gradients(
            logits, images, baseline, quantities=quantities, **points
        ).values.reshape(images.shape)
        return round_mantissa(values.sum(axis=-1, keepdims=True), MAP_BITS)

    stored = (
        eyes["explained_row"].to_numpy(np.int64) if quantity is not None else np.full(len(eyes), -1)
    )
    maps = np.empty((*x.shape[:3], 1), np.float32)
    have, lack = np.flatnonzero(stored >= 0), np.flatnonzero(stored < 0)
    if len(have):
        explained = explanation_store(open_workspace(ids.location), ids.explain_id)
        maps[have, ..., 0] = explained.read_rows(stored[have], ["pixels/attribution"])[
            "pixels/attribution"
        ][:, quantity]
    if len(lack):
        points = {
            "points": engine.points,
            "tolerance": engine.tolerance or None,
            "max_points": engine.max_points,
        }
        maps[lack] = attributed(x[lack], floor=engine.floor, **points)
    for method in params.methods:
        found = smallest_strength(
            *(outcomes.predict, x, baseline, maps, params.target_stage, params),
            method=method,
            attribute=lambda images: attributed(images, points=params.recompute_points),
            crop=crop,
        )
        put(method, found, x)
    for method in adversarial.methods:
        settings = {"method": method, "inside": inside}
        found = smallest_epsilon(
            outcomes.predict, outcomes.gradient, x, params.target_stage, adversarial, **settings
        )
        put(method, found, x)
    return {"maps_stored": len(have), "maps_made": len(lack)}
