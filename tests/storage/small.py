"""A small store's arrays, ids and values, shared by tests and the processes they start."""

import numpy as np

from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ArraySpec, ShardedStore
from storage.photos.sources import PhotoSources
from storage.photos.types import Source

SHARD = 4
SPECS = [
    # Large enough to be chunked by image inside a shard, and to be rounded.
    ArraySpec(
        "pixels/map",
        ("image", "y", "x"),
        (40, 40),
        "float32",
        float("nan"),
        "map",
        "probability",
        "a map",
        9,
    ),
    ArraySpec(
        "pixels/gap",
        ("image", "quantity"),
        (2,),
        "float32",
        float("nan"),
        "gap",
        "1",
        "a gap",
        labels={"quantity": ("a", "b")},
    ),
    ArraySpec(
        "layers/stem/neuron",
        ("image", "rank", "axis"),
        (2, 3),
        "int16",
        -1,
        "neurons",
        "",
        "indices",
    ),
    ArraySpec("status", ("image",), (), "uint8", 0, "status", "", "0 pending, 1 done"),
]


def image_ids(count: int, start: int = 0) -> list[str]:
    return [f"{number}_left" for number in range(start, start + count)]


def digests(count: int, start: int = 0) -> list[str]:
    return [f"digest {number}" for number in range(start, start + count)]


def values(span, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for a shard that depend on the image's row only, not on how the axis is cut."""
    found = {spec.path: np.zeros((span.images, *spec.shape), spec.dtype) for spec in SPECS}
    for index, row in enumerate(range(span.start, span.stop)):
        random = np.random.default_rng([seed, row])
        found["pixels/map"][index] = random.standard_normal((40, 40)) * 1e-6
        found["pixels/gap"][index] = random.standard_normal(2)
        found["layers/stem/neuron"][index] = random.integers(0, 60, (2, 3))
        found["status"][index] = 1
    return found


def write_all(store: ShardedStore, names: list[str] | None = None) -> list[int]:
    """Does the pending shards as a run would; returns their numbers."""
    names = digests(store.images) if names is None else names
    todo = store.pending(names)
    for span in todo:
        store.write_shard(
            span, values(span), digests=names[span.rows], record=ShardRecord(seconds=0.5)
        )
    return [span.index for span in todo]


def tree_bytes(folder) -> dict[str, bytes]:
    """Every file below a folder, by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def photo_source(place) -> PhotoSources:
    """The photographs and labels at a place, or of a source that is described in full."""
    return PhotoSources([place if isinstance(place, Source) else Source(str(place))])
