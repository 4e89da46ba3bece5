"""The atlas of units as files of the report: of each unit a mosaic of what it sees of its strongest
eyes (`KINDS` rows, `MOST` columns of pairs of fundus and photograph), and scripts with the numbers
of its index and its pages, which draw themselves (assets/units.js)."""

import json
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd

from dr_lib.drawing.figures import Photo, Pixels, fitted, jpeg
from dr_lib.fundus import Disc
from dr_lib.fundus.scale import matrix
from dr_lib.localisation.unit_sums import EDGES, KINDS, MOST
from dr_lib.report.pictures import file_name
from dr_lib.vocabulary import HALF_GRAY

FOLDER = "atlas"  # of the mosaics
CROP_PX, PHOTO_PX = 80, 768  # of a window; of the disc in a photograph that it is cut from
KEPT_QUALITY, MOSAIC_QUALITY = 92, 74
# Columns that only a unit's own page shows.
OWN = [
    *("images", "histogram_by_predicted_stage", "histogram_by_stage"),
    *("neighbours", "neighbour_correlations"),
]


def as_fundus(photo: Photo, disc: Disc) -> Pixels:
    """The photograph in the geometry of its fundus, `PHOTO_PX` wide. disc: in the photograph."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(photo, matrix(disc, PHOTO_PX), (PHOTO_PX, PHOTO_PX), flags=flags)


def crops(pictures: Sequence[Pixels], window: Sequence[int]) -> bytes:
    """A window (top, left, height, width in px of the first) of pictures of one place, side by
    side, as JPEG."""
    cut = []
    for picture in pictures:
        scale = len(picture) / len(pictures[0])
        top, left, height, width = (round(px * scale) for px in window)
        part = np.ascontiguousarray(picture[top : top + height, left : left + width])
        cut.append(fitted(part, CROP_PX, (HALF_GRAY, HALF_GRAY, HALF_GRAY)))
    return jpeg(np.hstack(cut), KEPT_QUALITY)


def mosaic(kept: Mapping[tuple[str, int], bytes]) -> tuple[bytes, list[str]]:
    """A unit's picture as JPEG, and which of its windows have a photograph, such as "for 0". kept:
    `crops` by kind and rank."""
    drawn = np.full((len(KINDS) * CROP_PX, MOST * 2 * CROP_PX, 3), HALF_GRAY, np.uint8)
    with_photo = []
    for (kind, rank), data in kept.items():
        pair = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))
        top, left = KINDS.index(kind) * CROP_PX, rank * 2 * CROP_PX
        drawn[top : top + CROP_PX, left : left + pair.shape[1]] = pair
        with_photo += [f"{kind} {rank}"] if pair.shape[1] > CROP_PX else []
    return jpeg(drawn, MOSAIC_QUALITY), with_photo


def mosaic_name(layer: str, unit: int) -> str:
    """A unit's picture within the report."""
    return f"{FOLDER}/{file_name(layer)}/{unit}.jpg"


def unit_scripts(units: pd.DataFrame, examples: pd.DataFrame) -> dict[str, str]:
    """The scripts by name: units/index.js, and one a layer.

    Parameters
    ----------
    units : a row of the table `units` for each, those of a layer together and in their order; page:
        whether the section on linearity has a page about it
    examples : rows of `unit_examples` with the eye's `key` among the report's files, and whether
        the picture shows its `photo`
    """
    files = {str(layer): file_name(str(layer)) for layer in units["layer"].unique()}
    about = {"files": files, "edges": EDGES.tolist(), "kinds": KINDS, "folder": FOLDER}
    names = ["layer", "unit"]
    shown = examples.loc[examples["kind"] == KINDS[0], names].value_counts().rename("shown")
    index = units.drop(columns=OWN).join(shown, on=names).fillna({"shown": 0})
    index = index.dropna(axis=1, how="all")
    scripts = {"units/index.js": f"report.units({json.dumps(about)},{_table(index)});\n"}
    for layer, file in files.items():
        own, shown = (
            _table(rows[rows["layer"] == layer])
            for rows in (units[["layer", "unit", *OWN]], examples)
        )
        scripts[f"units/{file}.js"] = f"report.layer({json.dumps(layer)},{own},{shown});\n"
    return scripts


def _table(rows: pd.DataFrame) -> str:
    return rows.to_json(orient="split", index=False, double_precision=8)
