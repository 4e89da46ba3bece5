"""Mean heat maps of groups of images: `explanations/<explain_id>/groups-<digest>.zarr`, named by
`groups.json` once whole.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dr_lib.vocabulary import SIGNS
from storage.contents.explanations import unit_of
from storage.contents.snapshots import open_set, replace_set
from storage.files.files import Files

if TYPE_CHECKING:
    import xarray as xr


_KEY = ("group_name", "source", "quantity")


def write_group_maps(
    files: Files,
    explain_id: str,
    keys: Sequence[tuple[str, str, str]],
    images: Sequence[int],
    positive: np.ndarray,
    negative: np.ndarray,
) -> None:
    """Replaces the groups' maps. keys: (group name, source, quantity) of each; positive,
    negative: (group, y, x) means.
    """
    import xarray as xr

    unit = unit_of(*(quantity for _, _, quantity in keys))
    maps = {
        "units": unit,
        "description": (
            "mean per image, left eyes mirrored onto right ones; a layer's are times activation"
        ),
    }
    data = xr.Dataset(
        {
            "images": (
                "group",
                np.asarray(images, np.int32),
                {"long_name": "images in the group", "units": "1", "description": "count"},
            ),
            **{
                f"mean_{sign}": (
                    ("group", "y", "x"),
                    values.astype(np.float32),
                    {"long_name": f"mean {sign} attribution", **maps},
                )
                for sign, values in zip(SIGNS, (positive, negative), strict=True)
            },
        },
        # Objects become Zarr's own variable-length strings; fixed-length ones have no specification
        # yet.
        coords={
            name: ("group", np.array([key[index] for key in keys], object))
            for index, name in enumerate(_KEY)
        },
    )
    replace_set(files, explain_id, "groups", data)


def open_group_maps(files: Files, explain_id: str) -> "xr.Dataset | None":
    """The groups' maps, or None before the first `dr aggregate`."""
    return open_set(files, explain_id, "groups")
