"""An explanation: `explanations/<explain_id>/` with attributions.zarr, its ledger and
explanation.json, and the changed images in counterfactuals-<pair>.zarr.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dr_lib.vocabulary import SIGNS, STAGE_QUANTITIES
from storage.arrays.specs import ArraySpec
from storage.contents.declared import declared
from storage.contents.records import LATEST, Dated, pick
from storage.errors import NotThere
from storage.files.files import Files, canonical_json
from storage.files.formats import Part, Record
from storage.layout import EXPLANATION_RECORD, EXPLANATIONS, attributions_path, explanation_path

if TYPE_CHECKING:
    import xarray as xr


RUNS, REGION_SETTINGS = "runs", "regions.json"
PENDING, DONE, FAILED = range(3)
# What is largest at the two places of a channel.
LARGEST = ("contribution", "activation")
# Of the search that made a changed image.
NUMBERS = ("reached", "failed", "strength", "best_probability", "probability")


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


@dataclass(frozen=True)
class LayerShape:
    """unit_shape: (60, 60, 192), or (256,) for a dense layer. window: side of a region's window in
    px. neurons: how many regions are kept, of each sign. field: what a unit sees, as the attribute
    `receptive_field` of `channel_place` says it.
    """

    unit_shape: Sequence[int]
    window: int
    neurons: int
    field: Mapping[str, Any] = field(default_factory=dict)


def explanation_specs(
    quantities: Sequence[str],
    size: int,
    layers: Mapping[str, LayerShape],
    *,
    layer_quantity: str = "predicted",
    lesions: bool = False,
) -> list[ArraySpec]:
    """The arrays of an explanation: DESIGN §2's table, and a status per image.

    layer_quantity: what is attributed to the layers. lesions: whether there is a lesion map.
    """
    sides = {"y": size, "x": size}
    labels = {"quantity": quantities}
    flags = ("pending", "done", "failed")
    specs = declared(
        "pixels", "pixels", sizes=sides, labels=labels, flags=flags, unit=unit_of(*quantities)
    )
    if lesions:
        specs += declared("lesion", "lesion", sizes=sides, unit=unit_of("disease"))
    for layer, shape in layers.items():
        axes = ("y", "x", "channel") if len(shape.unit_shape) == 3 else ("channel",)
        window = {"region_y": shape.window, "region_x": shape.window}
        arrays = declared(
            "layer",
            f"layers/{layer}",
            sizes={**sides, **window, "rank": shape.neurons, "channel": shape.unit_shape[-1]},
            labels={"sign": SIGNS, "axis": axes, "origin": ("y", "x"), "largest": LARGEST},
            unit=unit_of(layer_quantity),
            axes=", ".join(axes),
        )
        seen = {"receptive_field": dict(shape.field)}
        specs += [
            replace(spec, attrs=seen) if spec.path.endswith("/channel_place") else spec
            for spec in arrays
        ]
    return specs


def counterfactual_specs(
    counterfactuals: Sequence[str], adversarials: Sequence[str], size: int
) -> list[ArraySpec]:
    """The arrays of a pair of stages, for all methods; the difference is kept of counterfactuals
    only, since of an adversarial example it is noise.

    A pair has a store of its own (`1-0-1`: of true stage 1, predicted as 0, to be 1), so that one
    pair's results never push out another's. A method has a group of its own, whether it has been
    asked for or not.
    """
    arrays = functools.partial(
        declared,
        sizes={"y": size, "x": size, "channel": 3},
        labels={"stage": STAGE_QUANTITIES},
    )
    specs = arrays("original", "original")
    for method in (*counterfactuals, *adversarials):
        specs += arrays("changed", method)
    for method in counterfactuals:
        specs += arrays("difference", method)
    return specs


@dataclass(frozen=True)
class ExplanationRecord(Dated):
    """What explanation.json says: what it was made from, and the engine's settings."""

    explain_id: str
    model_id: str = ""
    preprocess_id: str = ""
    attribution: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantities(self) -> list[str]:
        return self.attribution["quantities"]

    @property
    def layers(self) -> list[str]:
        return self.attribution["layers"]

    @property
    def layer_quantity(self) -> str:
        return self.attribution["layer_quantity"]


def save_record(files: Files, record: ExplanationRecord) -> None:
    """Writes explanation.json; keeps the time of the first writing."""
    record.save(files, explanation_path(record.explain_id, EXPLANATION_RECORD))


def load_records(files: Files) -> list[ExplanationRecord]:
    """Every explanation's record, oldest first. Raises OtherFormat."""
    return [*ExplanationRecord.by_id(files, EXPLANATIONS, EXPLANATION_RECORD).values()]


def load_record(files: Files, explain_id: str = LATEST) -> ExplanationRecord:
    """One explanation's record. Raises NotThere, naming those there are; OtherFormat."""
    records = ExplanationRecord.by_id(files, EXPLANATIONS, EXPLANATION_RECORD)
    return pick(files, records, explain_id, "explanation", "explanations", "dr attribute")


@dataclass(frozen=True)
class Cost(Part):
    """What explaining some images takes, or was thought to take: seconds of the clock, bytes on
    disk, memory of all workers or of the largest, passes (points at which gradients are taken).

    basis: where the numbers are from, for people.
    """

    images: int = 0
    bytes: int | None = None
    memory_bytes: int | None = None
    passes: int | None = None
    seconds: float | None = None
    workers: int = 0
    worker_bytes: int = 0
    basis: str = ""

    @property
    def memory(self) -> int | None:
        """Of all workers, in bytes; None where it is not known."""
        return self.memory_bytes or self.worker_bytes * self.workers or None


@dataclass(frozen=True)
class RunRecord(Record):
    """A run of `dr attribute`. state: running, completed, failed or interrupted."""

    PARTS: ClassVar[Mapping[str, type[Part]]] = {"planned": Cost, "actual": Cost}
    started: str
    state: str
    planned: Cost
    actual: Cost | None = None


def save_region_settings(files: Files, explain_id: str, settings: Mapping[str, Any]) -> None:
    """Notes how regions are cut out of the explanation's maps; nothing is written where that is
    known already.
    """
    path = explanation_path(explain_id, REGION_SETTINGS)
    files.update(path, canonical_json(settings))


def load_region_settings(files: Files, explain_id: str) -> dict[str, Any]:
    """What `save_region_settings` noted; empty where the regions are of an earlier version."""
    return files.read_json(explanation_path(explain_id, REGION_SETTINGS)) or {}


def save_run(files: Files, explain_id: str, name: str, record: RunRecord) -> None:
    """Notes what a run of `dr attribute` planned and, once it is over, what it took; `name`
    sorts by time.
    """
    record.write(files, explanation_path(explain_id, f"{RUNS}/{name}.json"))


def load_runs(files: Files, explain_id: str) -> list[RunRecord]:
    """What `save_run` noted, oldest first. Raises OtherFormat."""
    folder = explanation_path(explain_id, RUNS)
    records = [RunRecord.read(files, f"{folder}/{name}") for name in files.names(folder)]
    return [record for record in records if record]


def open_attributions(files: Files, explain_id: str, *, chunks) -> "xr.DataTree":
    """An explanation's arrays as a tree, every group indexed by `image_id`. Raises
    FileNotFoundError.
    """
    import xarray as xr

    if explain_id == LATEST:
        explain_id = load_record(files).explain_id
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
    tree = xr.DataTree.from_dict(groups, name=explain_id)
    return tree if chunks is None else tree.chunk(chunks)
