"""Connected regions of high attribution: where they lie, how large and how strong they are, what
the fundus shows there.

The map is smoothed with its signs, so that a speckle of both cancels; each sign is then cut at a
threshold of its own map (`HeatmapParams.threshold`), inside the visible disc only, and joined over
corners. Sums are taken over the *unsmoothed* map: by completeness they are what the region
contributes to the outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, UInt8

from dr_lib.fundus.anatomy import Eye, anatomy, polar, quadrant_of, ring_of, visible_disc
from dr_lib.fundus.optic_disc import OpticDisc
from dr_lib.maps.params import HeatmapParams
from dr_lib.vocabulary import SIGNS, Sign

GREEN = 1  # the channel in which both blood and exudates stand out


@dataclass(frozen=True)
class Regions:
    """Labelled regions of one sign: 0 outside, otherwise 1 + the region's number, 0 being the
    strongest.
    """

    labels: Int32[np.ndarray, "y x"]
    count: int


def find_regions(
    values: Float[np.ndarray, "y x"],
    sign: Sign,
    params: HeatmapParams = HeatmapParams(),
    *,
    crop: float,
) -> Regions:
    """The regions of one sign of a square map, numbered by the size of their summed attribution
    (ties: first from the top).

    crop: of the fundus that the map is about (`PreprocessParams.crop`). None in a map without that
    sign, and none in a map that is not finite. The count is of all; `params.max_regions` limits
    rows only.
    """
    from skimage.measure import label

    inside = visible_disc(_side(values), crop=crop)
    nothing = Regions(np.zeros(values.shape, np.int32), 0)
    if not np.isfinite(values).all():
        return nothing
    strength = np.where(inside, _smoothed(values.astype(np.float64), params.smoothing_px), 0.0)
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
    return Regions(renumbered[labels], len(kept))


def region_rows(
    values: Float[np.ndarray, "y x"],
    fundus: UInt8[np.ndarray, "y x 3"],
    *,
    image_id: str,
    source: str,
    quantity: str,
    eye: Eye,
    crop: float,
    params: HeatmapParams = HeatmapParams(),
    signs: tuple[Sign, ...] = SIGNS,
    found: Mapping[Sign, Regions] | None = None,
    disc: OpticDisc | None = None,
    converged: bool | None = None,
) -> list[dict]:
    """One row per region for the table `lesion_regions`, strongest first within a sign, at most
    `params.max_regions` of each.

    `attribution_*` are of the unsmoothed map with its signs; `image_share` is the region's sum over
    the map's sum of that sign. `contrast` is the mean green level inside minus that of the
    `surround_px` around the region within the disc that belong to no region; NaN where there are
    none. The bounding box is half-open, as in slices. `found` may hand over regions already
    labelled; `disc` is where the optic disc was found; `converged` is noted as it is, so that maps
    that missed their tolerance stay and can be left out. A map of zeros or with a value that is not
    finite has no rows.
    """
    if fundus.shape[:2] != values.shape:
        raise ValueError(
            f"{image_id}: a map of {values.shape} does not lie on a fundus of {fundus.shape[:2]}"
        )
    rows = []
    for sign in signs:
        regions = (found or {}).get(sign) or find_regions(values, sign, params, crop=crop)
        rows += [
            {
                "image_id": image_id,
                "source": source,
                "quantity": quantity,
                "sign": sign,
                **row,
                "converged": converged,
            }
            for row in _measured(
                values.astype(np.float64), fundus, regions, sign, eye, crop, params, disc
            )
        ]
    return rows


def _measured(
    values: Float64[np.ndarray, "y x"],
    fundus: np.ndarray,
    regions: Regions,
    sign: Sign,
    eye: Eye,
    crop: float,
    params: HeatmapParams,
    disc: OpticDisc | None,
) -> list[dict]:
    from skimage.measure import regionprops

    if regions.count == 0:
        return []
    place = anatomy(len(values), eye, crop=crop)
    total = values[values > 0].sum() if sign == "positive" else values[values < 0].sum()
    count = min(regions.count, params.max_regions or regions.count)
    rows = []
    for prop in regionprops(np.where(regions.labels <= count, regions.labels, 0)):
        y, x = (float(value) for value in prop.centroid)
        top, left, bottom, right = (int(edge) for edge in prop.bbox)
        inside = values[prop.slice][prop.image]
        radius, angle = polar(y, x, len(values), eye, crop=crop)
        peak = inside.max() if sign == "positive" else inside.min()
        rows.append(
            {
                "region": int(prop.label) - 1,
                "area_px": float(prop.area),
                "disc_share": float(prop.area) / place.area_px,
                "centroid_y_px": y,
                "centroid_x_px": x,
                "radius_share": radius,
                "angle_deg": angle,
                "quadrant": quadrant_of(angle),
                "ring": ring_of(radius),
                "bbox_top_px": top,
                "bbox_left_px": left,
                "bbox_bottom_px": bottom,
                "bbox_right_px": right,
                "attribution_sum": float(inside.sum()),
                "attribution_mean": float(inside.mean()),
                "attribution_peak": float(peak),
                "image_share": float(inside.sum() / total) if total else float("nan"),
                "eccentricity": float(prop.eccentricity),
                "solidity": float(prop.solidity),
                "contrast": _contrast(
                    fundus, regions.labels, prop.label, prop.bbox, place.inside, params.surround_px
                ),
                "optic_disc_distance_px": (
                    float(np.hypot(y - disc.centre_y_px, x - disc.centre_x_px))
                    if disc
                    else float("nan")
                ),
            }
        )
    return rows


def _contrast(
    fundus: np.ndarray,
    labels: np.ndarray,
    label: int,
    bbox: tuple[int, int, int, int],
    disc: Bool[np.ndarray, "y x"],
    width_px: int,
) -> float:
    top, left, bottom, right = bbox
    window = (
        slice(max(top - width_px, 0), bottom + width_px),
        slice(max(left - width_px, 0), right + width_px),
    )
    region = labels[window] == label
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width_px + 1, 2 * width_px + 1))
    around = (cv2.dilate(region.astype(np.uint8), reach) > 0) & (labels[window] == 0) & disc[window]
    green = fundus[window][..., GREEN].astype(np.float64)
    return float(green[region].mean() - green[around].mean()) if around.any() else float("nan")


def _smoothed(values: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma_px) if sigma_px > 0 else values


def _threshold(strength: np.ndarray, inside: np.ndarray, params: HeatmapParams) -> float:
    if params.threshold == "fraction":
        return params.fraction * float(strength.max())
    if params.threshold == "quantile":
        return float(np.quantile(strength[inside], params.quantile))
    from skimage.filters import threshold_otsu

    # Scaled: Otsu's histogram of values near 1e-9 would lose its bins to rounding.
    largest = float(strength.max())
    return float(threshold_otsu(strength[inside] / largest)) * largest


def _side(values: np.ndarray) -> int:
    if values.shape[0] != values.shape[1]:
        raise ValueError(
            f"a fundus and its maps are square, not {values.shape[0]} × {values.shape[1]}"
        )
    return values.shape[0]
