"""Mean heat maps of groups of images: `explanations/<explain_id>/groups-<digest>.zarr`, named by
`groups.json` once whole.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from storage.contents.declared import declared_set
from storage.contents.explanations import unit_of
from storage.contents.snapshots import open_set, replace_set
from storage.files.files import Files

if TYPE_CHECKING:
    import xarray as xr


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
    names, sources, quantities = zip(*keys, strict=True)
    data = declared_set(
        "groups",
        "group",
        {"group_name": names, "source": sources, "quantity": quantities},
        {"images": images, "mean_positive": positive, "mean_negative": negative},
        unit=unit_of(*quantities),
    )
    replace_set(files, explain_id, "groups", data)


def open_group_maps(files: Files, explain_id: str) -> "xr.Dataset | None":
    """The groups' maps, or None before the first `dr aggregate`."""
    return open_set(files, explain_id, "groups")
