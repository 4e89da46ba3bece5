"""The store of normalised fundus images: `fundus/<preprocess_id>.zarr`, one row per photograph
of the manifest.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dr_lib.vocabulary import HALF_GRAY
from storage.arrays.ledger import Ledger
from storage.arrays.specs import ArraySpec
from storage.contents.records import LATEST, pick
from storage.files.files import Files
from storage.layout import FUNDUS, fundus_path, ledger_folder

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
    "quality",
}
MEASURES = {
    "visible_fraction": "share of the disc inside the photograph's frame and lit",
    "exposure": "mean brightness of the visible retina, 0 black, 1 white",
    "contrast": "spread of brightness over the visible retina",
    "sharpness": "strength of the vessels' band of spatial frequencies",
}


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
        _measure("diameter", "diameter of the retina's disc", "px", "in the original photograph"),
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
    ids = [name.removesuffix(".zarr") for name in files.names(FUNDUS) if name.endswith(".zarr")]

    def written(preprocess_id: str) -> tuple[float, str]:
        path = fundus_path(preprocess_id)
        marked = Ledger(files, ledger_folder(path)).modified()
        return max(marked, files.modified(f"{path}/zarr.json")), preprocess_id

    return sorted(ids, key=written)


def pick_fundus(files: Files, preprocess_id: str = LATEST) -> str:
    """The id of a preprocessing that has a store. Raises NotThere."""
    ids = {name: name for name in fundus_ids(files)}
    return pick(files, ids, preprocess_id, "preprocessing", "fundus images", "dr preprocess")


def open_fundus(files: Files, preprocess_id: str = LATEST, *, chunks=None) -> "xr.Dataset":
    """A fundus store as a dataset indexed by `image_id`. Raises NotThere."""
    import xarray as xr

    path = fundus_path(pick_fundus(files, preprocess_id))
    data = xr.open_zarr(files.zarr(path, read_only=True), chunks=None).set_xindex("image_id")
    return data if chunks is None else data.chunk(chunks)
