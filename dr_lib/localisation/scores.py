"""How well one map finds the lesions of one eye, by each measure of the field, with what a map of
chance would get.

Every measure is a number an eye, so that an interval comes from resampling patients and chance from
the same eyes. Lesions of other types are neither credited nor counted against a map when it is
judged by one type.

- `pixel_auc`: the chance that a lesion pixel has a higher value than a healthy one (ties half).
- `average_precision`: of the pixels' ranking; chance is that of a random ranking.
- `pointing_game`: whether the highest pixel lies on a lesion, within the tolerance (Zhang et al.,
IJCV 126 (2018)).
- `precision`, `recall`: of the strongest peaks: which share lies on a lesion; which share of the
lesions has one.
- `sensitivity_fpN`: the share of lesions found when peaks are taken in their order until N + 1 lie
on healthy retina; `froc` is
  the mean over N (free-response ROC, with the same N in every eye; Bunch et al., SPIE 127 (1977)).
- `energy`: the share of the positive sum that lies on lesions.

Chance is exact: a random ranking of the pixels, or peaks that fall anywhere in the retina with
equal chance.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64

from dr_lib.localisation.masks import LesionMasks
from dr_lib.localisation.params import LocalisationParams

FALSE_POSITIVES = (1, 2, 4, 8, 16)
MOST_PEAKS = 400
NAN = float("nan")


class Score(NamedTuple):
    """A measure's value for one eye, and chance's."""

    value: float
    chance: float


class Judge:
    """The lesions of one eye, made ready once to judge any number of maps of it."""

    def __init__(
        self, masks: LesionMasks, params: LocalisationParams = LocalisationParams()
    ) -> None:
        self.masks, self.params = masks, params
        inside, lesions = masks.inside, masks.any
        self._healthy = inside & ~_near(lesions, params.tolerance_px)
        # What is judged of a type: its pixels against those of no lesion at all.
        self._targets = {
            kind: (
                inside & (lesion | ~lesions),
                lesion,
                _zones(lesion, inside, params.tolerance_px),
            )
            for kind, lesion in masks.targets().items()
        }

    def scores(self, values: Float[np.ndarray, "y x"]) -> dict[tuple[str, str], Score]:
        """(lesion type or "any", measure) → score of one map; empty for an eye without lesions.

        Lesion types that the eye lacks are missing. A map that is 0 everywhere ranks nothing: its
        AUC is 0.5, it has no peaks and no energy (NaN). Raises ValueError for a map of another size
        and for one that is not finite.
        """
        inside = self.masks.inside
        if values.shape != inside.shape:
            raise ValueError(f"a map of {values.shape} does not lie on masks of {inside.shape}")
        if not np.isfinite(values[inside]).all():
            raise ValueError("a map that is not finite cannot be judged")
        values = np.where(inside, values, 0).astype(np.float64)
        if not self._targets:
            return {}
        tops = peaks(values, inside, self.params.tolerance_px)
        wrong = self._healthy[tops[:, 0], tops[:, 1]]
        result = {}
        for kind, (pixels, lesion, zones) in self._targets.items():
            measures = _pixel_scores(values[pixels], lesion[pixels])
            measures["pointing_game"] = _pointing(values, zones, inside)
            measures |= _peak_scores(
                zones[:, tops[:, 0], tops[:, 1]], wrong, self._chances(zones), self.params.regions
            )
            result |= {(kind, name): score for name, score in measures.items()}
        return result

    def _chances(self, zones: np.ndarray) -> "_Chances":
        retina = self.masks.inside.sum()
        return _Chances(
            zones.sum(axis=(1, 2)) / retina,
            zones.any(axis=0).sum() / retina,
            self._healthy.sum() / retina,
        )


class _Chances(NamedTuple):
    """Shares of the retina: near each lesion, near any of them, and away from all."""

    each: np.ndarray
    near: float
    healthy: float


def _pixel_scores(values: np.ndarray, lesion: np.ndarray) -> dict[str, Score]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    share = float(lesion.mean())
    if lesion.all():
        return {name: Score(NAN, NAN) for name in ("pixel_auc", "average_precision", "energy")}
    strength = np.maximum(values, 0)
    total = strength.sum()
    return {
        "pixel_auc": Score(float(roc_auc_score(lesion, values)), 0.5),
        "average_precision": Score(
            float(average_precision_score(lesion, values)),
            chance_precision(lesion.size, lesion.sum()),
        ),
        "energy": Score(float(strength[lesion].sum() / total) if total > 0 else NAN, share),
    }


def _pointing(values: np.ndarray, zones: np.ndarray, inside: np.ndarray) -> Score:
    near = np.any(zones, axis=0)
    top = inside & (values == values[inside].max())
    return Score(float(near[top].mean()) if values.any() else NAN, float(near.sum() / inside.sum()))


def _peak_scores(
    hits: np.ndarray, wrong: np.ndarray, chances: _Chances, regions: int
) -> dict[str, Score]:
    """hits (lesion, peak): which peak lies on which lesion. wrong (peak,): which lies on healthy
    retina.
    """
    first = hits[:, :regions]
    scores = {
        "precision": Score(
            float(first.any(axis=0).mean()) if first.size else NAN, float(chances.near)
        ),
        "recall": Score(
            float(first.any(axis=1).mean()), float((1 - (1 - chances.each) ** regions).mean())
        ),
    }
    false = np.cumsum(wrong)
    curve = []
    for allowed in FALSE_POSITIVES:
        sensitivity = float(hits[:, false <= allowed].any(axis=1).mean())
        # Peaks fall until allowed + 1 of them lie on healthy retina; only those on this lesion or
        # on healthy retina matter.
        either = chances.healthy + chances.each
        missed = np.divide(
            chances.healthy, either, out=np.zeros_like(either), where=either > 0
        ) ** (allowed + 1)
        curve.append(Score(sensitivity, float((1 - missed).mean())))
    scores |= {
        f"sensitivity_fp{allowed}": score
        for allowed, score in zip(FALSE_POSITIVES, curve, strict=True)
    }
    scores["froc"] = Score(*(float(np.mean(part)) for part in zip(*curve, strict=True)))
    return scores


def peaks(
    values: Float64[np.ndarray, "y x"], inside: Bool[np.ndarray, "y x"], distance_px: float
) -> np.ndarray:
    """The map's local maxima above 0, (peak, 2) of (y, x), highest first, none nearer to a higher
    one than `distance_px`.

    At most `MOST_PEAKS`. Ties in order of place.
    """
    from skimage.feature import peak_local_max

    apart = max(1, round(distance_px))
    strength = np.where(inside, np.maximum(values, 0), 0)
    if not strength.any():
        return np.zeros((0, 2), int)
    tops = peak_local_max(
        strength,
        min_distance=apart,
        threshold_abs=0.0,
        exclude_border=False,
        labels=inside.astype(np.int32),
    )
    order = np.lexsort((tops[:, 1], tops[:, 0], -strength[tuple(tops.T)]))
    return tops[order][:MOST_PEAKS]


def chance_precision(pixels: int | np.integer, lesion_pixels: int | np.integer) -> float:
    """The mean average precision of all rankings of `pixels`, of which `lesion_pixels` are lesion:
    a little above their share.

    The pixel at rank k is lesion with chance p/n, and then 1 + (k − 1)(p − 1)/(n − 1) of the first
    k are on average.

    >>> chance_precision(2, 1)  # first or second, equally often: (1 + 1/2) / 2
    0.75
    """
    n, p = int(pixels), int(lesion_pixels)
    if p == 0:
        return NAN
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    rest = (p - 1) / (n - 1) * (n - harmonic) if n > 1 else 0.0
    return (harmonic + rest) / n


def _near(region: np.ndarray, distance_px: float) -> np.ndarray:
    if not region.any():
        return np.zeros_like(region)
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away <= distance_px + 1e-4  # float32 roots


def _zones(lesion: np.ndarray, inside: np.ndarray, distance_px: float) -> np.ndarray:
    """For each connected lesion the pixels inside that lie on it or within the distance:
    (lesion, y, x).
    """
    from skimage.measure import label

    numbered = label(lesion, connectivity=2)
    zones = [
        _near(numbered == number, distance_px) & inside
        for number in range(1, int(numbered.max()) + 1)
    ]
    return np.stack(zones)
