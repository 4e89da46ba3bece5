"""The arrays that arrays.toml declares, with the sizes and names that are known when a store is
made.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dr_lib.vocabulary import HALF_GRAY
from storage.arrays.specs import ArraySpec
from storage.files.text import shipped_toml

if TYPE_CHECKING:
    import xarray as xr

# Rounding to 9 bits changes a value by at most 2^-10 of itself: under 0.1 % of the map's maximum,
# the sum by far less.
MAP_BITS = 9
# Of each kind of array: type, what an image that was never written reads as, mantissa bits kept.
KINDS: dict[str, tuple[str, Any, int | None]] = {
    "number": ("float32", float("nan"), None),
    "ratio": ("float32", 1.0, None),
    "map": ("float32", float("nan"), MAP_BITS),
    "count": ("int32", 0, None),
    "index": ("int16", -1, None),
    "flag": ("bool", False, None),
    "status": ("uint8", 0, None),
    "pixel": ("uint8", HALF_GRAY, None),
}
# A store that was made before these arrays were declared gets them.
LATER = {"aspect"}
_ARRAYS: dict[str, list[list[str]]] = shipped_toml("storage.contents", "arrays.toml")


def declared(
    part: str,
    group: str = "",
    *,
    sizes: Mapping[str, int],
    labels: Mapping[str, Sequence[str]] | None = None,
    flags: Sequence[str] = (),
    **words: str,
) -> list[ArraySpec]:
    """The arrays of one part of arrays.toml.

    group: that holds them in the store. sizes: of the dimensions; labels: names along a dimension,
    which give its size too. flags: the meanings of a status. words: what stands for {word}.
    """
    names = {dim: tuple(found) for dim, found in (labels or {}).items()}
    sizes = {**sizes, **{dim: len(found) for dim, found in names.items()}}
    specs = []
    for name, text, kind, *texts in _ARRAYS[part]:
        dims, (dtype, fill, bits) = text.split(), KINDS[kind]
        meanings = {"flag_values": list(range(len(flags))), "flag_meanings": " ".join(flags)}
        specs.append(
            ArraySpec(
                f"{group}/{name}".lstrip("/"),
                ("image", *dims),
                tuple(sizes[dim] for dim in dims),
                dtype,
                fill,
                *(text.format(**words) for text in texts),
                mantissa_bits=bits,
                labels={dim: names[dim] for dim in dims if dim in names},
                attrs=meanings if kind == "status" else {},
                later=name in LATER,
            )
        )
    return specs


def declared_set(
    part: str,
    axis: str,
    names: Mapping[str, Sequence | np.ndarray],
    values: Mapping[str, Sequence | np.ndarray],
    **words: str,
) -> "xr.Dataset":
    """The arrays of one part of arrays.toml that are not along images but along `axis`.

    names: the coordinates along it. values: of each array. words: what stands for {word}.
    """
    import xarray as xr

    arrays = {}
    for name, text, kind, *texts in _ARRAYS[part]:
        meaning = (text.format(**words) for text in texts)
        attrs = dict(zip(("long_name", "units", "description"), meaning, strict=True))
        arrays[name] = (axis, *text.split()), np.asarray(values[name], KINDS[kind][0]), attrs
    # Objects become Zarr's own variable-length strings; fixed-length ones have no specification
    # yet.
    coords = {
        name: (axis, column if isinstance(column, np.ndarray) else np.array(column, object))
        for name, column in names.items()
    }
    return xr.Dataset(arrays, coords=coords)
