"""An explanation: `explanations/<explain_id>/` with attributions.zarr, its ledger and
explanation.json.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dr_lib.vocabulary import SIGNS
from storage.arrays.specs import ArraySpec
from storage.errors import NotThere
from storage.files.files import Files, canonical_json

if TYPE_CHECKING:
    import xarray as xr


PENDING, DONE, FAILED = range(3)
NAN = float("nan")
# Rounding to 9 bits changes a value by at most 2^-10 of itself: under 0.1 % of the map's maximum,
# the sum by far less.
MAP_BITS = 9


def attributions_path(explain_id: str) -> str:
    """Where an explanation's arrays lie.

    >>> attributions_path("0123456789ab")
    'explanations/0123456789ab/attributions.zarr'
    """
    return f"explanations/{explain_id}/attributions.zarr"


def unit_of(*quantities: str) -> str:
    """The unit of attributed quantities, and of their attributions: probability, logit or log-odds.

    >>> (
    ...     unit_of("stage3", "referable", "predicted"),
    ...     unit_of("logit3"),
    ...     unit_of("logodds3:0"),
    ...     unit_of("stage3", "logit3"),
    ... )
    ('probability', 'logit', 'log-odds', 'probability or logit')
    """
    return " or ".join(dict.fromkeys(_unit(name) for name in quantities))


def _unit(quantity: str) -> str:
    if quantity.startswith("logit"):
        return "logit"
    return "log-odds" if quantity.startswith(("logodds", "disease")) else "probability"


def explanation_specs(
    quantities: Sequence[str],
    size: int,
    layers: Mapping[str, Mapping[str, Any]],
    neurons: int,
    *,
    layer_quantity: str = "predicted",
    lesions: bool = False,
) -> list[ArraySpec]:
    """The arrays of an explanation: DESIGN §2's table, and a status per image.

    layers: for each layer `unit_shape` ((60, 60, 192), or (256,) for a dense layer) and `window`,
    the side of a region's window in px. neurons: how many regions are kept, of each sign.
    layer_quantity: what is attributed to the layers. lesions: whether there is a lesion map.
    """
    specs = _pixel_specs(tuple(quantities), size) + ([_lesion_spec(size)] if lesions else [])
    for layer, shape in layers.items():
        specs += _layer_specs(
            layer,
            _get(shape, "unit_shape"),
            _get(shape, "window"),
            size,
            neurons,
            unit_of(layer_quantity),
        )
    return specs


def _pixel_specs(quantities: tuple[str, ...], size: int) -> list[ArraySpec]:
    count, unit = len(quantities), unit_of(*quantities)
    labels = {"quantity": quantities}

    def each(name, dtype, fill, long_name, units, description):
        path, dims = f"pixels/{name}", ("image", "quantity")
        return ArraySpec(
            path, dims, (count,), dtype, fill, long_name, units, description, labels=labels
        )

    return [
        ArraySpec(
            "pixels/attribution",
            ("image", "quantity", "y", "x"),
            (count, size, size),
            "float32",
            NAN,
            "attribution to pixels",
            unit,
            "integrated gradients of each quantity, summed over the colour channels",
            mantissa_bits=MAP_BITS,
            labels=labels,
        ),
        each("outcome", "float32", NAN, "outcome", unit, "F(x): the quantity for the image"),
        each(
            "baseline_outcome",
            "float32",
            NAN,
            "outcome of the baseline",
            unit,
            "F(x'): for the half-grey image",
        ),
        each(
            "gap",
            "float32",
            NAN,
            "completeness gap",
            unit,
            "sum of the attributions − (F(x) − F(x'))",
        ),
        each(
            "map_error",
            "float32",
            NAN,
            "map error",
            "share",
            "change of the map from n to 2n points, relative to the map",
        ),
        each("points", "int32", 0, "points", "", "points used on the line from baseline to image"),
        each("converged", "bool", False, "converged", "", "whether the tolerance was met"),
        ArraySpec(
            "pixels/status",
            ("image",),
            (),
            "uint8",
            PENDING,
            "what became of the image",
            "",
            "0 not explained yet, 1 done, 2 failed (non-finite results, or the worker died on it)",
            attrs={"flag_values": [PENDING, DONE, FAILED], "flag_meanings": "pending done failed"},
        ),
    ]


def _lesion_spec(size: int) -> ArraySpec:
    return ArraySpec(
        "lesion/map",
        ("image", "y", "x"),
        (size, size),
        "float32",
        NAN,
        "lesion map",
        unit_of("disease"),
        "absolute integrated gradients of the log-odds of any disease against none, summed over the"
        " colour channels, averaged over poses of the disc: larger where a lesion is likelier",
        mantissa_bits=MAP_BITS,
    )


def _layer_specs(
    layer: str, unit_shape: Sequence[int], window: int, size: int, neurons: int, unit: str
) -> list[ArraySpec]:
    axes = ("y", "x", "channel") if len(unit_shape) == 3 else ("channel",)
    ranked = ("image", "sign", "rank")
    signs = {"sign": SIGNS}

    def spec(
        name, dims, shape, dtype, fill, long_name, units, description, bits=None, labels=signs
    ):
        labels = {dim: names for dim, names in labels.items() if dim in dims}
        path = f"layers/{layer}/{name}"
        return ArraySpec(
            path,
            dims,
            shape,
            dtype,
            fill,
            long_name,
            units,
            description,
            mantissa_bits=bits,
            labels=labels,
        )

    def ranking(name, long_name, units, description):
        return spec(name, ranked, (2, neurons), "float32", NAN, long_name, units, description)

    return [
        spec(
            "neuron",
            (*ranked, "axis"),
            (2, neurons, len(axes)),
            "int16",
            -1,
            "chosen neurons",
            "",
            f"{', '.join(axes)} of the strongest neurons of each sign; −1 where there are fewer",
            labels={**signs, "axis": axes},
        ),
        ranking(
            "neuron_attribution", "attribution to the neuron", unit, "A_j of the layer's quantity"
        ),
        ranking("activation", "activation", "activation", "h_j(x): the neuron for the image"),
        ranking(
            "baseline_activation",
            "activation for the baseline",
            "activation",
            "h_j(x'): for the half-grey image",
        ),
        ranking(
            "neuron_gap",
            "completeness gap of the region",
            "activation",
            "sum of the region − (h_j(x) − h_j(x'))",
        ),
        spec(
            "region",
            (*ranked, "region_y", "region_x"),
            (2, neurons, window, window),
            "float32",
            NAN,
            "active region",
            "activation",
            "integrated gradients of the neuron on the pixels of its window, summed over the colour"
            " channels",
            bits=MAP_BITS,
        ),
        spec(
            "region_origin",
            (*ranked, "origin"),
            (2, neurons, 2),
            "int16",
            -1,
            "place of the region's window",
            "px",
            "row and column of the window's first pixel in the fundus image",
            labels={**signs, "origin": ("y", "x")},
        ),
        spec(
            "resultant",
            ("image", "sign", "y", "x"),
            (2, size, size),
            "float32",
            NAN,
            "resultant active region",
            f"{unit} × activation",
            "sum of A_j times the active region of neuron j, over the strongest neurons of each"
            " sign",
            bits=MAP_BITS,
        ),
        spec(
            "channel_attribution",
            ("image", "channel"),
            (unit_shape[-1],),
            "float32",
            NAN,
            "attribution to channels",
            unit,
            "the outcome's attribution to the layer, summed over positions",
        ),
        spec(
            "gap",
            ("image",),
            (),
            "float32",
            NAN,
            "completeness gap",
            unit,
            "of the outcome → layer attribution",
        ),
        spec(
            "points",
            ("image",),
            (),
            "int32",
            0,
            "points",
            "",
            "points used for the outcome → layer attribution",
        ),
    ]


def _get(shape, name: str):
    return shape[name] if isinstance(shape, Mapping) else getattr(shape, name)


def save_record(files: Files, explain_id: str, record: Mapping[str, Any]) -> dict:
    """Writes explanation.json (settings, model_id, preprocess_id, …); keeps the time of the
    first writing.
    """
    path = f"explanations/{explain_id}/explanation.json"
    old = files.read_json(path) or {}
    record = {
        **record,
        "explain_id": explain_id,
        "created": old.get("created") or datetime.now(UTC).isoformat(),
    }
    if canonical_json(record) != canonical_json(old):
        files.write_json(path, record)
    return record


def load_records(files: Files) -> list[dict]:
    """Every explanation's record, oldest first."""
    names = files.names("explanations")
    records = [files.read_json(f"explanations/{name}/explanation.json") for name in names]
    return sorted(
        (record for record in records if record),
        key=lambda record: (record["created"], record["explain_id"]),
    )


def load_record(files: Files, explain_id: str = "latest") -> dict:
    """One explanation's record. Raises FileNotFoundError, naming those there are."""
    records = {record["explain_id"]: record for record in load_records(files)}
    if explain_id == "latest" and records:
        return list(records.values())[-1]
    if explain_id not in records:
        which = (
            f"no explanation {explain_id}; there are {', '.join(records)}"
            if records
            else "no explanations yet"
        )
        raise NotThere(f"{files.location} holds {which}: run dr attribute")
    return records[explain_id]


def save_region_settings(files: Files, explain_id: str, settings: Mapping[str, Any]) -> None:
    """Notes how regions are cut out of the explanation's maps; nothing is written where that is
    known already.
    """
    path = f"explanations/{explain_id}/regions.json"
    if canonical_json(files.read_json(path) or {}) != canonical_json(settings):
        files.write_json(path, dict(settings))


def load_region_settings(files: Files, explain_id: str) -> dict[str, Any]:
    """What `save_region_settings` noted; empty where the regions are of an earlier version."""
    return files.read_json(f"explanations/{explain_id}/regions.json") or {}


def save_run(files: Files, explain_id: str, name: str, record: Mapping[str, Any]) -> None:
    """Notes what a run of `dr attribute` planned and, once it is over, what it took; `name`
    sorts by time.
    """
    files.write_json(f"explanations/{explain_id}/runs/{name}.json", record)


def load_runs(files: Files, explain_id: str) -> list[dict]:
    """What `save_run` noted, oldest first."""
    folder = f"explanations/{explain_id}/runs"
    return [
        record for name in files.names(folder) if (record := files.read_json(f"{folder}/{name}"))
    ]


def open_attributions(files: Files, explain_id: str = "latest", *, chunks=None) -> "xr.DataTree":
    """An explanation's arrays as a tree, every group indexed by `image_id`. Raises
    FileNotFoundError.
    """
    import xarray as xr

    if explain_id == "latest":
        explain_id = load_record(files)["explain_id"]
    path = attributions_path(explain_id)
    if not files.exists(f"{path}/zarr.json"):
        raise NotThere(f"{files.location} holds no attributions for {explain_id}: run dr attribute")
    tree = xr.open_datatree(files.zarr(path, read_only=True), engine="zarr", chunks=None)
    # The ids stand in every group, for those who open one alone. In a tree the root's index serves
    # them all.
    groups = {
        node.path: node.to_dataset(inherit=False).drop_vars("image_id", errors="ignore")
        for node in tree.subtree
    }
    groups["/"] = tree.to_dataset(inherit=False).set_xindex("image_id")
    if chunks is not None:
        groups = {
            group: data.chunk({dim: size for dim, size in chunks.items() if dim in data.dims})
            for group, data in groups.items()
        }
    return xr.DataTree.from_dict(groups, name=explain_id)
