"""Attributions of the chosen images, a shard a Dask task: outcome → pixels, outcome → neurons →
pixels (METHOD §4–5).
"""

import dataclasses
import functools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dr_lib.formatting import percent
from storage.arrays.ledger import LedgerEntry
from storage.arrays.store import ShardedStore
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
from tasks.access.images import chosen_images, gone_words, usable_rows
from tasks.access.stores import explanation_store, set_aside, whole
from tasks.attribute.calibration import specs_of
from tasks.attribute.estimate import Estimate, bound, check_room, estimate, known_rates
from tasks.attribute.selection import image_axis, shard_sizes
from tasks.attribute.shard import (
    GAP_ARRAYS,
    ExplainJob,
    explain_shard,
    relative_gaps,
    try_images,
)
from tasks.execution.waves import Rescue, run_in_waves
from tasks.execution.worker import loaded_model
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.settings import StorageParams

STEP = "attribute"


def attribute(session: Session, recipe: Recipe, storage: StorageParams) -> StepResult:
    """Explains the chosen images that have no explanation yet, or whose photograph changed.

    Parameters
    ----------
    session: the workspace, and the workers that explain.
    recipe: which fundi, which model, which images, and how exactly.
    storage: images a shard, and whether what was set aside is tried once more.

    Returns
    -------
    Images in the explanation, images explained now, and how exact the maps are, in words.

    Raises
    ------
    UserError: if there is no model or no image to explain; before anything is written, if the run
        does not fit the disk or the memory; at the end, if a shard failed.
    """
    workspace, engine = session.workspace, recipe.attribution
    ids = recipe.resolve(workspace)
    model_id, explain_id = ids.model_id, ids.explain_id
    photos = workspace.photos()
    usable = photos["position"].isin(
        usable_rows(workspace, recipe.preprocess_id, recipe.least_quality)
    )
    chosen = chosen_images(photos[usable & photos["present"]], recipe.selection)
    if chosen.empty:
        raise UserError(
            f"no usable photograph is in the {recipe.selection.split} split; choose another with"
            " --set attribution.split=all"
        )
    path = attributions_path(explain_id)
    if ShardedStore.exists(workspace.files, path):
        store = explanation_store(workspace, explain_id)
        specs = store.specs
    else:
        network = loaded_model(workspace.location, model_id)
        store, specs = None, specs_of(network, engine, recipe.preprocess.size)
    images = image_axis(photos, usable, chosen["image_id"], store, storage.retry_set_aside)
    planned = estimate(
        known_rates(workspace, recipe, bound(specs, storage.shard_images), session.network.device),
        shard_sizes(images["to_do"].tolist(), storage.shard_images),
        session.network.workers,
    )
    check_room(workspace, planned, workers_here=not session.pool.params.address)
    if store is None:
        store = ShardedStore.create_or_open(
            workspace.files, path, specs, storage.shard_images, {"explain_id": explain_id}
        )
    save_record(
        workspace.files,
        ExplanationRecord(explain_id, model_id, recipe.preprocess_id, dataclasses.asdict(engine)),
    )
    if storage.retry_set_aside:
        store.forget(set_aside(store))
    store.extend(images.index[store.images :].tolist())
    digests, positions = images["digest"].tolist(), images["position"].to_numpy()
    jobs = []
    for span in store.pending(digests):
        rows = span.rows
        kept = store.done_rows(span, digests[rows])
        unusable = {
            int(position): "its photograph was replaced by one that cannot be used"
            for position, digest in zip(positions[rows], digests[rows], strict=True)
            if not digest
        }
        jobs.append(ExplainJob(ids, engine, span, positions[rows], digests[rows], kept, unusable))

    rescue = Rescue(
        items=lambda job: sorted(set(job.positions[~job.kept].tolist()) - set(job.unusable)),
        trial=functools.partial(try_images, ids=ids, params=engine),
        without=lambda job, killing: dataclasses.replace(job, unusable={**job.unusable, **killing}),
    )
    with _recorded(store, explain_id, planned) as done:
        done += run_in_waves(
            session.network,
            STEP,
            explain_shard,
            jobs,
            images_of=lambda job: job.new_images,
            rescue=rescue,
            table=_wave_table,
        )
    gone = gone_words(workspace, store.image_ids)
    eyes = f"{len(store.image_ids):,} eyes{gone}; {_summary(store)}"
    return StepResult(
        STEP,
        len(store.image_ids),
        sum(job.new_images for job in jobs),
        f"explanation {explain_id} of model {model_id}: {eyes}",
    )


@contextmanager
def _recorded(
    store: ShardedStore, explain_id: str, planned: Estimate
) -> Generator[list[LedgerEntry]]:
    """Leaves a record of what the work inside, which adds the shards it finished to the list, was
    planned to take and took; none where there is nothing to do.

    A run that is killed leaves the plan, with the state "running".
    """
    done: list[LedgerEntry] = []
    if not planned.images:
        yield done
        return
    started = datetime.now(UTC)
    name = f"{started:%Y%m%dT%H%M%S%f}"
    record = RunRecord(
        started.isoformat(timespec="seconds"),
        "running",
        Cost.of(dataclasses.asdict(planned)),
    )
    save_run(store.files, explain_id, name, record)
    state = "interrupted"
    try:
        yield done
        state = "completed"
    except Exception:
        state = "failed"
        raise
    finally:
        records = [shard.record for shard in done]
        actual = Cost(
            images=sum(record.images for record in records),
            bytes=round(
                sum(shard.bytes * shard.record.images / shard.span.images for shard in done)
            ),
            passes=sum(record.passes for record in records),
            seconds=round((datetime.now(UTC) - started).total_seconds(), 1),
            workers=len({record.worker for record in records}),
            worker_bytes=max((record.peak_memory_bytes for record in records), default=0),
        )
        with after_failure():
            ended = dataclasses.replace(record, state=state, actual=actual)
            save_run(store.files, explain_id, name, ended)


def _wave_table(done: Sequence[LedgerEntry]) -> list[dict[str, Any]]:
    """What Prefect's page shows of a wave: a row a shard, the slowest first."""
    rows = [
        {
            "shard": shard.shard,
            "images": record.images,
            "seconds an image": round(record.seconds / max(record.images, 1), 2),
            "passes an image": round(record.passes / max(record.images, 1), 1),
            "median gap": None if record.gap_median is None else percent(record.gap_median, 2),
            "maps not converged": record.unconverged,
            "set aside": "; ".join(f"{name}: {reason}" for name, reason in record.failed.items()),
            "worker": record.worker,
        }
        for shard in done
        for record in [shard.record]
    ]
    return sorted(rows, key=lambda row: -row["seconds an image"])


def _summary(store: ShardedStore) -> str:
    """The explanation in a few words: how exact its maps are, and how many images failed."""
    status = whole(store, "pixels/status")
    good = status == DONE
    failed = (
        f"{int((status == FAILED).sum())} failed (dr status says why; --retry-set-aside tries"
        " again)"
    )
    if not good.any():
        return failed
    relative = relative_gaps({path: whole(store, path) for path in GAP_ARRAYS}, good)
    converged = whole(store, "pixels/converged")[good].mean()
    return (
        f"median completeness gap {percent(np.nanmedian(relative), 2)},"
        f" {percent(converged, 1)} of maps converged"
        + (f", {failed}" if (status == FAILED).any() else "")
    )
