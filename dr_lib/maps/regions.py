"""Connected regions of high attribution: where they lie, how large and how strong they are, what
the fundus shows there.

The map is smoothed with its signs, so that a speckle of both cancels; each sign is then cut at a
threshold of its own map (`HeatmapParams.threshold`), inside the visible disc only, and joined over
corners. Sums are taken over the *unsmoothed* map: by completeness they are what the region
contributes to the outcome.
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from dr_lib.fundus.anatomy import Anatomy, place_of, visible_disc
from dr_lib.fundus.optic_disc import OpticDisc
from dr_lib.maps.params import HeatmapParams
from dr_lib.vocabulary import Sign

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

    height, width = values.shape
    if height != width:
        raise ValueError(f"a fundus and its maps are square, not {height} × {width}")
    inside = visible_disc(height, crop=crop)
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

    if fundus.shape[:2] != values.shape:
        raise ValueError(f"a map of {values.shape} does not lie on a fundus of {fundus.shape[:2]}")
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
