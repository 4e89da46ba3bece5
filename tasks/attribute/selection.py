"""Which images an explanation has or will have, and which of them are still to be explained."""

from collections.abc import Iterable, Sequence

import pandas as pd

from storage.arrays.store import ShardedStore, spans
from tasks.access.stores import set_aside, stored_digests


def image_axis(
    photos: pd.DataFrame,
    usable: pd.Series,
    chosen: Iterable[str],
    store: ShardedStore | None,
    retry_set_aside: bool,
) -> pd.DataFrame:
    """The image axis of an explanation as it will be: images that it has, then the new ones.

    Parameters
    ----------
    photos: the catalogue. usable: for each of its rows, whether it has a fundus to explain.
    chosen: ids of the images to explain. store: the explanation so far, if there is one.
    retry_set_aside: whether images that were set aside are explained once more.

    Returns
    -------
    Rows by image_id: `position` in the catalogue, `digest` (what the image's values depend on;
    empty without a fundus), `to_do` (whether it is still to be explained).
    """
    stored = stored_digests(store) if store else {}
    if store and retry_set_aside:
        stored |= dict.fromkeys(set_aside(store), "")
    names = list(dict.fromkeys([*(store.image_ids if store else []), *chosen]))
    rows = photos.assign(digest=photos["sha256"].where(usable, "")).set_index("image_id")
    rows = rows.loc[names, ["position", "digest"]]
    to_do = [stored.get(name) != digest for name, digest in rows["digest"].items()]
    return rows.assign(to_do=to_do)


def shard_sizes(to_do: Sequence[bool], shard_images: int) -> list[int]:
    """How many images of each shard are to be explained, of those shards that have any."""
    sizes = [sum(to_do[span.rows]) for span in spans(len(to_do), shard_images)]
    return [size for size in sizes if size]
