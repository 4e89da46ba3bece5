"""What an audit asks of one map: which of its pixels the answer hangs on, how alike it stays when
something changes, and how much of it lies where no lesion can be.

Knows no network: answers are numbers that somebody else computed.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from dr_lib.evaluation.grading import posed
from dr_lib.fundus.anatomy import anatomy
from dr_lib.fundus.optic_disc import optic_disc
from dr_lib.localisation.masks import retina_seen
from dr_lib.maps.stats import BORDER, correlation

TOP = 0.1  # of the retina's pixels: the part of two maps whose overlap is measured
LIKENESS = {"": 0.0, "_size": 0.0, "_top10": TOP}  # what `likeness` measures, and chance
SATURATED = 250  # gray levels in all three colours; of a lesion, blue is darker
NOISE_LEVELS = 4  # standard deviation, of 256 gray levels
JPEG_QUALITY = 75
QUARTER_TURN = 2  # the number of this pose in `posed`

Map = Float[np.ndarray, "y x"]
Place = Bool[np.ndarray, "y x"]
Fundus = UInt8[np.ndarray, "y x 3"]
Numbers = Float64[np.ndarray, "..."]


def masked(
    x: Float32[np.ndarray, "y x 3"], values: Map, inside: Place, shares: Numbers
) -> Float32[np.ndarray, "image y x 3"]:
    """The eye with these shares of its pixels shown on half-gray, the map's largest first, and
    then with the same pixels set to half-gray instead.

    Pixels of one value are taken in their order. What lies outside is half-gray.
    """
    order = np.argsort(-values[inside], kind="stable")
    rank = np.ones(inside.shape)
    rank[inside] = order.argsort() / max(len(order), 1)
    shown = rank < shares[:, None, None]
    kept = np.concatenate([shown, ~shown]) & inside
    return np.where(kept[..., None], x, np.float32(0))


def masking_areas(inner: Numbers, blank: Numbers, whole: Numbers, shares: Numbers) -> Numbers:
    """The areas under the insertion and the deletion curve: means of the answer over the share of
    the retina that is shown, or taken away (Petsiuk et al., BMVC 2018).

    Parameters
    ----------
    inner : (image, quantity) the answers to `masked`, of all shares but the first and the last
    blank, whole : (quantity,) those to half-gray alone and to the eye

    Returns
    -------
    (2, quantity)
    """
    inserted, deleted = np.split(inner, 2)
    curves = np.array([[blank, *inserted, whole], [whole, *deleted, blank]])
    return np.trapezoid(curves, shares, axis=1)


def likeness(before: Map, after: Map, inside: Place) -> dict[str, float]:
    """How alike two maps are over the retina; all NaN where one does not vary or is not finite.

    "": Pearson's correlation, signs and all. "_size": Spearman's of the absolute values. "_top10":
    which part of the tenth of the pixels with the largest absolute values both share.
    """
    from scipy.stats import rankdata

    pair = [values[inside].astype(np.float64) for values in (before, after)]
    signed = correlation(*pair)
    if np.isnan(signed):
        return dict.fromkeys(LIKENESS, np.nan)
    ranks, size = [rankdata(np.abs(values)) for values in pair], len(pair[0])
    count = max(1, round(TOP * size))
    tops = [np.argsort(-rank, kind="stable")[:count] for rank in ranks]
    both = np.isin(tops[0], tops[1]).mean()
    return {"": signed, "_size": correlation(*ranks), "_top10": float(both)}


def no_lesion_places(fundus: Fundus, *, crop: float) -> dict[str, Place]:
    """Places of a normalised fundus that hold no lesion, as far as they are there: outside the
    retina that the photograph shows, the rim of the visible disc, the optic disc if it is found,
    and reflections, which saturate all three colours, elsewhere.
    """
    seen, disc = retina_seen(fundus, crop=crop), optic_disc(fundus, crop=crop)
    rim = seen & (anatomy(len(fundus), "right", crop=crop).radius_share > BORDER)
    on_disc = seen & disc.mask(len(fundus)) if disc else np.zeros_like(seen)
    bright = seen & (fundus >= SATURATED).all(axis=2) & ~on_disc & ~rim
    places = {"outside": ~seen, "rim": rim, "optic_disc": on_disc, "reflections": bright}
    return {name: place for name, place in places.items() if place.any()}


def disturbed(fundus: Fundus, inside: Place, random: np.random.Generator) -> dict[str, Fundus]:
    """The eye with a camera's noise, recompressed as JPEG, and after a quarter turn; half-gray
    outside the retina stays half-gray.
    """
    noisy = np.clip(fundus + random.normal(0, NOISE_LEVELS, fundus.shape).round(), 0, 255)
    code = cv2.imencode(".jpg", fundus[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1]
    changed = {"noise": noisy, "jpeg": decoded}
    within = {
        name: np.where(inside[..., None], pixels, fundus).astype(np.uint8)
        for name, pixels in changed.items()
    }
    return within | {"turn": posed(fundus[None], QUARTER_TURN)[0]}
