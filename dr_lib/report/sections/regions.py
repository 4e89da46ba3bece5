"""Regions: how far single neurons of each layer reach, and what groups of regions look like that
no label made.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dr_lib.drawing import figures, plots
from dr_lib.report.data import Integer, Rows
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import number, records, slugs

ENLARGED = 3  # patches are drawn so many times their size
GAP_PX = 4


@dataclass(frozen=True)
class LayerRegion:
    """The active region of one layer's strongest neuron in one eye, laid on the fundus."""

    layer: str
    image_id: str
    fundus: UInt8[np.ndarray, "y x 3"]
    values: Float[np.ndarray, "y x"]


@dataclass(frozen=True)
class Look:
    """A group of regions that look alike: patches of the fundus around its most typical ones."""

    cluster: Integer
    regions: Integer
    patches: list[np.ndarray]  # (side, side, 3) uint8 each
    note: str = ""


@dataclass(frozen=True)
class RegionSection:
    """`by_layer`: rows with layer, extent_5, extent_px, extent_95. `channels`: any columns."""

    by_layer: Rows = ()
    examples: tuple[LayerRegion, ...] = ()
    channels: Rows = ()
    looks: tuple[Look, ...] = ()
    note: str = ""


def view(folder: Folder, part: RegionSection) -> SimpleNamespace:
    rows, plot = records(part.by_layer), None
    if rows:
        ends = [
            np.array([float(row[name]) for row in rows])
            for name in ("extent_5", "extent_px", "extent_95")
        ]
        drawn = plots.spreads(
            [str(row["layer"]) for row in rows], *ends, x_label="Extent of a neuron’s region (px)"
        )
        alt = "Radius of gyration of neurons' active regions by layer: median, and from 5 to 95 %"
        plot = folder.plot(
            "neurons-by-layer", drawn, alt, caption="From local to scattered: extent by layer"
        )
    examples = [
        folder.figure(
            f"layers/{name}",
            figures.overlay(one.fundus, one.values),
            f"Active region of the strongest neuron of {one.layer} in eye {one.image_id}",
            caption=one.layer,
            note=f"strongest neuron, {one.image_id}",
            signed=True,
        )
        for name, one in zip(slugs(one.layer for one in part.examples), part.examples, strict=True)
    ]
    looks = [
        folder.figure(
            f"looks/{look.cluster}",
            strip(look.patches),
            f"Patches of {len(look.patches)} regions of group {look.cluster}, the most typical"
            " first",
            caption=(
                f"Group {look.cluster}: {number(look.regions)}"
                f" {'region' if look.regions == 1 else 'regions'}"
            ),
            note=look.note,
        )
        for look in part.looks
    ]
    channels = table(records(part.channels))
    return SimpleNamespace(
        rows=table(rows),
        plot=plot,
        examples=examples,
        channels=channels,
        looks=looks,
        note=part.note,
    )


def strip(patches: list[np.ndarray]) -> np.ndarray:
    """The patches side by side, enlarged, half-gray between them."""
    large = [
        cv2.resize(one, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
        for one in patches
    ]
    between = np.full((large[0].shape[0], GAP_PX, 3), figures.HALF_GRAY, np.uint8)
    return np.concatenate([piece for one in large for piece in (one, between)][:-1], axis=1)


SECTION = Section("regions", "Regions", RegionSection, view)
