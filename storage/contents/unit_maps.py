"""Regions of special units on the eyes where they are strongest:
`explanations/<explain_id>/units-<digest>.zarr`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from storage.contents.snapshots import open_set, remove_set, replace_set
from storage.files.files import Files

if TYPE_CHECKING:
    import xarray as xr


STEM = "units"


def write_unit_maps(
    files: Files, explain_id: str, keys: Sequence[tuple[str, int, str]], regions: np.ndarray
) -> None:
    """Replaces the regions. keys: (layer, unit, image id) of each; regions: (entry, y, x).
    Without any, the set is removed.
    """
    import xarray as xr

    if not keys:
        remove_set(files, explain_id, STEM)
        return

    text = {
        "units": "activation",
        "description": (
            "integrated gradients of the unit on pixels, summed over the colour channels"
        ),
    }
    coords = {
        "layer": ("entry", np.array([key[0] for key in keys], object)),
        "unit": ("entry", np.array([key[1] for key in keys], np.int32)),
        "image_id": ("entry", np.array([key[2] for key in keys], object)),
    }
    region = (
        ("entry", "y", "x"),
        regions.astype(np.float32),
        {"long_name": "region of the unit", **text},
    )
    replace_set(files, explain_id, STEM, xr.Dataset({"region": region}, coords=coords))


def open_unit_maps(files: Files, explain_id: str) -> "xr.Dataset | None":
    """The regions, or None where `dr linearity` has found no special unit."""
    return open_set(files, explain_id, STEM)
