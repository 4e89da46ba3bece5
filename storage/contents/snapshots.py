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
    pointer, old = _current(files, explain_id, stem)
    new = f"{stem}-{_digest(data)}.zarr"
    store = explanation_path(explain_id, new)
    if old == store:
        return
    files.remove_tree(store)  # what an interrupted call left
    with writing(files.url(store)):
        data.to_zarr(files.zarr(store, read_only=False), zarr_format=3, consolidated=False)
        files.flush(files.walk(store))
    files.write_json(pointer, {"store": new})
    if old:
        files.remove_tree(old)


def remove_set(files: Files, explain_id: str, stem: str) -> None:
    """Forgets the set of that name, if there is one."""
    pointer, store = _current(files, explain_id, stem)
    if store:
        files.remove(pointer)
        files.remove_tree(store)


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
