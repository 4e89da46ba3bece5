"""The store of normalised fundus images: `fundus/<preprocess_id>.zarr`, one row per photograph
of the manifest.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dr_lib.vocabulary import HALF_GRAY
from storage.arrays.specs import ArraySpec
from storage.errors import NotThere
from storage.files.files import Files

if TYPE_CHECKING:
    import xarray as xr


PENDING, DONE, REJECTED = range(3)
NAN = float("nan")
BASE = {
    "pixels",
    "status",
    "diameter",
    "centre_y",
    "centre_x",
    "confidence",
    "reduction",
    "aspect",
    "quality",
}
MEASURES = {
    "visible_fraction": "share of the disc inside the photograph's frame and lit",
    "exposure": "mean brightness of the visible retina, 0 black, 1 white",
    "contrast": "spread of brightness over the visible retina",
    "sharpness": "strength of the vessels' band of spatial frequencies",
}


def fundus_path(preprocess_id: str) -> str:
    """Where a preprocessing's store lies.

    >>> fundus_path("0123456789ab")
    'fundus/0123456789ab.zarr'
    """
    return f"fundus/{preprocess_id}.zarr"


def fundus_specs(
    size: int, measures: Iterable[str] | Mapping[str, str] = ("visible_fraction",)
) -> list[ArraySpec]:
    """The arrays of a fundus store with images of `size` px.

    measures: names of the quality measures, or name → what it measures; each becomes an array of
    that name, beside the geometry and the score `quality`.
    """
    texts = (
        dict(measures)
        if isinstance(measures, Mapping)
        else {name: MEASURES.get(name, "") for name in measures}
    )
    return [
        ArraySpec(
            "pixels",
            ("image", "y", "x", "channel"),
            (size, size, 3),
            "uint8",
            HALF_GRAY,
            "normalised fundus",
            "grey level",
            "red, green, blue; the retina's diameter is the width, half-grey 128 outside 0.9 of its"
            " radius",
            labels={"channel": ("red", "green", "blue")},
        ),
        ArraySpec(
            "status",
            ("image",),
            (),
            "uint8",
            PENDING,
            "what became of the photograph",
            "",
            "0 not processed yet, 1 done, 2 rejected (see catalog/rejects.parquet)",
            attrs={
                "flag_values": [PENDING, DONE, REJECTED],
                "flag_meanings": "pending done rejected",
            },
        ),
        _measure(
            "diameter",
            "diameter of the retina's disc",
            "px",
            "in the original photograph, from left to right",
        ),
        ArraySpec(
            "aspect",
            ("image",),
            (),
            "float32",
            1.0,
            "height of the retina's disc over its width",
            "",
            "in the original photograph: 1 round; other values say that it was squeezed, and that"
            " the fundus was made round",
            later=True,
        ),
        _measure(
            "centre_y", "row of the disc's centre", "px", "in the original photograph, from the top"
        ),
        _measure(
            "centre_x",
            "column of the disc's centre",
            "px",
            "in the original photograph, from the left",
        ),
        _measure("confidence", "confidence in the geometry", "", "0 none, 1 full"),
        _measure(
            "reduction",
            "reduction of decoding",
            "",
            "1, 2, 4 or 8: the photograph was decoded at 1/reduction of its size",
        ),
        _measure("quality", "quality score", "", "0 hopeless, 1 perfect"),
        *(
            _measure(name, name.replace("_", " "), "", text or f"quality measure: {name}")
            for name, text in texts.items()
            if name not in BASE
        ),
    ]


def _measure(name: str, long_name: str, units: str, description: str) -> ArraySpec:
    return ArraySpec(name, ("image",), (), "float32", NAN, long_name, units, description)


def fundus_ids(files: Files) -> list[str]:
    """The preprocessings that have a store, the one written last at the end."""
    from storage.arrays.ledger import Ledger
    from storage.arrays.store import ledger_folder

    ids = [name.removesuffix(".zarr") for name in files.names("fundus") if name.endswith(".zarr")]

    def written(preprocess_id: str) -> tuple[float, str]:
        path = fundus_path(preprocess_id)
        ledger = Ledger(files, ledger_folder(path)).modified()
        return max(ledger, files.modified(f"{path}/zarr.json")), preprocess_id

    return sorted(ids, key=written)


def open_fundus(files: Files, preprocess_id: str = "latest", *, chunks=None) -> "xr.Dataset":
    """A fundus store as a dataset indexed by `image_id`. Raises FileNotFoundError where it is
    not there.
    """
    import xarray as xr

    ids = fundus_ids(files)
    if not ids or preprocess_id not in ("latest", *ids):
        which = (
            "no fundus images yet"
            if not ids
            else f"no preprocessing {preprocess_id}; there are {', '.join(ids)}"
        )
        raise NotThere(f"{files.location} holds {which}: run dr preprocess")
    path = fundus_path(ids[-1] if preprocess_id == "latest" else preprocess_id)
    data = xr.open_zarr(files.zarr(path, read_only=True), chunks=None).set_xindex("image_id")
    return data if chunks is None else data.chunk(chunks)
