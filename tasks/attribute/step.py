"""Attributions of the chosen images, a shard a Dask task: outcome → pixels, outcome → neurons →
pixels (METHOD §4–5).
"""

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.formatting import percent
from storage.arrays.store import ArraySpec, ShardedStore, spans
from storage.contents.explanations import (
    DONE,
    FAILED,
    Cost,
    ExplanationRecord,
    RunRecord,
    save_record,
    save_run,
)
from storage.errors import after_failure
from storage.layout import attributions_path
from tasks.access.images import chosen_images, usable_rows
from tasks.access.present import gone_words
from tasks.access.stores import explanation_store, set_aside, stored_digests, whole
from tasks.attribute.calibration import specs_of
from tasks.attribute.estimate import Estimate, bound, check_room, estimate, known_rates
from tasks.attribute.shard import ExplainedShard, ExplainJob, explain_shard, try_images
from tasks.execution.pool import Failure, killing_items, run_singly
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import loaded_model
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.settings import StorageParams

STEP = "attribute"


def attribute(session: Session, recipe: Recipe, storage: StorageParams) -> StepResult:
    """Explains the chosen images that have no explanation yet (or whose photograph changed).

    Raises UserError, before anything is written, for a run that fits neither the disk nor the
    memory.
    """
    workspace, selection, engine = session.workspace, recipe.selection, recipe.engine
    ids = recipe.resolve(workspace)
    model_id, explain_id = ids.model_id, ids.explain_id
    photos = workspace.photos()
    usable = usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    here = photos.iloc[usable]
    chosen = chosen_images(here[here["present"]], selection)
    if chosen.empty:
        raise UserError(
            f"no usable photograph is in the {selection.split} split; choose another with --set"
            " attribution.split=all"
        )
    by_id = photos.set_index("image_id")
    # What has no fundus has nothing that it could be explained from; once it has one, its digest is
    # another.
    by_id["digest"] = by_id["sha256"].where(by_id["position"].isin(usable), "")
    path = attributions_path(explain_id)
    store = (
        explanation_store(workspace, explain_id)
        if ShardedStore.exists(workspace.files, path)
        else None
    )
    specs = (
        store.specs
        if store
        else specs_of(loaded_model(workspace.location, model_id), engine, recipe.preprocess.size)
    )
    if store and storage.retry_set_aside:
        store.forget(set_aside(store))
    known = store.image_ids if store else []
    new_ids = chosen.loc[~chosen["image_id"].isin(known), "image_id"].tolist()
    planned = _planned(
        session, recipe, specs, _to_do(store, [*known, *new_ids], by_id["digest"]), storage
    )
    if planned.images:
        check_room(workspace, planned, workers_here=not session.pool.params.address)

    if store is None:
        store = ShardedStore.create_or_open(
            workspace.files, path, specs, storage.shard_images, {"explain_id": explain_id}
        )
    save_record(
        workspace.files,
        ExplanationRecord(explain_id, model_id, recipe.preprocess_id, dataclasses.asdict(engine)),
    )
    store.extend(new_ids)
    digests = by_id.loc[store.image_ids, "digest"].tolist()
    positions = by_id.loc[store.image_ids, "position"].to_numpy()
    jobs = []
    for span in store.pending(digests):
        kept = store.done_rows(span, digests[span.rows])
        gone = set(positions[span.rows].tolist()) - set(usable.tolist())
        unusable = dict.fromkeys(gone, "its photograph was replaced by one that cannot be used")
        jobs.append(
            ExplainJob(ids, engine, span, positions[span.rows], digests[span.rows], kept, unusable)
        )

    def rescue(job: ExplainJob, failure: Failure) -> Any:
        if not failure.killed:
            return failure
        tried = [
            int(row)
            for row, keep in zip(job.positions, job.kept, strict=True)
            if not keep and row not in job.unusable
        ]
        found = killing_items(session.pool, try_images, tried, ids, engine)
        if isinstance(found, Failure):
            return found
        again = dataclasses.replace(job, unusable={**job.unusable, **found})
        return run_singly(session.pool, explain_shard, again)

    with _noted(store, explain_id, planned) as note:
        done = run_in_waves(
            session.pool,
            STEP,
            explain_shard,
            jobs,
            images_of=lambda job: job.new_images,
            rescue=rescue,
            table=_wave_table,
        )
        note(done)
    new = sum(one.new_images for one in done)
    eyes = (
        f"{len(store.image_ids):,} eyes{gone_words(workspace, store.image_ids)}; {_summary(store)}"
    )
    return StepResult(
        STEP, len(store.image_ids), new, f"explanation {explain_id} of model {model_id}: {eyes}"
    )


def _to_do(store: ShardedStore | None, image_ids: Sequence[str], digests: pd.Series) -> list[bool]:
    """For every row of the image axis as it will be, whether its image has to be explained."""
    stored = stored_digests(store) if store else {}
    return [stored.get(image_id) != digests[image_id] for image_id in image_ids]


def _planned(
    session: Session,
    recipe: Recipe,
    specs: Sequence[ArraySpec],
    to_do: Sequence[bool],
    storage: StorageParams,
) -> Estimate:
    rates = known_rates(session.workspace, recipe, bound(specs, storage.shard_images))
    sizes = [sum(to_do[span.rows]) for span in spans(len(to_do), storage.shard_images)]
    return estimate(rates, [size for size in sizes if size], session.pool.workers)


@contextmanager
def _noted(store: ShardedStore, explain_id: str, planned: Estimate) -> Generator[Any]:
    """Leaves a record of what the work inside was planned to take and took; none where there is
    nothing to do.

    A run that is killed leaves the plan, with the state "running".
    """
    if not planned.images:
        yield lambda done: None
        return
    started = datetime.now(UTC)
    name = f"{started:%Y%m%dT%H%M%S%f}"
    record = RunRecord(
        started.isoformat(timespec="seconds"),
        "running",
        Cost.of(dataclasses.asdict(planned)),
    )
    save_run(store.files, explain_id, name, record)
    actual = Cost()

    def note(done: Sequence[ExplainedShard]) -> None:
        nonlocal actual
        records = [one.record for one in done]
        actual = Cost(
            images=sum(record.images for record in records),
            bytes=round(sum(one.bytes * one.record.images / one.span.images for one in done)),
            passes=sum(record.passes for record in records),
            workers=len({record.worker for record in records}),
            worker_bytes=max((record.peak_memory_bytes for record in records), default=0),
        )

    state = "interrupted"
    try:
        yield note
        state = "completed"
    except Exception:
        state = "failed"
        raise
    finally:
        seconds = round((datetime.now(UTC) - started).total_seconds(), 1)
        with after_failure():
            ended = dataclasses.replace(actual, seconds=seconds)
            save_run(
                store.files,
                explain_id,
                name,
                dataclasses.replace(record, state=state, actual=ended),
            )


def _wave_table(done: Sequence[ExplainedShard]) -> list[dict[str, Any]]:
    """What Prefect's page shows of a wave: a row a shard, the slowest first."""
    rows = [
        {
            "shard": one.span.index,
            "images": record.images,
            "seconds an image": round(record.seconds / max(record.images, 1), 2),
            "passes an image": round(record.passes / max(record.images, 1), 1),
            "median gap": None if record.gap_median is None else percent(record.gap_median, 2),
            "maps not converged": record.unconverged,
            "set aside": "; ".join(f"{name}: {reason}" for name, reason in record.failed.items()),
            "worker": record.worker,
        }
        for one in done
        for record in [one.record]
    ]
    return sorted(rows, key=lambda row: -row["seconds an image"])


def _summary(store: Any) -> str:
    status = whole(store, "pixels/status")
    outcome, baseline, gap = (
        whole(store, f"pixels/{name}")[status == DONE]
        for name in ("outcome", "baseline_outcome", "gap")
    )
    converged = whole(store, "pixels/converged")[status == DONE]
    if not len(gap):
        return _failures(status)
    relative = np.abs(gap) / np.maximum(np.abs(outcome - baseline), 1e-3)
    failed = f", {_failures(status)}" if (status == FAILED).any() else ""
    return (
        f"median completeness gap {percent(np.nanmedian(relative), 2)},"
        f" {percent(converged.mean(), 1)} of maps converged{failed}"
    )


def _failures(status: np.ndarray) -> str:
    return (
        f"{int((status == FAILED).sum())} failed (dr status says why; --retry-set-aside tries"
        " again)"
    )
