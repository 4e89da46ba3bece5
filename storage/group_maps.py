"""Mean heat maps of groups of images: `explanations/<explain_id>/groups-<digest>.zarr`, named by `groups.json` once whole."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from storage.errors import writing

if TYPE_CHECKING:
    import xarray as xr

    from storage.workspace import Workspace

_KEY = ("group_name", "source", "quantity")


def write_group_maps(
    ws: "Workspace",
    explain_id: str,
    keys: Sequence[tuple[str, str, str]],
    images: Sequence[int],
    positive: np.ndarray,
    negative: np.ndarray,
) -> None:
    """Replaces the groups' maps. keys: (group name, source, quantity) of each; positive, negative: (group, y, x) means."""
    import xarray as xr

    maps = {"units": "probability", "description": "mean per image, left eyes mirrored onto right ones"}
    data = xr.Dataset(
        {
            "images": (
                "group",
                np.asarray(images, np.int32),
                {"long_name": "images in the group", "units": "1", "description": "count"},
            ),
            "mean_positive": (
                ("group", "y", "x"),
                positive.astype(np.float32),
                {"long_name": "mean positive attribution", **maps},
            ),
            "mean_negative": (
                ("group", "y", "x"),
                negative.astype(np.float32),
                {"long_name": "mean negative attribution", **maps},
            ),
        },
        # Objects become Zarr's own variable-length strings; fixed-length ones have no specification yet.
        coords={name: ("group", np.array([key[index] for key in keys], object)) for index, name in enumerate(_KEY)},
    )
    # A name of its own and then one small file that points to it: a reader never meets half of a new set.
    name = f"groups-{_digest(keys, images, positive, negative)}.zarr"
    folder = f"explanations/{explain_id}"
    old = ws.files.read_json(f"{folder}/groups.json") or {}
    if old.get("store") == name:
        return
    ws.files.remove_tree(f"{folder}/{name}")  # what an interrupted call left
    with writing(ws.files.url(f"{folder}/{name}")):
        data.to_zarr(ws.files.zarr(f"{folder}/{name}", read_only=False), zarr_format=3, consolidated=False)
    ws.files.write_json(f"{folder}/groups.json", {"store": name})
    if old:
        ws.files.remove_tree(f"{folder}/{old['store']}")


def open_group_maps(ws: "Workspace", explain_id: str) -> "xr.Dataset | None":
    """The groups' maps, or None before the first `dr aggregate`."""
    import xarray as xr

    named = ws.files.read_json(f"explanations/{explain_id}/groups.json")
    if named is None:
        return None
    return xr.open_zarr(
        ws.files.zarr(f"explanations/{explain_id}/{named['store']}", read_only=True), consolidated=False, chunks=None
    )


def _digest(keys: Sequence[tuple[str, str, str]], images: Sequence[int], *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(repr((list(keys), [int(count) for count in images])).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:8]
