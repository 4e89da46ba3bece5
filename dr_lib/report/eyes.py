"""One explained eye as two files: a strip of thumbnails for the gallery, and everything its page
shows.

The page (eye.html) draws maps itself, in either palette and any two side by side, from
`eyes/<key>.js`: a call of `report.eye` with numbers as text and pictures as data URIs. A script and
not JSON, because a page opened from disk may run a script beside it but may not read a file; data
URIs, because a page may not take pixels out of a picture it opened from disk. Maps travel as signed
opacity (`figures.signed_opacity`), 128 being nothing, as grey JPEG: for the eye only, numbers come
from the tables.
"""

import base64
import json
from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dr_lib import maps as heatmaps
from dr_lib.drawing import figures
from dr_lib.drawing.figures import Map, Panel, Pixels
from dr_lib.drawing.panels import Grid, pixels, sheet
from dr_lib.formatting import number, percent, quantity, signed, stage_text, unbroken
from dr_lib.report.entry import EyeEntry, LayerMaps, NeuronEntry
from dr_lib.report.section import table

# Raise it with every change of what an eye's files or the report's pages show, wherever in the code
# it is made: reports drawn with another version are drawn again. A hash of the code instead would
# follow comments, and miss what other modules draw.
DRAWING_VERSION = 4
SHEET_PX, PHOTO_PX, THUMB_PX, NEURON_PX = 256, 400, 120, 96
STEPS = 127  # of opacity between nothing and ±OPACITY, on a byte around 128
PHOTO_QUALITY, MAP_QUALITY, THUMB_QUALITY = 86, 84, 80


def eye_files(eye: EyeEntry, key: str) -> dict[str, bytes]:
    """An eye's files by their name relative to the report: `eyes/<key>.js` and `eyes/<key>.jpg`.

    Parameters
    ----------
    eye: all that is shown of it.
    key: its name among the report's files, such as 00000/10_left.

    Raises
    ------
    ValueError: a neuron's region reaches beyond the fundus.
    """
    script = f"report.eye({json.dumps(eye_record(eye, key), separators=(',', ':'))});\n"
    return {
        f"eyes/{key}.js": unbroken(script).encode(),
        f"eyes/{key}.jpg": figures.jpeg(thumbnails(eye), THUMB_QUALITY),
    }


def figure_a(eye: EyeEntry, radius_px: float = 1.2) -> list[Panel]:
    """Fig (a) of an eye, by its first layer: original · preprocessed · resultant of the most
    positive neurons · of the most negative.

    Each resultant is drawn on its own scale, in the colour of each pixel's own sign. What is absent
    is a panel without a picture.
    """
    layer = eye.layers[0] if eye.layers else LayerMaps("")
    panels = [Panel(eye.photo, "Original"), Panel(eye.fundus, "Preprocessed")]
    for sign, values in (("positive", layer.positive), ("negative", layer.negative)):
        picture = (
            None if values is None else figures.overlay(eye.fundus, values, radius_px=radius_px)
        )
        panels.append(Panel(picture, f"Most {sign} neurons", layer.layer, signed=True))
    return panels


def figure_b(eye: EyeEntry, compare: tuple[str, str]) -> list[Panel]:
    """Fig (b) of an eye: preprocessed · attribution toward one outcome · toward another, with the
    correlation of the two maps where there is one."""
    maps = {outcome.quantity: outcome.values for outcome in eye.outcomes}
    first, second = (maps[name] for name in compare)
    correlation = heatmaps.symmetry(first, second, crop=eye.crop)
    note = "" if np.isnan(correlation) else f"correlation {signed(correlation)}"
    return [
        Panel(eye.fundus, "Preprocessed"),
        Panel(figures.overlay(eye.fundus, first), f"Toward {quantity(compare[0])}"),
        Panel(figures.overlay(eye.fundus, second), f"Toward {quantity(compare[1])}", note),
    ]


def grades(eye: EyeEntry) -> str:
    """An eye's stage and its grade, in words."""
    return f"true stage {stage_text(eye.stage)}  ·  graded {stage_text(eye.predicted)}"


def thumbnails(eye: EyeEntry) -> Pixels:
    """Fig (a) small, four squares in a row; gray where there is no picture."""
    blank = np.full((THUMB_PX, THUMB_PX, 3), figures.HALF_GRAY, np.uint8)
    images = [panel.image for panel in figure_a(eye, radius_px=1.6)]
    return np.hstack(
        [blank if image is None else figures.fitted(image, THUMB_PX) for image in images]
    )


def eye_sheet(eye: EyeEntry, compare: tuple[str, str]) -> Pixels:
    """An eye's page as one picture: Fig (a), Fig (b) of the two outcomes, and each layer's
    strongest neurons."""
    grids = [
        Grid(fitted(figure_a(eye), SHEET_PX), f"{eye.image_id}  ·  {grades(eye)}"),
        Grid(fitted(figure_b(eye, compare), SHEET_PX)),
    ]
    for layer in eye.layers:
        panels = []
        for neuron in layer.ranked:
            window = np.ascontiguousarray(eye.fundus[neuron.window])
            drawn = figures.overlay(window, neuron.region, radius_px=_radius(neuron.region))
            panels.append(Panel(drawn, neuron.place, number(neuron.attribution, 2)))
        if panels:
            words = f"Neurons of {layer.layer}"
            grids.append(Grid(fitted(panels, NEURON_PX), words, columns=10, text_px=11))
    return pixels(sheet(*grids))


def fitted(panels: Sequence[Panel], size: int) -> list[Panel]:
    """The panels that have a picture, each within a square of so many pixels."""
    return [
        panel._replace(image=figures.fitted(panel.image, size))
        for panel in panels
        if panel.image is not None
    ]


def eye_record(eye: EyeEntry, key: str) -> dict[str, object]:
    """What `eyes/<key>.js` tells the page."""
    maps: dict[str, Map] = {outcome.quantity: outcome.values for outcome in eye.outcomes}
    for layer in eye.layers:
        signs = {"positive": layer.positive, "negative": layer.negative}
        maps |= {
            f"{layer.layer}/{sign}": drawn for sign, drawn in signs.items() if drawn is not None
        }
    chosen = [(layer.layer, neuron) for layer in eye.layers for neuron in layer.ranked]
    outcomes = [
        {
            "outcome": quantity(outcome.quantity),
            "model’s answer": outcome.outcome,
            "for the half-gray image": outcome.baseline_outcome,
            "gap": outcome.gap,
            "gap, relative": percent(outcome.relative_gap, 1),
            "points": outcome.points,
            "within tolerance": outcome.converged,
        }
        for outcome in eye.outcomes
    ]
    tables = {"The model’s answers, and how exactly the maps add up to them": outcomes}
    return {
        "key": key,
        "id": eye.image_id,
        "stage": None if eye.stage is None else int(eye.stage),
        "predicted": int(eye.predicted),
        "probabilities": [round(float(p), 5) for p in eye.probabilities],
        "facts": _facts(eye),
        "size": list(eye.fundus.shape[:2]),
        "photo": (
            None if eye.photo is None else _uri(figures.fitted(eye.photo, PHOTO_PX), PHOTO_QUALITY)
        ),
        "fundus": _uri(eye.fundus, 92),
        "maps": _strip([figures.signed_opacity(values) for values in maps.values()]),
        "tiles": list(maps),
        "scales": [
            float(f"{figures.robust_scale(figures.smooth(values, 1.2)):.6g}")
            for values in maps.values()
        ],
        "outcomes": [
            {"name": outcome.quantity, "label": quantity(outcome.quantity)}
            for outcome in eye.outcomes
        ],
        # How alike any two maps are; both orders share an entry, the earlier outcome first.
        "correlations": {
            f"{first.quantity}|{second.quantity}": signed(
                heatmaps.symmetry(first.values, second.values, crop=eye.crop)
            )
            for first, second in combinations(eye.outcomes, 2)
        },
        "layers": [
            {"name": layer.layer, "quantity": quantity(layer.quantity)} for layer in eye.layers
        ],
        "neurons": [_neuron(eye, layer, neuron) for layer, neuron in chosen],
        "regions": _strip([_region(neuron.region) for _, neuron in chosen]),
        "tables": [
            {"caption": caption, "columns": shown.columns, "rows": shown.rows}
            for caption, rows in (tables | {**eye.tables}).items()
            if (shown := table(rows, limit=60)).rows
        ],
    }


def _facts(eye: EyeEntry) -> list[tuple[str, str]]:
    facts = [
        ("True stage", stage_text(eye.stage)),
        ("Graded", stage_text(eye.predicted)),
        ("Split", eye.split),
    ]
    for outcome in eye.outcomes:
        if outcome.quantity == f"stage{eye.predicted}":
            facts += [
                ("Completeness gap of the grade", percent(outcome.relative_gap, 1)),
                ("Points on the path", number(outcome.points)),
                ("Within tolerance", number(outcome.converged)),
            ]
    return facts


def _neuron(eye: EyeEntry, layer: str, neuron: NeuronEntry) -> dict[str, object]:
    if eye.fundus[neuron.window].shape[:2] != neuron.region.shape:
        raise ValueError(
            f"the region of neuron {neuron.neuron} of {eye.image_id} reaches beyond its"
            f" {eye.fundus.shape[:2]} fundus"
        )
    return {
        "layer": layer,
        "sign": neuron.sign,
        "where": neuron.place,
        "attribution": number(neuron.attribution, 2),
        "activation": number(neuron.activation, 2),
        "baseline": number(neuron.baseline_activation, 2),
        "window": [*map(int, neuron.origin), *neuron.region.shape],
    }


def _radius(region: Float[np.ndarray, "wy wx"]) -> float:
    """How far a region is blurred for the eye: less where it is shown larger than it is."""
    return 0.6 if len(region) < NEURON_PX else 1.6


def _region(values: Float[np.ndarray, "wy wx"]) -> Float[np.ndarray, "side side"]:
    """A region's signed opacity at the size it is shown."""
    drawn = figures.signed_opacity(values, radius_px=_radius(values))
    way = cv2.INTER_AREA if len(drawn) > NEURON_PX else cv2.INTER_CUBIC
    return np.clip(
        cv2.resize(drawn, (NEURON_PX, NEURON_PX), interpolation=way),
        -figures.OPACITY,
        figures.OPACITY,
    )


def _strip(maps: Sequence[Map]) -> str | None:
    """Maps of one size, one below the other, as a grey picture's data URI; None without any."""
    if not maps:
        return None
    return _uri(
        np.rint(128 + np.vstack(maps) * (STEPS / figures.OPACITY)).astype(np.uint8), MAP_QUALITY
    )


def _uri(picture: UInt8[np.ndarray, "..."], quality: int) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(figures.jpeg(picture, quality)).decode()}"
