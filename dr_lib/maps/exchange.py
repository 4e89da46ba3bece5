"""Regions on their photographs, in the forms that labelling tools and programs read: COCO
instances, CSV, GeoJSON. Text only; the same regions give the same bytes.

Outlines run between pixels (the level ½ of the region's mask), and are carried from the fundus'
geometry through the affine map by which preprocessing placed the photograph, squeezed ones too.
Coordinates are those of labelling tools: x to the right and y down, in pixels from the photograph's
top left corner, so that a pixel's centre lies at a half.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from dr_lib.fundus import Disc
from dr_lib.fundus.scale import matrix
from dr_lib.vocabulary import LESION_TYPES

DECIMALS = 2


@dataclass(frozen=True)
class Outline:
    """A polygon (corner, (x, y)) in a photograph, closed from its last corner to its first, without
    holes; at least three corners.
    """

    polygon: Float64[np.ndarray, "corner 2"]

    @property
    def area_px(self) -> float:
        """Its area in px² of the photograph."""
        x, y = self.polygon.T
        return round(float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2), DECIMALS)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, width, height) of its bounding box."""
        left, top = self.polygon.min(axis=0).tolist()
        right, bottom = self.polygon.max(axis=0).tolist()
        return left, top, round(right - left, DECIMALS), round(bottom - top, DECIMALS)


def outline(
    region: Bool[np.ndarray, "y x"], disc: Disc, photo_shape: tuple[int, int]
) -> Outline | None:
    """The outer outline of a connected region of a fundus, on its photograph.

    Parameters
    ----------
    region
        Pixels of the fundus that belong together, over corners too; holes are filled.
    disc
        Of the photograph, as preprocessing found it.
    photo_shape
        The photograph's height and width, px; the outline ends at its edges.

    Returns
    -------
    Outline or None
        None where nothing of the region lies in the photograph.
    """
    from skimage.measure import find_contours

    padded = np.pad(region, 1).astype(np.float64)
    contours = find_contours(padded, 0.5, fully_connected="high")
    outer = max(contours, key=lambda line: np.prod(np.ptp(line, axis=0)))
    y, x = outer[:-1].T - 1
    (scale_x, _, left), (_, scale_y, top) = matrix(disc, len(region))
    corners = np.stack([scale_x * x + left + 0.5, scale_y * y + top + 0.5], axis=1)
    height, width = photo_shape
    corners = np.round(np.clip(corners, 0, (width, height)), DECIMALS) + 0.0  # no negative zero
    corners = corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)]
    found = Outline(corners)
    return found if len(corners) >= 3 and found.area_px > 0 else None


UNKNOWN = "lesion"  # the category of a region whose type is not known
CATEGORIES = (*LESION_TYPES, UNKNOWN)


@dataclass(frozen=True)
class ExportedRegion:
    """A region on its photograph.

    number: in the table `lesion_regions`, 0 the strongest. score: its share of the map's sum, 0…1.
    attribution: its sum, in the map's unit. lesion, probability: the likeliest type and its
    probability; None where types cannot be told.
    """

    number: int
    outline: Outline
    score: float
    attribution: float
    lesion: str | None = None
    probability: float | None = None

    def properties(self) -> dict[str, Any]:
        """What is known of it beside its outline, rounded."""
        return {
            "region": self.number,
            "score": round(self.score, 4),
            "attribution": float(f"{self.attribution:.4g}"),
            "lesion": self.lesion,
            "probability": None if self.probability is None else round(self.probability, 3),
        }


@dataclass(frozen=True)
class ExportedEye:
    """A photograph and its regions. file: its path inside the data folder. outside: how many
    regions do not lie in it.
    """

    image_id: str
    file: str
    height_px: int
    width_px: int
    regions: tuple[ExportedRegion, ...]
    outside: int = 0


def coco(eyes: Sequence[ExportedEye], description: str) -> str:
    """COCO's form of instances (https://cocodataset.org/#format-data): `score` beside each
    annotation, the rest among its `attributes`, where CVAT looks.
    """
    numbers = {name: number for number, name in enumerate(CATEGORIES, 1)}
    images, annotations = [], []
    for image, eye in enumerate(eyes, 1):
        images.append(
            {
                "id": image,
                "file_name": eye.file,
                "width": eye.width_px,
                "height": eye.height_px,
            }
        )
        for region in eye.regions:
            told = region.properties()
            score = told.pop("score")
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": numbers[region.lesion or UNKNOWN],
                    "segmentation": [region.outline.polygon.ravel().tolist()],
                    "area": region.outline.area_px,
                    "bbox": list(region.outline.box),
                    "iscrowd": 0,
                    "score": score,
                    "attributes": {"photograph": eye.image_id}
                    | {name: value for name, value in told.items() if value is not None},
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": "lesion"} for name, number in numbers.items()
    ]
    info = json.dumps({"description": description}, ensure_ascii=False)
    parts = {"images": images, "annotations": annotations, "categories": categories}
    lists = [f'"{name}": {_lines(items)}' for name, items in parts.items()]
    return "{" + ",\n".join([f'"info": {info}', '"licenses": []', *lists]) + "}\n"


def table(eyes: Sequence[ExportedEye], description: str = "") -> str:
    """CSV: a row a region, with its box in px and its polygon as well-known text (WKT)."""
    told = ("region", "score", "attribution", "lesion", "probability")
    box = ("left_px", "top_px", "width_px", "height_px")
    rows = []
    for eye in eyes:
        for region in eye.regions:
            around = region.outline
            corners = ", ".join(f"{x:g} {y:g}" for x, y in _closed(around))
            shape = {"area_px2": around.area_px, "polygon": f"POLYGON (({corners}))"}
            rows.append(
                {"image_id": eye.image_id, "file": eye.file}
                | region.properties()
                | dict(zip(box, around.box, strict=True))
                | shape
            )
    names = ["image_id", "file", *told, *box, "area_px2", "polygon"]
    return pd.DataFrame(rows, columns=names).to_csv(index=False)


def geojson(eyes: Sequence[ExportedEye], description: str = "") -> str:
    """A GeoJSON feature collection in pixels, y down, as image programs such as QuPath read it."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_closed(region.outline)]},
            "properties": {"image_id": eye.image_id, "file": eye.file}
            | region.properties()
            | {
                "objectType": "annotation",
                "classification": {"name": region.lesion or UNKNOWN},
            },
        }
        for eye in eyes
        for region in eye.regions
    ]
    return f'{{"type": "FeatureCollection",\n"features": {_lines(features)}}}\n'


FORMS: dict[str, Callable[[Sequence[ExportedEye], str], str]] = {
    "coco": coco,
    "csv": table,
    "geojson": geojson,
}


def _closed(outline: Outline) -> list[list[float]]:
    corners = outline.polygon.tolist()
    return [*corners, corners[0]]


def _lines(items: Iterable[dict[str, Any]]) -> str:
    """A JSON list with a line an item."""
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    return f"[\n{lines}\n]" if lines else "[]"
