"""What a worker does with one shard of missed eyes: search, write, mark. Knows no Prefect."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams, integrated_gradients, stage_quantities
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.network.model import scaled
from dr_lib.perturbation.adversarial import AdversarialParams, smallest_epsilon
from dr_lib.perturbation.counterfactual import CounterfactualParams, smallest_strength
from dr_lib.perturbation.strength_search import StrengthResult
from storage import open_workspace
from storage.arrays.rounding import round_mantissa
from storage.arrays.store import ShardedStore, Span
from storage.contents.counterfactuals import counterfactuals_path
from storage.contents.explanations import MAP_BITS
from tasks.access.stores import blank, blank_row, crop_of, explanation_store, fundus_store
from tasks.execution.worker import classifier_outputs, fundi, logits_evaluator


class Place(NamedTuple):
    """Where the fundi, the model and the maps are, and where the changed images of a pair of
    stages go.
    """

    location: str
    fundus_id: str
    model_id: str
    explain_id: str
    pair: str


def change_shard(
    place: Place,
    span: Span,
    eyes: pd.DataFrame,
    digests: Sequence[str],
    kept: Sequence[bool] | np.ndarray,
    quantity: int | None,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    engine: AttributionParams,
) -> int:
    """Changes, writes and marks one shard of eyes; rows to keep are copied from the old one.
    Returns how many were changed.

    eyes: position, sha256 (missing: the eye does not qualify) and explained_row of every image of
    the shard. quantity: the target stage's place among the stored maps.
    """
    workspace = open_workspace(place.location)
    store = ShardedStore.open(workspace.files, counterfactuals_path(place.explain_id, place.pair))
    started = time.monotonic()
    kept = np.asarray(kept, bool)
    arrays = store.read(span) if kept.any() else blank(store, span)
    for row in np.flatnonzero(~kept):
        blank_row(store, arrays, row)
    rows = np.flatnonzero(eyes["sha256"].notna().to_numpy() & ~kept)
    record = {"images": len(rows)}
    if len(rows):
        record |= _change(
            place, eyes.iloc[rows], quantity, params, adversarial, engine, _setter(arrays, rows)
        )
    store.write_shard(
        span,
        arrays,
        digests=list(digests),
        record={**record, "seconds": round(time.monotonic() - started, 3)},
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
    place: Place,
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
    x = scaled(fundi(place.location, place.fundus_id, eyes["position"].to_numpy(np.int64)))
    outcomes = classifier_outputs(place.location, place.model_id, params.batch_size)
    logits = logits_evaluator(place.location, place.model_id, params.batch_size)
    baseline = np.zeros(x.shape[1:], np.float32)
    crop = crop_of(fundus_store(open_workspace(place.location), place.fundus_id))
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
        explained = explanation_store(open_workspace(place.location), place.explain_id)
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
