"""The lesion regions of the explained eyes, on their photographs, for `dr export`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import Disc
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.localisation.channel_dissection import ChannelMaps
from dr_lib.localisation.lesion_types import TypeChannels, type_channels
from dr_lib.maps import HeatmapParams
from dr_lib.maps.exchange import FORMS, ExportedEye, ExportedRegion
from dr_lib.maps.outlines import outline
from dr_lib.maps.regions import Regions, find_regions
from dr_lib.network.model import scaled
from storage import Workspace
from storage.arrays.store import ShardedStore
from storage.contents.explanations import ExplanationRecord, load_record, load_region_settings
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.stores import crop_of, discs, explanation_store, fundus_store
from tasks.execution.worker import loaded_model
from tasks.run.errors import UserError

SIGN = "positive"  # what speaks for disease, or for the quantity of a layer's resultant


@dataclass(frozen=True)
class Export:
    """What was written, in numbers. outside: regions that do not lie in the photograph's frame."""

    text: str
    eyes: int
    regions: int
    outside: int
    types: tuple[str, ...]

    def in_words(self) -> str:
        told = (
            f"types told apart: {', '.join(self.types)}" if self.types else "types not told apart"
        )
        lost = f", {self.outside} more outside the photograph's frame" if self.outside else ""
        return f"{self.regions:,} regions of {self.eyes:,} eyes{lost}; {told}"


def export_regions(workspace: Workspace, form: str, source: str = "") -> Export:
    """The regions of the explanation made last, as text in one of `FORMS`.

    Parameters
    ----------
    workspace
        With an explanation and its tables.
    form
        coco, csv or geojson.
    source
        Whose regions: `lesion`, or a layer; left out, the lesion map's where there is one, else the
        first layer's.

    Raises
    ------
    UserError
        Where there are no such regions, or they are not those of the maps.
    """
    record = load_record(workspace.files)
    explain_id = record.explain_id
    store = explanation_store(workspace, explain_id)
    maps = _maps(store, record)
    source = source or next(iter(maps))
    if source not in maps:
        raise UserError(f"--source {source}: {explain_id} has regions of {', '.join(maps)}")
    if not workspace.parts("lesion_regions", explain_id):
        raise UserError(
            f"{workspace.location} holds no tables of {explain_id}; run `dr aggregate` first"
        )
    teller = _Teller.of(workspace, record)
    eyes, outside = [], 0
    for eye, lost in _eyes(workspace, record, store, source, maps[source], teller):
        eyes.append(eye)
        outside += lost
    description = f"{source} regions of explanation {explain_id} by model {record.model_id}"
    return Export(
        FORMS[form](eyes, description),
        len(eyes),
        sum(len(eye.regions) for eye in eyes),
        outside,
        teller.channels.types if teller else (),
    )


def _maps(store: ShardedStore, record: ExplanationRecord) -> dict[str, str]:
    """The array of each source's map, the preferred first."""
    there = {spec.path for spec in store.specs}
    lesion = {"lesion": "lesion/map"} if "lesion/map" in there else {}
    return lesion | {layer: f"layers/{layer}/resultant" for layer in record.layers}


def _eyes(
    workspace: Workspace,
    record: ExplanationRecord,
    store: ShardedStore,
    source: str,
    path: str,
    teller: "_Teller | None",
) -> Iterator[tuple[ExportedEye, int]]:
    """Each explained eye with its regions, and how many of them lie outside its photograph."""
    explain_id = record.explain_id
    params = HeatmapParams(**load_region_settings(workspace.files, explain_id))
    fundi = fundus_store(workspace, record.preprocess_id)
    eyes = explained_eyes(workspace, record.model_id, store.image_ids)
    photos = workspace.photos().set_index("image_id")
    done = {entry.shard for entry in store.records()}
    for span in store.spans():
        if span.index not in done:
            continue
        some = eyes.iloc[span.rows]
        arrays = store.read(span, ["pixels/status", path])
        rows = explained_rows(arrays["pixels/status"], some)
        places = some["position"].to_numpy()[rows].astype(np.int64)
        pixels, placed = fundi.read_rows(places, ["pixels"])["pixels"], discs(fundi, places)
        table = workspace.part("lesion_regions", explain_id, span.part)
        table = table[(table["source"] == source) & (table["sign"] == SIGN)]
        for row, disc, fundus in zip(rows, placed, pixels, strict=True):
            image_id = some.iloc[row]["image_id"]
            values = arrays[path][row]
            values = values[0] if values.ndim == 3 else values  # of the positive neurons
            found = find_regions(values, SIGN, params, crop=crop_of(fundi))
            mine = table[table["image_id"] == image_id].sort_values("region")
            _check(found, mine, image_id)
            yield _eye(image_id, photos.loc[image_id], disc, fundus, found, mine, teller)


def _check(found: Regions, rows: pd.DataFrame, image_id: str) -> None:
    """Raises UserError where the table's regions are not those of the map."""
    areas = np.bincount(found.labels.ravel(), minlength=found.count + 1)[1:]
    numbers = rows["region"].to_numpy()
    if numbers.size and (
        numbers.max() >= found.count or (areas[numbers] != rows["area_px"].to_numpy()).any()
    ):
        raise UserError(
            f"the regions of {image_id} were cut out with other settings, or by an earlier version:"
            " run `dr aggregate` with your configuration, then export again"
        )


def _eye(
    image_id: str,
    photo: pd.Series,
    disc: Disc,
    fundus: np.ndarray,
    found: Regions,
    rows: pd.DataFrame,
    teller: "_Teller | None",
) -> tuple[ExportedEye, int]:
    width, height = int(photo["width_px"]), int(photo["height_px"])
    numbers = rows["region"].tolist()
    told = teller.types(fundus, found, numbers) if teller else [(None, None)] * len(numbers)
    regions = []
    for row, (lesion, probability) in zip(rows.to_dict("records"), told, strict=True):
        shape = outline(found.labels == row["region"] + 1, disc, (height, width))
        if shape is not None:
            regions.append(
                ExportedRegion(
                    row["region"],
                    shape,
                    row["image_share"],
                    row["attribution_sum"],
                    lesion,
                    probability,
                )
            )
    eye = ExportedEye(image_id, photo["path"], width, height, tuple(regions))
    return eye, len(numbers) - len(regions)


class _Teller:
    """Tells a region's likeliest lesion type by the channels of the model that was explained."""

    def __init__(self, channels: TypeChannels, model: Any, crop: float) -> None:
        self.channels = channels
        self._seen = visible_disc(int(model.inputs[0].shape[1]), crop=crop)
        self._layers = {
            layer: ChannelMaps(model, layer) for layer in dict.fromkeys(channels.layers)
        }

    @classmethod
    def of(cls, workspace: Workspace, record: ExplanationRecord) -> "_Teller | None":
        """None where the dissection found no channels that tell types apart."""
        units = workspace.frame("units", explain_id=record.explain_id, study="lesions")
        channels = type_channels(units[units["best_lesion"].notna()].to_dict("records"))
        if channels is None:
            return None
        crop = crop_of(fundus_store(workspace, record.preprocess_id))
        return cls(channels, loaded_model(workspace.location, record.model_id), crop)

    def types(
        self, fundus: np.ndarray, found: Regions, numbers: list[int]
    ) -> list[tuple[str | None, float | None]]:
        """(likeliest type, its probability) of each region of one fundus."""
        if not numbers:
            return []
        x, seen = scaled(fundus), self._seen
        activations = np.zeros((len(numbers), len(self.channels.types)))
        for layer, channel_maps in self._layers.items():
            maps, cells = channel_maps.of(x), channel_maps.cells
            for column, (own, channel) in enumerate(
                zip(self.channels.layers, self.channels.channels, strict=True)
            ):
                if own != layer:
                    continue
                values = maps[..., channel].ravel()[cells].astype(np.float64)
                spread = values[seen].std() or 1.0
                means = [values[found.labels == number + 1].mean() for number in numbers]
                activations[:, column] = (np.array(means) - values[seen].mean()) / spread
        chances = self.channels.probabilities(activations)
        return [
            (self.channels.types[best], float(row[best]))
            for row, best in zip(chances, chances.argmax(axis=1), strict=True)
        ]
