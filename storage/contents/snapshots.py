"""Small sets of arrays that are replaced as a whole:
`explanations/<explain_id>/<stem>-<digest>.zarr`, named by `<stem>.json`. The mean heat maps of
groups of images are one (`groups`), the regions of special units on the eyes where they are
strongest another (`units`), the sums over eyes that `dr aggregate` goes on from a third (`sums`).

A set has a name of its own and then one small file that points to it, so a reader never meets half
of a new set.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.contents.declared import declared_set
from storage.contents.explanations import unit_of
from storage.errors import writing
from storage.files.files import Files
from storage.layout import explanation_path

if TYPE_CHECKING:
    import xarray as xr


def replace_set(files: Files, explain_id: str, stem: str, data: "xr.Dataset | None") -> None:
    """Makes `data` the set of that name, or forgets it for None; one that is there already with
    these contents is left alone.
    """
    pointer, old = _current(files, explain_id, stem)
    if data is not None:
        new = f"{stem}-{_digest(data)}.zarr"
        store = explanation_path(explain_id, new)
        if old == store:
            return
        files.remove_tree(store)  # what an interrupted call left
        with writing(files.url(store)):
            data.to_zarr(files.zarr(store, read_only=False), zarr_format=3, consolidated=False)
            files.flush(files.walk(store))
        files.write_json(pointer, {"store": new})
    elif old:
        files.remove(pointer)
    if old:
        files.remove_tree(old)


def open_set(files: Files, explain_id: str, stem: str) -> "xr.Dataset | None":
    """The set of that name, read when used, or None where there is none yet."""
    import xarray as xr

    _, store = _current(files, explain_id, stem)
    if store is None:
        return None
    return xr.open_zarr(files.zarr(store, read_only=True), consolidated=False, chunks=None)


def _current(files: Files, explain_id: str, stem: str) -> tuple[str, str | None]:
    """The file that points to a set, and the set's store; None where there is none."""
    pointer = explanation_path(explain_id, f"{stem}.json")
    named = files.read_json(pointer)
    return pointer, explanation_path(explain_id, named["store"]) if named else None


def _digest(data: "xr.Dataset") -> str:
    digest = hashlib.sha256(repr(sorted(data.attrs.items())).encode())
    for name in sorted(map(str, data.variables)):
        values = data[name].to_numpy()
        plain = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
        digest.update(f"{name} {data[name].dims} {values.dtype} {values.shape}".encode() + plain)
    return digest.hexdigest()[:8]


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


def write_unit_maps(
    files: Files, explain_id: str, keys: Sequence[tuple[str, int, str]], regions: np.ndarray
) -> None:
    """Replaces the regions. keys: (layer, unit, image id) of each; regions: (entry, y, x).
    Without any, the set is removed.
    """
    data = None
    if keys:
        layers, units, image_ids = zip(*keys, strict=True)
        names = {"layer": layers, "unit": np.array(units, np.int32), "image_id": image_ids}
        data = declared_set("units", "entry", names, {"region": regions})
    replace_set(files, explain_id, "units", data)


def write_sums(
    files: Files, explain_id: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Replaces the sums over eyes. about: what they are over, as attributes of the set."""
    import xarray as xr

    variables = {
        name: ([f"{name}_{axis}" for axis in range(values.ndim)], values)
        for name, values in arrays.items()
    }
    replace_set(files, explain_id, "sums", xr.Dataset(variables, attrs=dict(about)))
