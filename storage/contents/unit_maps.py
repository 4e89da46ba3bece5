"""Regions of special units on the eyes where they are strongest:
`explanations/<explain_id>/units-<digest>.zarr`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from storage.contents.declared import declared_set
from storage.contents.snapshots import open_set, remove_set, replace_set
from storage.files.files import Files

if TYPE_CHECKING:
    import xarray as xr


def write_unit_maps(
    files: Files, explain_id: str, keys: Sequence[tuple[str, int, str]], regions: np.ndarray
) -> None:
    """Replaces the regions. keys: (layer, unit, image id) of each; regions: (entry, y, x).
    Without any, the set is removed.
    """
    if not keys:
        remove_set(files, explain_id, "units")
        return
    layers, units, image_ids = zip(*keys, strict=True)
    names = {"layer": layers, "unit": np.array(units, np.int32), "image_id": image_ids}
    replace_set(
        files, explain_id, "units", declared_set("units", "entry", names, {"region": regions})
    )


def open_unit_maps(files: Files, explain_id: str) -> "xr.Dataset | None":
    """The regions, or None where `dr linearity` has found no special unit."""
    return open_set(files, explain_id, "units")
