"""The top of the report: the few numbers that matter, and one eye explained."""

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np

from dr_lib.drawing import figures
from dr_lib.report.data import DataSection, EyeEntry, GallerySection, ModelSection, ReportData
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.words import duration, number, percent, quantity, records, score, stage_text

TILES = (
    ("kappa", "Quadratic weighted kappa"),
    ("qwk", "Quadratic weighted kappa"),
    ("auc", "AUC, referable"),
)


def glance(report: ReportData) -> list[SimpleNamespace]:
    """The few numbers on top: agreement, discrimination, how far, how exact, how fast. Only
    those that are known.
    """
    model = report.parts.get("model", ModelSection())
    eyes = report.parts.get("eyes", GallerySection()).eyes
    photographs = report.parts.get("data", DataSection()).photographs
    tiles: list[SimpleNamespace] = []
    for wanted, name in TILES:
        for row in records(model.evaluation):
            metric = str(row.get("metric", "")).lower()
            if (
                wanted in metric
                and (wanted != "auc" or "referable" in metric)
                and name not in [tile.name for tile in tiles]
            ):
                tiles.append(
                    SimpleNamespace(name=name, value=score(row.get("value")), note=_interval(row))
                )
    if eyes is not None and len(eyes):
        of = f"of {number(photographs)} photographs" if photographs else ""
        tiles.append(SimpleNamespace(name="Eyes explained", value=number(len(eyes)), note=of))
        gaps = eyes["gap"].dropna() if "gap" in eyes else ()
        if len(gaps):
            note = f"of the outcome’s change; worst {percent(float(gaps.max()), 1)}"
            tiles.append(
                SimpleNamespace(
                    name="Median completeness gap",
                    value=percent(float(gaps.median()), 1),
                    note=note,
                )
            )
    attribute = [
        stage
        for stage in report.run.stages
        if stage.name == "attribute" and stage.images_per_minute
    ]
    if attribute:
        value, note = number(attribute[0].images_per_minute), duration(attribute[0].seconds)
        tiles.append(SimpleNamespace(name="Eyes explained a minute", value=value, note=note))
    return tiles


def _interval(row: Mapping[str, object]) -> str:
    low, high = row.get("low"), row.get("high")
    known = all(
        isinstance(end, (int, float, np.number)) and np.isfinite(float(end)) for end in (low, high)
    )
    return f"95 % interval {score(low)} to {score(high)}" if known else ""


def lead_view(folder: Folder, lead: tuple[EyeEntry, str] | None) -> SimpleNamespace | None:
    """Fig (a) of the opening eye, panel by panel and as one file; None where it lacks a part."""
    if lead is None or not lead[0].layers:
        return None
    eye, key = lead
    layer = eye.layers[0]
    if eye.photo is None or layer.positive is None or layer.negative is None:
        return None
    of = f"of eye {eye.image_id}"
    panels: list[Picture] = [
        folder.photo(
            "lead-photo", figures.fitted(eye.photo, 480), f"Photograph {of}", caption="Original"
        ),
        folder.picture(
            "lead-fundus", eye.fundus, f"Preprocessed fundus {of}", caption="Preprocessed"
        ),
    ]
    drawn = [eye.photo, eye.fundus]
    for sign, values in (("positive", layer.positive), ("negative", layer.negative)):
        drawn.append(figures.overlay(eye.fundus, values))
        alt = (
            f"Summed active regions of the most {sign} neurons {of}, green raises and red lowers"
            " the outcome"
        )
        words = {"caption": f"Most {sign} neurons", "note": layer.layer, "signed": True}
        panels.append(folder.picture(f"lead-{sign}", drawn[-1], alt, **words))
    title = (
        f"{eye.image_id}  ·  true stage {stage_text(eye.stage)}  ·  predicted"
        f" {stage_text(eye.predicted)}"
    )
    captions = ["Original", "Preprocessed", "Most positive neurons", "Most negative neurons"]
    files = folder.sheet("lead-figure-a", drawn, captions, title=title)
    toward = quantity(layer.quantity)
    return SimpleNamespace(
        eye=eye, key=key, panels=panels, files=files, layer=layer.layer, toward=toward
    )
