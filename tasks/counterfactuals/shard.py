"""What a worker does with one shard of missed eyes: search, write, mark. Knows no Prefect."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams, integrated_gradients, stage_quantities
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.network import backend
from dr_lib.network.classifier_outputs import ClassifierOutputs
from dr_lib.perturbation.adversarial import AdversarialParams, smallest_epsilon
from dr_lib.perturbation.counterfactual import CounterfactualParams, smallest_strength
from dr_lib.perturbation.strength_search import StrengthResult
from storage.arrays.ledger import ShardRecord
from storage.arrays.specs import round_mantissa
from storage.arrays.store import ShardedStore, Span
from storage.contents.declared import MAP_BITS
from storage.layout import counterfactuals_path
from tasks.access.stores import blank_but, explanation_store
from tasks.execution.worker import classifier_outputs, inputs, logits_evaluator
from tasks.run.resolved_ids import ResolvedIds


@dataclass(frozen=True)
class PairStudy(ResolvedIds):
    """A pair of stages that is studied: what on, and how.

    crop: of the fundi. second: another model that is asked about the changed images; empty: none.
    """

    params: CounterfactualParams
    adversarial: AdversarialParams
    engine: AttributionParams
    crop: float
    second: str

    @property
    def store(self) -> ShardedStore:
        """The changed images of the pair."""
        path = counterfactuals_path(self.explain_id, self.params.pair)
        return ShardedStore.open(self.workspace.files, path)

    @property
    def outputs(self) -> ClassifierOutputs:
        """The explained model's probabilities, gradients and features."""
        return classifier_outputs(self.location, self.model_id, self.params.batch_size)


@dataclass(frozen=True)
class SearchJob:
    """One shard of eyes to change.

    eyes: position, sha256 (missing: the eye does not qualify) and explained_row of every image of
    the shard. kept: rows that are done and stay. quantity: the target stage's place among the
    stored maps; None: it has none.
    """

    study: PairStudy
    span: Span
    eyes: pd.DataFrame
    digests: Sequence[str]
    kept: np.ndarray
    quantity: int | None

    @property
    def new_rows(self) -> np.ndarray:
        """The rows of eyes that have to be changed."""
        return np.flatnonzero(self.eyes["sha256"].notna().to_numpy() & ~self.kept)


def search_shard(job: SearchJob) -> int:
    """Runs on a worker: changes, writes and marks one shard of eyes; rows to keep are copied from
    the old one. Returns how many were changed.
    """
    store, rows = job.study.store, job.new_rows
    started = time.monotonic()
    arrays = blank_but(store, job.span, job.kept)
    maps = _search(job, rows, arrays) if len(rows) else {}
    record = ShardRecord(len(rows), round(time.monotonic() - started, 3), notes=maps)
    store.write_shard(job.span, arrays, digests=list(job.digests), record=record)
    return len(rows)


def _search(job: SearchJob, rows: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """All methods on some eyes of the shard, their results put into the arrays; returns of how
    many the map was stored and of how many it had to be made.
    """
    study, params, eyes = job.study, job.study.params, job.eyes.iloc[rows]
    x = inputs(study, eyes["position"].to_numpy())
    logits = logits_evaluator(study.location, study.model_id, params.batch_size)
    baseline = np.zeros(x.shape[1:], np.float32)
    quantities = stage_quantities((f"stage{params.target_stage}",))

    def attributed(images: np.ndarray, **points) -> np.ndarray:
        # Summed over the colours and rounded like the stored maps, so that it makes no difference
        # which of them is taken.
        with backend.computing_in(study.engine.precision):
            values = integrated_gradients(
                logits, images, baseline, quantities=quantities, **points
            ).values.reshape(images.shape)
        return round_mantissa(values.sum(axis=-1, keepdims=True), MAP_BITS)

    def put(method: str, result: StrengthResult) -> None:
        arrays["original/probability"][rows] = result.before
        images = {"image": result.images, "difference": result.images - x}
        for name, values in (vars(result) | images | {"probability": result.after}).items():
            if f"{method}/{name}" in arrays:
                arrays[f"{method}/{name}"][rows] = values

    maps = np.empty((*x.shape[:3], 1), np.float32)
    stored = eyes["explained_row"].to_numpy(np.int64)
    have = (stored >= 0) & (job.quantity is not None)
    if have.any():
        explained = explanation_store(study.workspace, study.explain_id)
        (attribution,) = explained.read_rows(stored[have], ["pixels/attribution"]).values()
        maps[have, ..., 0] = attribution[:, job.quantity]
    if not have.all():
        engine = study.engine
        maps[~have] = attributed(
            x[~have],
            points=engine.points,
            tolerance=engine.tolerance or None,
            max_points=engine.max_points,
            floor=engine.floor,
        )
    for method in params.methods:
        result = smallest_strength(
            *(study.outputs.predict, x, baseline, maps, params.target_stage, params),
            method=method,
            attribute=lambda images: attributed(images, points=params.recompute_points),
            crop=study.crop,
        )
        put(method, result)
    attack = classifier_outputs(study.location, study.model_id, study.adversarial.batch_size)
    for method in study.adversarial.methods:
        result = smallest_epsilon(
            *(attack.predict, attack.gradient, x, params.target_stage),
            study.adversarial,
            method=method,
            inside=visible_disc(x.shape[1], crop=study.crop),
        )
        put(method, result)
    return {"maps_stored": int(have.sum()), "maps_made": int((~have).sum())}
