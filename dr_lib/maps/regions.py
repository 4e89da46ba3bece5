"""Connected regions of high attribution: how they are cut out, where they lie, how large and how
strong they are, what the fundus shows there; and all rows of one image's maps, each map labelled
once.

The map is smoothed with its signs, so that a speckle of both cancels; each sign is then cut at a
threshold of its own map (`HeatmapParams.threshold`), inside the visible disc only, and joined over
corners. Sums are taken over the *unsmoothed* map: by completeness they are what the region
contributes to the outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from dr_lib.fundus.anatomy import Anatomy, Eye, anatomy, place_of, visible_disc
from dr_lib.fundus.optic_disc import OpticDisc, optic_disc
from dr_lib.maps.stats import map_stats, symmetry
from dr_lib.settings import (
    Limit,
    NonNegativeFloat,
    PositiveInt,
    PositiveShare,
    Settings,
    ShareBelow1,
)
from dr_lib.vocabulary import QUADRANTS, SIGNS, Sign


@dataclass(frozen=True)
class HeatmapParams(Settings):
    """A region is a connected piece of the smoothed map, within the visible disc, at or above a
    threshold of that map's own.
    """

    smoothing_px: NonNegativeFloat = 2.0  # Gaussian σ; 0: none
    threshold: Literal["fraction", "otsu", "quantile"] = "fraction"
    fraction: PositiveShare = 0.25  # of the smoothed map's largest value of the sign
    quantile: ShareBelow1 = 0.98  # over the visible disc's pixels
    min_area_px: PositiveInt = 8
    max_regions: Limit = 20  # rows kept of each sign, the strongest first; 0: all
    surround_px: PositiveInt = 4  # width of what a region's contrast is measured against
    radial_bins: PositiveInt = 10
    angular_bins: PositiveInt = 12
    unconverged: Literal["keep", "leave_out"] = (
        "keep"  # of the groups' sums; every row of other tables says `converged`
    )


EDGES = ("top", "left", "bottom", "right")
GREEN = 1  # the channel in which both blood and exudates stand out


def smoothed(values: Float[np.ndarray, "y x"], sigma_px: float | int) -> Float[np.ndarray, "y x"]:
    """The map under a Gaussian, with its signs; 0 leaves it as it is."""
    return cv2.GaussianBlur(values, (0, 0), sigma_px) if sigma_px > 0 else values


def find_regions(
    values: Float[np.ndarray, "y x"],
    sign: Sign,
    params: HeatmapParams = HeatmapParams(),
    *,
    crop: float,
) -> Int32[np.ndarray, "y x"]:
    """The regions of one sign of a square map, numbered by the size of their summed attribution
    (ties: first from the top).

    Parameters
    ----------
    values : (y, x) attributions, in the unit of their quantity
    sign : whose regions
    params : how a region is cut out; `max_regions` limits rows only
    crop : of the fundus that the map is about (`PreprocessParams.crop`)

    Returns
    -------
    labels
        0 outside, otherwise 1 + the region's number, 0 being the strongest. Of a map without that
        sign, and of one that is not finite, there are none.

    Raises
    ------
    ValueError
        For a map that is not square.
    """
    from skimage.measure import label

    inside = visible_disc(len(values), crop=crop)
    nothing = np.zeros(values.shape, np.int32)
    if not np.isfinite(values).all():
        return nothing
    strength = np.where(inside, smoothed(values.astype(np.float64), params.smoothing_px), 0.0)
    strength = np.maximum(strength if sign == "positive" else -strength, 0.0)
    if strength.max() <= 0:
        return nothing
    marked = (strength > 0) & (strength >= _threshold(strength, inside, params))
    labels = label(marked, connectivity=2)
    sums = np.bincount(labels.ravel(), weights=values.ravel().astype(np.float64))
    areas = np.bincount(labels.ravel())
    kept = np.flatnonzero(areas >= params.min_area_px)
    kept = kept[kept > 0]
    kept = kept[np.argsort(-np.abs(sums[kept]), kind="stable")]
    renumbered = np.zeros(len(areas), np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return renumbered[labels]


def region_rows(
    values: Float[np.ndarray, "y x"],
    fundus: UInt8[np.ndarray, "y x 3"],
    labels: Int32[np.ndarray, "y x"],
    sign: Sign,
    retina: Anatomy,
    params: HeatmapParams,
    *,
    crop: float,
    disc: OpticDisc | None = None,
) -> list[dict]:
    """The measures of each region, strongest first, at most `params.max_regions` rows, named as
    the columns of `lesion_regions`.

    `attribution_*` are of the unsmoothed map with its signs; `image_share` is the region's sum over
    the map's sum of that sign. `contrast` is the mean green level inside minus that of the
    `surround_px` around the region within the disc that belong to no region; NaN where there are
    none. The bounding box is half-open, as in slices.

    Parameters
    ----------
    labels : of this map and sign, as `find_regions` gives them
    place : the anatomy of the eye; crop : of the fundus
    disc : the optic disc, where it was found

    Raises
    ------
    ValueError
        For a map of another size than the fundus.
    """
    from skimage.measure import regionprops

    values = values.astype(np.float64)
    total = values[values > 0 if sign == "positive" else values < 0].sum()
    rows = []
    for prop in regionprops(labels)[: params.max_regions or None]:
        y, x = (float(value) for value in prop.centroid)
        inside = values[prop.slice][prop.image]
        rows.append(
            {
                "region": int(prop.label) - 1,
                "area_px": float(prop.area),
                "disc_share": float(prop.area) / retina.area_px,
                "centroid_y_px": y,
                "centroid_x_px": x,
                **place_of(y, x, len(values), retina.eye, crop=crop),
                **{f"bbox_{edge}_px": int(px) for edge, px in zip(EDGES, prop.bbox, strict=True)},
                "attribution_sum": float(inside.sum()),
                "attribution_mean": float(inside.mean()),
                "attribution_peak": float(inside.max() if sign == "positive" else inside.min()),
                "image_share": float(inside.sum() / total) if total else np.nan,
                "eccentricity": float(prop.eccentricity),
                "solidity": float(prop.solidity),
                "contrast": _contrast(fundus, labels, prop, retina.inside, params.surround_px),
                "optic_disc_distance_px": (
                    float(np.hypot(y - disc.centre_y_px, x - disc.centre_x_px)) if disc else np.nan
                ),
            }
        )
    return rows


def _contrast(
    fundus: np.ndarray,
    labels: np.ndarray,
    prop: Any,
    disc: Bool[np.ndarray, "y x"],
    width_px: int,
) -> float:
    top, left, bottom, right = prop.bbox
    window = (
        slice(max(top - width_px, 0), bottom + width_px),
        slice(max(left - width_px, 0), right + width_px),
    )
    region = labels[window] == prop.label
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width_px + 1, 2 * width_px + 1))
    around = (cv2.dilate(region.astype(np.uint8), reach) > 0) & (labels[window] == 0) & disc[window]
    green = fundus[window][..., GREEN].astype(np.float64)
    return float(green[region].mean() - green[around].mean()) if around.any() else np.nan


def _threshold(strength: np.ndarray, inside: np.ndarray, params: HeatmapParams) -> float:
    if params.threshold == "fraction":
        return params.fraction * float(strength.max())
    if params.threshold == "quantile":
        return float(np.quantile(strength[inside], params.quantile))
    from skimage.filters import threshold_otsu

    # Scaled: Otsu's histogram of values near 1e-9 would lose its bins to rounding.
    largest = float(strength.max())
    return float(threshold_otsu(strength[inside] / largest)) * largest


# What a region's row says of nasal and temporal.
OF_SIDES = {"quadrant", "angle_deg"}


def image_rows(
    image_id: str,
    eye: Eye | None,
    fundus: UInt8[np.ndarray, "y x 3"],
    maps: Mapping[tuple[str, str], Float[np.ndarray, "y x"] | Float[np.ndarray, "2 y x"]],
    params: HeatmapParams = HeatmapParams(),
    converged: Mapping[tuple[str, str], bool] | None = None,
    *,
    crop: float,
) -> tuple[list[dict], list[dict]]:
    """All rows of one image: for `lesion_regions` and for `heatmap_stats`.

    Parameters
    ----------
    fundus : (y, x, 3) the normalised fundus, in which the optic disc is looked for once
    maps : by (source, quantity) one map with its signs, or a pair (sign, y, x) such as a layer's
        resultants: the regions of each sign then come from the map of the neurons of that sign, and
        the statistics from the sum of the two
    converged : whether maps met their tolerance; absent: not known
    crop : of the fundus (`PreprocessParams.crop`)

    Returns
    -------
    regions, stats
        Rows in the order of `maps`. Where a source has both stage 0 and stage 4, their statistics
        carry the symmetry of the pair. Of an eye that is neither known to be left nor right nothing
        is said of quadrants.

    Raises
    ------
    ValueError
        For a map of another size than the fundus.
    """
    regions, stats = [], []
    disc, retina = optic_disc(fundus, crop=crop), anatomy(len(fundus), eye or "right", crop=crop)
    for (source, quantity), values in maps.items():
        about = {"image_id": image_id, "source": source, "quantity": quantity}
        mark = {"converged": (converged or {}).get((source, quantity))}
        counts = {}
        for sign, part in zip(SIGNS, values if values.ndim == 3 else (values, values), strict=True):
            labelled = find_regions(part, sign, params, crop=crop)
            counts[f"regions_{sign}"] = int(labelled.max())
            rows = region_rows(part, fundus, labelled, sign, retina, params, crop=crop, disc=disc)
            regions += [{**about, "sign": sign, **row, **mark} for row in rows]
        stage0, stage4 = maps.get((source, "stage0")), maps.get((source, "stage4"))
        paired = quantity in ("stage0", "stage4") and stage0 is not None and stage4 is not None
        alike = symmetry(_whole(stage0), _whole(stage4), crop=crop) if paired else np.nan
        stats.append(
            about
            | map_stats(_whole(values), retina, disc)
            | counts
            | {"symmetry_stage0_stage4": alike}
            | mark
        )
    if eye is None:
        for row in regions:
            row |= dict.fromkeys(OF_SIDES & row.keys())
        for row in stats:
            row |= {f"share_{quadrant}": np.nan for quadrant in QUADRANTS}
    return regions, stats


def _whole(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=0) if values.ndim == 3 else values
