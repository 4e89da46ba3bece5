"""Shorthands over the workspace's array stores: opening them, blank shards, whole small arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import Disc, PreprocessParams
from storage import Workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ShardedStore, Span
from storage.layout import attributions_path, fundus_path

ASSUMED_CROP = 0.1
GEOMETRY = ("centre_y", "centre_x", "diameter", "aspect")


def fundus_store(workspace: Workspace, preprocess_id: str) -> ShardedStore:
    """The store of fundi made with these settings. Raises FileNotFoundError before the first `dr
    preprocess`.
    """
    return ShardedStore.open(workspace.files, fundus_path(preprocess_id))


def crop_of(fundi: ShardedStore) -> float:
    """The outer fraction of the radius that is half-gray in these fundi, as they were made
    (`PreprocessParams.crop`).
    """
    return float(fundi.attrs["preprocess"]["crop"])


def crop_settings(preprocess: PreprocessParams) -> dict[str, float]:
    """What digests say of the visible disc: nothing for the crop that earlier versions took for
    every fundus'.

    So what they made of fundi with that crop stays, and what they made wrongly of others is made
    again.
    """
    return {} if preprocess.crop == ASSUMED_CROP else {"crop": preprocess.crop}


def discs(fundi: ShardedStore, rows: Sequence[int] | np.ndarray) -> list[Disc]:
    """Where the retina lies in the photographs of these rows, in their own pixels; round in a store
    that was made before discs had an aspect.
    """
    there = {spec.path for spec in fundi.specs}
    found = fundi.read_rows(rows, [name for name in GEOMETRY if name in there])
    aspects = found.get("aspect", np.ones(len(rows)))
    return [
        Disc(float(y), float(x), float(width), aspect=float(aspect))
        for y, x, width, aspect in zip(
            found["centre_y"], found["centre_x"], found["diameter"], aspects, strict=True
        )
    ]


def explanation_store(workspace: Workspace, explain_id: str) -> ShardedStore:
    """The arrays of an explanation. Raises FileNotFoundError before the first `dr attribute`."""
    return ShardedStore.open(workspace.files, attributions_path(explain_id))


def blank(store: ShardedStore, span: Span) -> dict[str, np.ndarray]:
    """A shard in which nothing has been computed: every array of the store at its fill value,
    (span images, …).
    """
    return {
        spec.path: np.full((span.images, *spec.shape), spec.fill, spec.dtype)
        for spec in store.specs
    }


def blank_but(store: ShardedStore, span: Span, kept: np.ndarray) -> dict[str, np.ndarray]:
    """A shard with those of its rows that are kept, (span images,) bool, and blank ones."""
    if not kept.any():
        return blank(store, span)
    arrays = store.read(span)
    for spec in store.specs:
        arrays[spec.path][~kept] = spec.fill
    return arrays


def whole(store: ShardedStore, path: str) -> np.ndarray:
    """One (small) array over all images."""
    return store.read(Span(0, 0, store.images), [path])[path]


def as_text(frame: pd.DataFrame) -> list[list[str]]:
    """A frame's rows as text, missing values too: what a digest of them is made from.

    A column of whole numbers turns to floats as soon as one of its rows misses its own: the text of
    the others must not change.

    >>> as_text(pd.DataFrame({"stage": [4, 2]})) == as_text(pd.DataFrame({"stage": [4, 2, None]}))[
    ...     :2
    ... ]
    True
    """
    return [[_text(value) for value in row] for row in frame.itertuples(index=False)]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def span_digests(store: ShardedStore) -> dict[int, str]:
    """For each finished shard what it was made from and what was set aside, as one text. Derived
    tables depend on it.
    """
    return {
        entry.shard: ",".join(
            [
                *entry.image_ids,
                *entry.digests,
                *map(":".join, sorted(entry.record.failed.items())),
            ]
        )
        for entry in store.records()
    }


def stored_digests(store: ShardedStore) -> dict[str, str]:
    """For each image of a finished shard the digest it was stored with."""
    return {
        name: digest
        for entry in store.records()
        for name, digest in zip(entry.image_ids, entry.digests, strict=True)
    }


def set_aside(store: ShardedStore) -> set[str]:
    """The images of finished shards that have no result, for a reason of their own."""
    return {
        name for entry in store.records() for name in (*entry.record.failed, *entry.record.rejects)
    }


def shard_record(store: ShardedStore, span: Span) -> ShardRecord:
    """What was remembered of a finished shard's work; empty for an unfinished one."""
    entry = store.ledger.entry(span.index)
    return entry.record if entry else ShardRecord()
