"""The lesion regions of the explained eyes, on their photographs, for `dr export`."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.localisation.channel_dissection import ChannelMaps, type_channels
from dr_lib.maps import HeatmapParams
from dr_lib.maps.exchange import FORMS, ExportedEye, ExportedRegion, outline
from dr_lib.maps.regions import find_regions
from dr_lib.network.model import scaled
from storage import Workspace
from storage.contents.explanations import load_region_settings
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.stores import discs, span_digests
from tasks.execution.worker import loaded_model
from tasks.report.eyes import Explained
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
    explained = Explained(workspace, "latest")
    record, explain_id = explained.record, explained.explain_id
    specs = explained.store.specs
    # The preferred first.
    maps = {"lesion": "lesion/map"} if any(spec.path == "lesion/map" for spec in specs) else {}
    maps |= {layer: f"layers/{layer}/resultant" for layer in record.layers}
    source = source or next(iter(maps))
    if source not in maps:
        raise UserError(f"--source {source}: {explain_id} has regions of {', '.join(maps)}")
    if not workspace.parts("lesion_regions", explain_id):
        raise UserError(
            f"{workspace.location} holds no tables of {explain_id}; run `dr aggregate` first"
        )
    teller = _Teller(explained)
    eyes = list(_eyes(explained, source, maps[source], teller))
    description = f"{source} regions of explanation {explain_id} by model {record.model_id}"
    return Export(
        FORMS[form](eyes, description),
        len(eyes),
        sum(len(eye.regions) for eye in eyes),
        sum(eye.outside for eye in eyes),
        teller.types,
    )


def _eyes(explained: Explained, source: str, path: str, teller: "_Teller") -> Iterator[ExportedEye]:
    """Each explained eye with its regions. path: of the array of the source's maps."""
    workspace, explain_id = explained.workspace, explained.explain_id
    store, fundi = explained.store, explained.fundi
    params = HeatmapParams(**load_region_settings(workspace.files, explain_id))
    eyes = explained_eyes(workspace, explained.record.model_id, store.image_ids)
    files = workspace.photos().set_index("image_id")["path"]
    done = span_digests(store)
    for span in store.spans():
        if span.index not in done:
            continue
        arrays = store.read(span, ["pixels/status", path])
        rows = explained_rows(arrays["pixels/status"], eyes.iloc[span.rows])
        some = eyes.iloc[span.rows].iloc[rows]
        places = some["position"].to_numpy().astype(np.int64)
        pixels, placed = fundi.read_rows(places, ["pixels"])["pixels"], discs(fundi, places)
        table = workspace.part("lesion_regions", explain_id, span.part)
        table = table[(table["source"] == source) & (table["sign"] == SIGN)]
        for eye, values, disc, fundus in zip(
            some.itertuples(), arrays[path][rows], placed, pixels, strict=True
        ):
            values = values[0] if values.ndim == 3 else values  # of the positive neurons
            found = find_regions(values, SIGN, params, crop=explained.crop)
            mine = table[table["image_id"] == eye.image_id].sort_values("region")
            _check(found, mine, eye.image_id)
            told = teller.tell(fundus, found, mine["region"].tolist())
            shape = int(eye.height_px), int(eye.width_px)
            regions = [
                ExportedRegion(row.region, around, row.image_share, row.attribution_sum, *lesion)
                for row, lesion in zip(mine.itertuples(), told, strict=True)
                if (around := outline(found == row.region + 1, disc, shape))
            ]
            yield ExportedEye(
                eye.image_id,
                files[eye.image_id],
                *shape,
                tuple(regions),
                outside=len(mine) - len(regions),
            )


def _check(found: np.ndarray, rows: pd.DataFrame, image_id: str) -> None:
    """Raises UserError where the table's regions are not those of the map."""
    areas = np.bincount(found.ravel())[1:]
    numbers = rows["region"].to_numpy()
    if numbers.size and (
        numbers.max() >= len(areas) or (areas[numbers] != rows["area_px"].to_numpy()).any()
    ):
        raise UserError(
            f"the regions of {image_id} were cut out with other settings, or by an earlier version:"
            " run `dr aggregate` with your configuration, then export again"
        )


class _Teller:
    """Tells a region's likeliest lesion type by the channels of the model that was explained; no
    types where the dissection found no channels that tell them apart.
    """

    def __init__(self, explained: Explained) -> None:
        units = explained.rows("units", study="lesions")
        self._channels = type_channels(units[units["best_lesion"].notna()].to_dict("records"))
        self.types = self._channels.types if self._channels else ()
        if self._channels:
            model = loaded_model(explained.workspace.location, explained.record.model_id)
            self._seen = visible_disc(int(model.inputs[0].shape[1]), crop=explained.crop)
            self._maps = {layer: ChannelMaps(model, layer) for layer in set(self._channels.layers)}

    def tell(
        self, fundus: np.ndarray, found: np.ndarray, numbers: list[int]
    ) -> list[tuple[str | None, float | None]]:
        """(likeliest type, its probability) of each of these regions of one fundus."""
        channels = self._channels
        if channels is None or not numbers:
            return [(None, None)] * len(numbers)
        maps = {layer: of_layer.of(scaled(fundus)) for layer, of_layer in self._maps.items()}
        activations = []
        for layer, channel in zip(channels.layers, channels.channels, strict=True):
            values = maps[layer][..., channel].ravel()[self._maps[layer].cells].astype(np.float64)
            means = np.array([values[found == number + 1].mean() for number in numbers])
            retina = values[self._seen]
            activations.append((means - retina.mean()) / (retina.std() or 1.0))
        chances = channels.probabilities(np.stack(activations, axis=1))
        return [(self.types[row.argmax()], float(row.max())) for row in chances]
