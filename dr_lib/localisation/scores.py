"""How well maps find lesions, by each measure of the field, with what a map of chance would get:
one map of one eye, and the means over many eyes.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95
from dr_lib.evaluation.ratio import ratio
from dr_lib.localisation.masks import LesionMasks
from dr_lib.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings


@dataclass(frozen=True)
class LocalisationParams(Settings):
    """Where the masks are and how a map is judged by them.

    - `masks`: a folder of masks, in any of the layouts of docs/localisation.md, or a COCO
      annotation file. Empty: the folder `masks` beside the photographs, where `dr synthesise` puts
      its own; without one nothing is measured.
    - `smoothing_px`: Gaussian σ that every map, baseline maps too, is smoothed with before it is
      judged.
    - `tolerance_px`: so near a lesion a map's peak counts as on it.
    - `regions`: how many of a map's strongest peaks count for precision and recall.
    - `baseline_maps`: whether simple maps are judged on the same eyes. `gradcam_layers`: where
      Grad-CAM is; names that the model lacks are passed over.
    - `resamples`, `seed`: of the intervals, over patients.
    """

    masks: str = ""
    smoothing_px: NonNegativeFloat = 1.0
    tolerance_px: NonNegativeFloat = 3.0
    regions: PositiveInt = 10
    baseline_maps: bool = True
    gradcam_layers: tuple[str, ...] = ("mixed2", "mixed5", "mixed7", "mixed10")
    resamples: PositiveInt = 1000
    seed: NonNegativeInt = 0


FALSE_POSITIVES = (1, 2, 4, 8, 16)
MOST_PEAKS = 400
MINIMUM_FOR_INTERVAL = 2  # patients; of one alone nothing is known of the others
Pairs = dict[str, tuple[Any, Any]]  # a measure's value and chance's


class Score(NamedTuple):
    """A measure's value for one eye, and chance's."""

    value: float
    chance: float


class Judge:
    """The lesions of one eye, made ready once to judge any number of maps of it."""

    def __init__(self, masks: LesionMasks, params: LocalisationParams) -> None:
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
        if not np.isfinite(values[inside]).all():
            raise ValueError("a map that is not finite cannot be judged")
        values = np.where(inside, values, 0).astype(np.float64)
        if not self._targets:
            return {}
        tops = peaks(values, inside, self.params.tolerance_px)
        top = inside & (values == values[inside].max())
        result = {}
        for kind, (judged, lesion, zones) in self._targets.items():
            near = np.any(zones, axis=0)
            pointing = near[top].mean() if values.any() else np.nan
            measures = _pixel_scores(values[judged], lesion[judged])
            measures["pointing_game"] = pointing, near.sum() / inside.sum()
            measures |= self._peak_scores(tops[:, 0], tops[:, 1], zones)
            result |= {
                (kind, name): Score(float(value), float(chance))
                for name, (value, chance) in measures.items()
            }
        return result

    def _peak_scores(self, y: np.ndarray, x: np.ndarray, zones: np.ndarray) -> Pairs:
        """Of peaks at (y, x), highest first. zones (lesion, y, x): where a peak lies on each
        lesion.
        """
        retina, regions = self.masks.inside.sum(), self.params.regions
        each, near = zones.sum(axis=(1, 2)) / retina, zones.any(axis=0).sum() / retina
        healthy = self._healthy.sum() / retina
        hits, false = zones[:, y, x], np.cumsum(self._healthy[y, x])
        first = hits[:, :regions]
        # Peaks fall until N + 1 of them lie on healthy retina; only those on this lesion or on
        # healthy retina matter.
        either = healthy + each
        missed = ratio(healthy, either, empty=0.0)
        curve = {
            f"sensitivity_fp{allowed}": (
                hits[:, false <= allowed].any(axis=1).mean(),
                (1 - missed ** (allowed + 1)).mean(),
            )
            for allowed in FALSE_POSITIVES
        }
        sensitivity, chance = (np.mean(part) for part in zip(*curve.values(), strict=True))
        return {
            "precision": (first.any(axis=0).mean() if first.size else np.nan, near),
            "recall": (first.any(axis=1).mean(), (1 - (1 - each) ** regions).mean()),
            **curve,
            "froc": (sensitivity, chance),
        }


def _pixel_scores(values: np.ndarray, lesion: np.ndarray) -> Pairs:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if lesion.all():
        return dict.fromkeys(("pixel_auc", "average_precision", "energy"), (np.nan, np.nan))
    chance = chance_precision(lesion.size, lesion.sum())
    strength = np.maximum(values, 0)
    total = strength.sum()
    return {
        "pixel_auc": (roc_auc_score(lesion, values), 0.5),
        "average_precision": (average_precision_score(lesion, values), chance),
        "energy": (strength[lesion].sum() / total if total > 0 else np.nan, lesion.mean()),
    }


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
        return np.nan
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


def score_rows(
    scores: Sequence[Mapping[tuple[str, str], Score]],
    patients: Sequence[str],
    params: LocalisationParams,
) -> list[dict[str, Any]]:
    """One map's scores in many eyes as rows of lesion, metric, value, low, high, chance, images.

    Parameters
    ----------
    scores : of each eye, as `Judge.scores` gives them
    patients : whose eye each is

    Returns
    -------
    list of dict
        value: the mean over those eyes in which the measure is defined, `images` of them. low,
        high: 2.5th and 97.5th percentile over resampled patients; NaN for fewer than two.

    Raises
    ------
    ValueError
        Where eyes and patients do not match.
    """
    rows = []
    for key in dict.fromkeys(key for eye in scores for key in eye):
        known = [
            (*eye[key], patient)
            for eye, patient in zip(scores, patients, strict=True)
            if key in eye and np.isfinite(eye[key].value)
        ]
        if not known:
            continue
        *pairs, whose = zip(*known, strict=True)
        values, chances = np.array(pairs)
        low, high = interval(values, whose, params.resamples, params.seed)
        rows.append(
            {
                "lesion": key[0],
                "metric": key[1],
                "value": float(values.mean()),
                "low": low,
                "high": high,
                "chance": float(chances.mean()),
                "images": len(known),
            }
        )
    return rows


def interval(
    values: np.ndarray, patients: Sequence[str], resamples: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of the mean, from drawing patients (with all their eyes) with replacement.

    >>> interval(np.array([0.5, 0.5, 0.5]), ["a", "a", "b"], 100, 0)
    (0.5, 0.5)
    """
    bootstrap = PatientBootstrap(np.asarray(patients), seed)
    if bootstrap.patients < MINIMUM_FOR_INTERVAL:
        return np.nan, np.nan
    weights = bootstrap.weights(resamples)
    return interval_95(weights @ values / weights.sum(axis=1))
