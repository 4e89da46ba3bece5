"""The sums over all eyes: what a shard adds to them, and what is kept of them between runs.

The image axis only grows, so the sums over the leading full shards are kept with these shards'
digests. A run with new eyes reads the shards behind them alone; one in which a kept shard has
changed starts anew. Shards are added in their order, so both end with the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

from dr_lib.attribution.receptive import ReceptiveField
from dr_lib.localisation.unit_sums import (
    BINS,
    MOST,
    NEIGHBOURS,
    PLACES,
    UnitSums,
    example_rows,
    place_masks,
    places_at,
    unit_rows,
)
from dr_lib.maps import GroupHeatmaps
from storage import Workspace
from storage.arrays.store import ShardedStore
from storage.contents.snapshots import open_set, write_sums
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.run.table_part import TablePart

UNIT_TABLES = ("units", "unit_examples")
UNIT_ARRAYS = ("channel_attribution", "channel_activation", "channel_place")
# Changes when sums that were kept are of another kind, or rows would be others.
MADE_HOW = content_id(
    BINS, MOST, NEIGHBOURS, PLACES, [SCHEMAS[table].names for table in UNIT_TABLES]
)


@dataclass
class Sums:
    """Maps over groups of eyes, and by layer what units contribute (empty for an explanation of an
    earlier version, which does not hold it).
    """

    groups: GroupHeatmaps
    units: dict[str, UnitSums] = field(default_factory=dict)

    def merge(self, other: "Sums") -> None:
        """Takes in the sums over other eyes."""
        self.groups.merge(other.groups)
        for layer, sums in other.units.items():
            self.units[layer] = self.units[layer].merged(sums) if layer in self.units else sums


def unit_paths(store: ShardedStore, layers: Sequence[str]) -> list[str]:
    """The arrays that tell what units contribute; none for an explanation that lacks them."""
    paths = [f"layers/{layer}/{name}" for layer in layers for name in UNIT_ARRAYS]
    return paths if store.nodes.keys() >= {*paths} else []


def field_of(store: ShardedStore, layer: str) -> ReceptiveField:
    """What a layer's units see, as the explanation says it."""
    about = store.nodes[f"layers/{layer}/channel_place"]["attributes"]["receptive_field"]
    lists = {name: tuple(value) for name, value in about.items() if name != "whole"}
    return ReceptiveField(**lists, whole=about["whole"])


def sums_of_units(
    store: ShardedStore,
    layers: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    rows: np.ndarray,
    eyes: pd.DataFrame,
    pixels: np.ndarray,
    crop: float,
) -> dict[str, UnitSums]:
    """By layer the sums over some rows of a shard.

    Parameters
    ----------
    rows : that have an explanation
    eyes : of the whole shard, with their `row` on the image axis
    pixels : the shard's fundi
    crop : of the fundi
    """
    if not unit_paths(store, layers):
        return {}
    sides = [side if isinstance(side, str) else None for side in eyes["eye"]]
    masks = [place_masks(pixels[row], sides[row], crop=crop) for row in rows]
    sums = {}
    for layer in layers:
        told = [arrays[f"layers/{layer}/{name}"][rows] for name in UNIT_ARRAYS]
        seen = field_of(store, layer)
        places = [places_at(mask, at[:, 0], seen) for mask, at in zip(masks, told[2], strict=True)]
        shape = (*told[0].shape, len(PLACES))
        sums[layer] = UnitSums.of(*told, np.reshape(places, shape).astype(np.int8), eyes.iloc[rows])
    return sums


def keep(workspace: Workspace, explain_id: str, digests: Sequence[str], sums: Sums) -> None:
    """Keeps the sums over the leading shards, which have these digests."""
    maps, images = sums.groups.sums, sums.groups.images
    arrays = {
        f"{layer}.{name}": values
        for layer, own in sums.units.items()
        for name, values in vars(own).items()
    }
    arrays |= {"groups": np.stack([*maps.values()])} if maps else {}
    about = {
        "shards": list(digests),
        "made_how": MADE_HOW,
        "groups": [[*key, images[key]] for key in maps],
        "layers": [*sums.units],
    }
    write_sums(workspace.files, explain_id, arrays, about)


def kept(
    workspace: Workspace, explain_id: str, digests: Sequence[str], size: int
) -> tuple[int, Sums]:
    """How many leading shards the sums that were kept are over, and these sums; none where one of
    them has changed since.
    """
    found, sums = open_set(workspace.files, explain_id, "sums"), Sums(GroupHeatmaps(size))
    about = {"shards": [], "made_how": ""} if found is None else found.attrs
    shards = about["shards"]
    if found is None or about["made_how"] != MADE_HOW or shards != digests[: len(shards)]:
        return 0, sums
    maps = found["groups"].to_numpy() if about["groups"] else []
    for (group, source, quantity, images), values in zip(about["groups"], maps, strict=True):
        sums.groups.sums[group, source, quantity] = values
        sums.groups.images[group, source, quantity] = images
    names = [part.name for part in fields(UnitSums)]
    for layer in about["layers"]:
        sums.units[layer] = UnitSums(*(found[f"{layer}.{name}"].to_numpy() for name in names))
    return len(shards), sums


def write_units(
    part: TablePart, store: ShardedStore, sums: Sums, eyes: pd.DataFrame, size: int
) -> None:
    """Writes the rows of both tables of units. eyes: of the whole image axis; size: of a fundus, in
    px."""
    layers = sums.units.items()
    units = pd.concat([unit_rows(layer, own) for layer, own in layers])
    examples = pd.concat(
        [example_rows(layer, own, field_of(store, layer), size) for layer, own in layers]
    )
    examples = examples.join(eyes[["image_id", "stage", "predicted_stage"]], on="row")
    part.write("units", units.reindex(columns=SCHEMAS["units"].names))
    part.write("unit_examples", examples.drop(columns="row"))
