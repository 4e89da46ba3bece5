"""Photographs to normalised fundi, a shard a Dask task. A photograph keeps its row for ever: row
= position in the catalogue.
"""

import dataclasses
import functools

import pandas as pd

from storage.arrays.store import ShardedStore
from storage.contents.fundus import DONE, fundus_specs
from storage.layout import fundus_path
from tasks.access.quality import write_quality
from tasks.access.rejects import check_reject_fraction, reason_counts, replace_rejects
from tasks.access.stores import set_aside, stored_digests, whole
from tasks.execution.waves import Rescue, run_in_waves
from tasks.preprocess.shard import (
    MEASURES,
    PreprocessJob,
    ShardPhotograph,
    preprocess_shard,
    try_photographs,
)
from tasks.run.artifacts import show_photographs, show_rejects
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.settings import DataParams, StorageParams

STEP = "preprocess"


def preprocess(
    session: Session, recipe: Recipe, data: DataParams, storage: StorageParams
) -> StepResult:
    """Makes the fundi that are missing or whose photograph changed, and lists what could not be
    used in `rejects`.
    """
    workspace, params = session.workspace, recipe.preprocess
    photos, sources = workspace.photos(), data.every_source
    path = fundus_path(recipe.preprocess_id)
    store = ShardedStore.create_or_open(
        workspace.files,
        path,
        fundus_specs(params.size, MEASURES),
        storage.shard_images,
        {"preprocess": recipe.preprocess_settings},
    )
    store.extend(photos["image_id"].tolist())
    if storage.retry_set_aside:
        store.forget(set_aside(store))
    stored = stored_digests(store)
    # A photograph that is gone keeps what was made of it; one that never was here has nothing, and
    # no digest.
    digests = [
        photo.sha256 if photo.present else stored.get(photo.image_id, "")
        for photo in photos.itertuples()
    ]
    jobs = []
    for span in store.pending(digests):
        rows = photos.iloc[span.rows]
        digests_here = digests[span.rows]
        kept = store.done_rows(span, digests_here).tolist()
        columns = (rows["image_id"], rows["path"], digests_here, kept)
        photographs = [ShardPhotograph(*photo) for photo in zip(*columns, strict=True)]
        jobs.append(PreprocessJob(workspace.location, path, sources, params, span, photographs))

    rescue = Rescue(
        items=lambda job: [photograph.path for photograph in job.photographs if photograph.pending],
        trial=functools.partial(try_photographs, sources=sources, params=params),
        without=lambda job, killing: dataclasses.replace(job, fatal=killing),
    )
    new = sum(
        run_in_waves(
            session.pool,
            STEP,
            preprocess_shard,
            jobs,
            images_of=lambda job: job.new_images,
            rescue=rescue,
        )
    )
    rejects = _rejects(store, set(photos.loc[photos["present"], "image_id"]))
    rejects["source"] = rejects["image_id"].map(photos.set_index("image_id")["source"])
    replace_rejects(workspace, STEP, rejects)
    if write_quality(workspace, recipe) or new:
        show_photographs(workspace, recipe, data)
    show_rejects(workspace, STEP)
    check_reject_fraction(workspace, data)
    present = photos["present"].to_numpy(bool)
    done = int(((whole(store, "status") == DONE) & present).sum())
    flagged = int(((whole(store, "quality") < params.quality_threshold) & present).sum())
    reasons = reason_counts(rejects["reason"])
    message = (
        f"{done:,} fundi, {flagged:,} flagged for low quality, {len(rejects):,} photographs set"
        " aside" + (f" ({reasons})" if reasons else "")
    )
    return StepResult(STEP, done, new, message)


def _rejects(store: ShardedStore, present: set[str]) -> pd.DataFrame:
    rows = [
        {
            "image_id": image_id,
            "step": STEP,
            "path": reject["source"],  # as it has been called since the first version
            "reason": reject["reason"],
            "detail": reject["detail"],
        }
        for entry in store.records()
        for image_id, reject in sorted(entry.record.rejects.items())
        if image_id in present
    ]
    return pd.DataFrame(rows, columns=["image_id", "path", "step", "reason", "detail"])
