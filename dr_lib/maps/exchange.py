"""Regions in the forms that labelling tools and programs read: COCO instances, CSV, GeoJSON.

Text only; the same regions give the same bytes. Coordinates as in `dr_lib.maps.outlines`.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dr_lib.maps.outlines import Outline
from dr_lib.vocabulary import LESION_TYPES

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
    text = io.StringIO()
    names = ("image_id", "file", *told, *box, "area_px2", "polygon")
    rows = csv.DictWriter(text, names, lineterminator="\n")
    rows.writeheader()
    for eye in eyes:
        for region in eye.regions:
            around = region.outline
            corners = ", ".join(f"{x:g} {y:g}" for x, y in _closed(around))
            shape = {"area_px2": around.area_px, "polygon": f"POLYGON (({corners}))"}
            rows.writerow(
                {"image_id": eye.image_id, "file": eye.file}
                | region.properties()
                | dict(zip(box, around.box, strict=True))
                | shape
            )
    return text.getvalue()


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
