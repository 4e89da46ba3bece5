"""Photographs to normalised fundi, a shard a Dask task. A photograph keeps its row for ever: row = position in the catalogue."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import PreprocessParams, normalise
from dr_lib.fundus.quality import MEASURES as QUALITY_MEASURES
from dr_lib.photo import UnreadablePhoto, UnusablePhoto
from storage import Workspace, open_workspace
from storage.arrays import ShardedStore
from storage.fundus import DONE, REJECTED, fundus_path, fundus_specs
from storage.source import PhotoSource
from tasks.ingest import check_reject_fraction, replace_rejects
from tasks.pool import Failure, culprits
from tasks.recipe import Recipe
from tasks.session import Session, StageResult
from tasks.settings import DataParams, StorageParams
from tasks.stores import blank, blank_row, fundus_store, shard_record, stored_digests, whole
from tasks.waves import run_in_waves

STEP = "preprocess"
# Arrays of their own; the score is the array `quality`, and confidence belongs to the geometry.
MEASURES = {name: text for name, text in QUALITY_MEASURES.items() if name not in ("score", "confidence")}
GEOMETRY = ("diameter", "centre_y", "centre_x", "confidence", "reduction")


def preprocess(session: Session, recipe: Recipe, data: DataParams, storage: StorageParams) -> StageResult:
    """Makes the fundi that are missing or whose photograph changed, and lists what could not be used in `rejects`."""
    workspace, params = session.workspace, recipe.preprocess
    photos = workspace.photos()
    path = fundus_path(recipe.preprocess_id)
    store = ShardedStore.create_or_open(
        workspace, path, fundus_specs(params.size, MEASURES), storage.shard_images, {"preprocess": recipe.preprocess_settings}
    )
    store.extend(photos["image_id"].tolist())
    stored = stored_digests(store)
    # A photograph that is gone keeps what was made of it; one that never was here has nothing, and no digest.
    digests = [
        sha256 if present else stored.get(image_id, "")
        for image_id, sha256, present in zip(photos["image_id"], photos["sha256"], photos["present"], strict=True)
    ]
    pending = store.pending(digests)
    jobs = []
    for span in pending:
        rows = photos.iloc[span.rows]
        kept = store.done_rows(span, digests[span.rows])
        photographs = list(zip(rows["image_id"], rows["source"], digests[span.rows], kept, strict=True))
        jobs.append((workspace.location, path, data.photos, params, span, photographs))

    def rescue(job: tuple, failure: Failure) -> Any:
        if not failure.killed:
            return failure
        *_, photographs = job
        names = [name for _, name, sha256, keep in photographs if sha256 and not keep]
        found = culprits(session.pool, _try_photographs, names, data.photos, params)
        return next(result for _, result in session.pool.run(_preprocess_shard, [(*job, found)]))

    new = sum(run_in_waves(session.pool, STEP, _preprocess_shard, jobs, images_of=lambda job: _new(job[5]), rescue=rescue))
    rejects = _rejects(store, set(photos.loc[photos["present"], "image_id"]))
    replace_rejects(workspace, STEP, rejects)
    check_reject_fraction(workspace, data)
    done = int((whole(store, "status") == DONE).sum())
    flagged = int((whole(store, "quality") < params.quality_threshold).sum())
    reasons = ", ".join(f"{count} {reason}" for reason, count in collections.Counter(rejects["reason"]).most_common())
    message = f"{done:,} fundi, {flagged:,} flagged for low quality, {len(rejects):,} photographs set aside" + (
        f" ({reasons})" if reasons else ""
    )
    return StageResult(STEP, done, new, message)


def _new(photographs: Sequence[tuple[str, str, str, bool]]) -> int:
    """How many of a shard's photographs have to be worked on."""
    return sum(bool(sha256) and not keep for _, _, sha256, keep in photographs)


def _try_photographs(names: Sequence[str], source: str, params: PreprocessParams) -> None:
    """The work of a shard without its result: run on a worker to find what kills it."""
    photos = PhotoSource(source)
    for name in names:
        try:
            normalise(photos.read(name), params)
        except (UnusablePhoto, OSError):
            continue


def _preprocess_shard(
    location: str,
    path: str,
    source: str,
    params: PreprocessParams,
    span: Any,
    photographs: Sequence[tuple[str, str, str, bool]],
    fatal: dict[str, str] | None = None,
) -> int:
    """Runs on a worker: makes, writes and marks one shard; rows to keep are copied from the old one. Returns new rows."""
    _one_opencv_thread()
    store = ShardedStore.open(open_workspace(location), path)
    photos = PhotoSource(source)
    kept = [keep for *_, keep in photographs]
    arrays = store.read(span) if any(kept) else blank(store, span)
    rejects = {}
    for row, (image_id, name, sha256, keep) in enumerate(photographs):
        if keep:
            continue
        blank_row(store, arrays, row)
        if not sha256:
            continue  # gone before anything was made of it
        try:
            if fatal and name in fatal:
                raise UnreadablePhoto("kills_worker", fatal[name])
            fundus = normalise(photos.read(name), params)
        except UnusablePhoto as error:
            rejects[image_id] = {"source": name, "reason": error.reason, "detail": error.detail}
            arrays["status"][row] = REJECTED
            continue
        except OSError as error:
            rejects[image_id] = {"source": name, "reason": "unreadable", "detail": str(error)}
            arrays["status"][row] = REJECTED
            continue
        arrays["pixels"][row] = fundus.pixels
        arrays["status"][row] = DONE
        geometry = dataclasses.asdict(fundus.disc) | {"reduction": fundus.reduction}
        for path in GEOMETRY:
            arrays[path][row] = geometry[path]
        arrays["quality"][row] = fundus.quality["score"]
        for measure in MEASURES:
            arrays[measure][row] = fundus.quality[measure]
    # What an earlier call set aside in this shard and is not looked at again keeps its reason.
    earlier = shard_record(store, span).get("rejects", {}) if any(kept) else {}
    kept_ids = {image_id for image_id, *_, keep in photographs if keep}
    rejects |= {image_id: reject for image_id, reject in earlier.items() if image_id in kept_ids}
    digests = [sha256 for _, _, sha256, _ in photographs]
    store.write_shard(span, arrays, digests=digests, record={"rejects": rejects})
    return _new(photographs)


@functools.cache
def _one_opencv_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _rejects(store: ShardedStore, present: set[str]) -> pd.DataFrame:
    rows = [
        {"image_id": image_id, "step": STEP, **reject}
        for record in store.records()
        for image_id, reject in sorted(record["record"].get("rejects", {}).items())
        if image_id in present
    ]
    return pd.DataFrame(rows, columns=["image_id", "source", "step", "reason", "detail"])


def usable_rows(workspace: Workspace, fundus_id: str) -> np.ndarray:
    """Positions of the photographs that have a fundus, ascending; also of those no longer in the data folder."""
    return np.flatnonzero(whole(fundus_store(workspace, fundus_id), "status") == DONE)
