"""The store of normalised fundus images: `fundus/<preprocess_id>.zarr`, one row per photograph
of the manifest.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from storage.arrays.specs import ArraySpec
from storage.contents.declared import declared
from storage.contents.records import LATEST, pick
from storage.files.files import Files
from storage.layout import FUNDUS, fundus_path, ledger_folder
from storage.tables.schemas import SCHEMAS

if TYPE_CHECKING:
    import xarray as xr


PENDING, DONE, REJECTED = range(3)


def fundus_specs(size: int, measures: Iterable[str] = ()) -> list[ArraySpec]:
    """The arrays of a fundus store with images of `size` px.

    measures: columns of the table `quality`; each becomes an array of that name and meaning, beside
    the geometry and the score `quality`.
    """
    specs = declared(
        "fundus",
        sizes={"y": size, "x": size},
        labels={"channel": ("red", "green", "blue")},
        flags=("pending", "done", "rejected"),
    )
    known, score, columns = {spec.path for spec in specs}, specs[-1], SCHEMAS["quality"]
    return specs + [
        replace(
            score,
            path=name,
            long_name=name.replace("_", " "),
            description=columns.field(name).metadata[b"description"].decode(),
        )
        for name in measures
        if name not in known
    ]


def preprocess_ids(files: Files) -> list[str]:
    """The preprocessings that have a store, the one written last at the end."""
    ids = [name.removesuffix(".zarr") for name in files.names(FUNDUS) if name.endswith(".zarr")]

    def written(preprocess_id: str) -> tuple[float, str]:
        path = fundus_path(preprocess_id)
        marked = files.newest(ledger_folder(path))
        return max(marked, files.modified(f"{path}/zarr.json")), preprocess_id

    return sorted(ids, key=written)


def pick_fundus(files: Files, preprocess_id: str = LATEST) -> str:
    """The id of a preprocessing that has a store. Raises NotThere."""
    ids = {name: name for name in preprocess_ids(files)}
    return pick(files, ids, preprocess_id, "preprocessing", "fundus images", "dr preprocess")


def open_fundus(files: Files, preprocess_id: str, *, chunks) -> "xr.Dataset":
    """A fundus store as a dataset indexed by `image_id`. Raises NotThere."""
    import xarray as xr

    path = fundus_path(pick_fundus(files, preprocess_id))
    data = xr.open_zarr(files.zarr(path, read_only=True), chunks=None).set_xindex("image_id")
    return data if chunks is None else data.chunk(chunks)
