"""All rows of one image's maps: regions and statistics together, each map labelled once."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from dr_lib.fundus.anatomy import Eye, anatomy
from dr_lib.fundus.optic_disc import optic_disc
from dr_lib.maps.params import HeatmapParams
from dr_lib.maps.regions import find_regions, region_rows
from dr_lib.maps.stats import map_stats, symmetry
from dr_lib.vocabulary import QUADRANTS, SIGNS

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
        pair = {"symmetry_stage0_stage4": _pair_symmetry(maps, source, quantity, crop)}
        stats.append(about | map_stats(_whole(values), retina, disc) | counts | pair | mark)
    if eye is None:
        for row in regions:
            row |= dict.fromkeys(OF_SIDES & row.keys())
        for row in stats:
            row |= {f"share_{quadrant}": np.nan for quadrant in QUADRANTS}
    return regions, stats


def _whole(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=0) if values.ndim == 3 else values


def _pair_symmetry(maps: Mapping, source: str, quantity: str, crop: float) -> float:
    none, proliferative = maps.get((source, "stage0")), maps.get((source, "stage4"))
    if quantity not in ("stage0", "stage4") or none is None or proliferative is None:
        return np.nan
    return symmetry(_whole(none), _whole(proliferative), crop=crop)
