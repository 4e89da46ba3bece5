"""What an array of a store is: its name, dimensions, type and meaning. Known before anything is
computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numcodecs import BitRound

# Below this, one chunk holds a shard's images together: a chunk of a few bytes costs more in its
# index than in itself.
CHUNKED_ROW_BYTES = 4096


@dataclass(frozen=True)
class ArraySpec:
    """One array over images.

    path: `pixels/attribution` — groups and name. dims: names of the dimensions, `image` first.
    shape: sizes of the others. fill: what an image that was never written reads as. mantissa_bits:
    keep so many of float32's 23. later: whether a store that was created before this array existed
    gets it, filled, instead of being refused. labels: names along a dimension, such as {"quantity":
    ("stage0",
    …)}; they become coordinates of the group. attrs: further attributes, such as CF's flag_values.

    >>> ArraySpec(
    ...     "gap",
    ...     ("image", "quantity"),
    ...     (6,),
    ...     "float32",
    ...     float("nan"),
    ...     "gap",
    ...     "1",
    ...     "completeness gap",
    ... ).row_bytes
    24
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: Any
    long_name: str
    units: str
    description: str
    mantissa_bits: int | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    later: bool = False

    @property
    def group(self) -> str:
        """`layers/stem` of `layers/stem/region`; empty at the root."""
        return self.path.rpartition("/")[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image, uncompressed."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def most_stored_bytes(self) -> int:
        """Bytes of one image that compression never exceeds, but for an index of a few bytes a
        chunk.

        Of a rounded float32 only sign, exponent and the bits kept say anything; grouped by weight,
        the rest are zeros.
        """
        return (
            self.row_bytes
            if self.mantissa_bits is None
            else self.row_bytes * (9 + self.mantissa_bits) // 32
        )

    def chunking(self, shard_images: int) -> dict:
        """`chunks` and `shards` for Zarr: a file holds a shard's images, readable one by one
        where they are large.
        """
        shard = (shard_images, *self.shape)
        if self.row_bytes < CHUNKED_ROW_BYTES:
            return {"chunks": shard, "shards": None}
        return {"chunks": (1, *self.shape), "shards": shard}

    def shard_file(self, shard: int) -> str:
        """The file, inside the store, that holds one shard of this array.

        >>> ArraySpec("pixels/map", ("image", "y", "x"), (8, 8), "uint8", 0, "", "", "").shard_file(
        ...     3
        ... )
        'pixels/map/c/3/0/0'
        """
        return f"{self.path}/c/{shard}" + "/0" * len(self.shape)

    def attributes(self) -> dict:
        """The array's attributes, as analysts read them."""
        given = {
            "long_name": self.long_name,
            "units": self.units,
            "description": self.description,
            **self.attrs,
        }
        return (
            given if self.mantissa_bits is None else {**given, "mantissa_bits": self.mantissa_bits}
        )


@dataclass(frozen=True)
class Span:
    """Which images one shard holds: rows `start` to `stop` (exclusive) of the image axis.

    >>> Span(index=1, start=64, stop=128).images
    64
    """

    index: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def part(self) -> str:
        """The name of the part of a table that holds this shard's rows."""
        return f"{self.index:05d}"


def spans(images: int, shard_images: int) -> list[Span]:
    """The shards of an axis of `images`; the last one may be short.

    >>> spans(100, 64)
    [Span(index=0, start=0, stop=64), Span(index=1, start=64, stop=100)]
    """
    starts = range(0, images, shard_images)
    return [
        Span(index, start, min(start + shard_images, images)) for index, start in enumerate(starts)
    ]


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """`values` (float32, any shape) rounded to the nearest number with `bits` mantissa bits, ties
    to even.

    Each value changes by at most |value| · 2^-(bits + 1): with 9 bits by less than 0.1 % of itself,
    hence of the map's maximum. Rounding is relative, so maps of 1e-6 a pixel lose no more than maps
    of 1 (float16 would lose them all). The sign stays, zeros stay zeros, NaN and infinities stay
    what they are; rounding twice changes nothing more. Source: BitRound (Klöwer et al. 2021,
    doi:10.1038/s43588-021-00156-2).

    >>> round_mantissa(np.array([1.0, 1.2, -3.3e-6], dtype=np.float32), 2).tolist()
    [1.0, 1.25, -3.3378...e-06]
    """
    rounded = BitRound(bits).encode(values).view(np.float32)
    # The carry would turn the payload of a NaN into another number, and the largest floats into
    # infinity.
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)
