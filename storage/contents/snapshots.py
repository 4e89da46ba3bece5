"""Small sets of arrays that are replaced as a whole:
`explanations/<explain_id>/<stem>-<digest>.zarr`, named by `<stem>.json`.

A set has a name of its own and then one small file that points to it, so a reader never meets half
of a new set.
"""

import hashlib
from typing import TYPE_CHECKING

from storage.errors import writing
from storage.files.files import Files
from storage.layout import explanation_path

if TYPE_CHECKING:
    import xarray as xr


def replace_set(files: Files, explain_id: str, stem: str, data: "xr.Dataset") -> None:
    """Makes `data` the set of that name; one that is there already with these contents is left
    alone.
    """
    folder = explanation_path(explain_id)
    name = f"{stem}-{_digest(data)}.zarr"
    old = files.read_json(f"{folder}/{stem}.json") or {}
    if old.get("store") == name:
        return
    files.remove_tree(f"{folder}/{name}")  # what an interrupted call left
    with writing(files.url(f"{folder}/{name}")):
        data.to_zarr(
            files.zarr(f"{folder}/{name}", read_only=False), zarr_format=3, consolidated=False
        )
        files.flush(files.walk(f"{folder}/{name}"))
    files.write_json(f"{folder}/{stem}.json", {"store": name})
    if old:
        files.remove_tree(f"{folder}/{old['store']}")


def remove_set(files: Files, explain_id: str, stem: str) -> None:
    """Forgets the set of that name, if there is one."""
    folder = explanation_path(explain_id)
    if named := files.read_json(f"{folder}/{stem}.json"):
        files.remove(f"{folder}/{stem}.json")
        files.remove_tree(f"{folder}/{named['store']}")


def open_set(files: Files, explain_id: str, stem: str) -> "xr.Dataset | None":
    """The set of that name, read when used, or None where there is none yet."""
    import xarray as xr

    folder = explanation_path(explain_id)
    named = files.read_json(f"{folder}/{stem}.json")
    if named is None:
        return None
    store = files.zarr(f"{folder}/{named['store']}", read_only=True)
    return xr.open_zarr(store, consolidated=False, chunks=None)


def _digest(data: "xr.Dataset") -> str:
    digest = hashlib.sha256(repr(sorted(data.attrs.items())).encode())
    for name in sorted(map(str, data.variables)):
        values = data[name].to_numpy()
        plain = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
        digest.update(f"{name} {data[name].dims} {values.dtype} {values.shape}".encode() + plain)
    return digest.hexdigest()[:8]
