"""How far a changed image lies from its original, how smooth the change is, and how counterfactuals
and adversarial examples compare: paired differences with intervals, and whether a change transfers.

Images are network inputs: float, (pixel − 128) / 128, so one 8-bit level is 1/128. Measures are
computed in float64. The counterfactual study's claim that IG counterfactuals are "smoother and
closer to reality" (METHOD §7) is judged by these numbers alone.

Comparisons work on the rows of `counterfactuals` and `adversarials` put together. The two eyes of a
patient are not independent, so intervals resample patients, not eyes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95

# Strengths are not among them: a factor of a pixel's own offset and a radius have no common unit.
MEASURES = (
    "l0_share",
    "l1",
    "l2",
    "linf",
    "ssim",
    "total_variation_after",
    "high_frequency_energy",
    "feature_distance_after",
)
RESAMPLES = 2000
COMPARED = (
    *("median_first", "median_second", "median_difference", "low", "high"),
    *("share_lower", "p_value"),
)


def paired_comparison(
    rows: pd.DataFrame,
    first: str,
    second: str,
    measure: str,
) -> dict[str, float | int | str]:
    """How a measure differs between two methods on the eyes that both reached.

    Parameters
    ----------
    rows : with image_id, patient_id, method, reached and the measure

    Returns
    -------
    dict
        The medians, the median of first − second with its 95 % interval over resampled patients,
        the share of eyes where it is negative, and `p_value` of Wilcoxon's signed-rank test
        (two-sided). NaN where no eye was reached by both.
    """
    from scipy.stats import wilcoxon

    reached = rows[rows["reached"].astype(bool)].set_index("image_id")
    pairs = pd.concat(
        {name: reached.loc[reached["method"] == name, measure] for name in (first, second)}, axis=1
    ).dropna()
    a, b = pairs[first].to_numpy(np.float64), pairs[second].to_numpy(np.float64)
    difference = a - b
    answer = {"measure": measure, "first": first, "second": second, "pairs": len(pairs)}
    numbers = dict.fromkeys(COMPARED, np.nan)
    if len(pairs):
        patients = reached["patient_id"].groupby("image_id").first().loc[pairs.index]
        bootstrap = PatientBootstrap(patients.to_numpy(str), seed=0, one_by_one=True)
        weights = bootstrap.weights(RESAMPLES).astype(int)
        medians = np.array([np.median(np.repeat(difference, weight)) for weight in weights])
        values = (
            *(np.median(a), np.median(b), np.median(difference), *interval_95(medians)),
            (difference < 0).mean(),
            wilcoxon(difference).pvalue if difference.any() else 1.0,
        )
        numbers = dict(zip(COMPARED, map(float, values), strict=True))
    return answer | numbers


def comparisons(rows: pd.DataFrame, firsts: Sequence[str], seconds: Sequence[str]) -> list[dict]:
    """`paired_comparison` of every measure between each of the first methods and each of the
    second.
    """
    return [
        paired_comparison(rows, first, second, measure)
        for first in firsts
        for second in seconds
        for measure in MEASURES
    ]


def transfer(rows: pd.DataFrame) -> dict[str, float | int]:
    """Of one method's changed images that reached the target on the first model, how many change a
    second model's mind too.

    `rows` needs reached, target_stage, and second_stage_ and second_probability_ before and after,
    the second model's. Eyes that it gives the target stage unchanged are left out. `share` comes
    with Wilson's 95 % interval; NaN where no eye is left.
    """
    from scipy.stats import binomtest

    asked = rows[
        rows["reached"].astype(bool) & (rows["second_stage_before"] != rows["target_stage"])
    ]
    n, hits = len(asked), int((asked["second_stage_after"] == asked["target_stage"]).sum())
    gain = asked["second_probability_after"] - asked["second_probability_before"]
    low = share = high = np.nan
    if n:
        share = hits / n
        low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return {
        "eyes": n,
        "transferred": hits,
        "share": share,
        "low": float(low),
        "high": float(high),
        "mean_probability_gain": float(gain.mean()),
    }


Image = Float[np.ndarray, "y x channel"]
Images = Float[np.ndarray, "image y x channel"]
DATA_RANGE = 255 / 128  # between the darkest and the brightest legal value


def distances(before: Image, after: Image) -> dict[str, float]:
    """`l0_share` (share of pixel positions with any channel changed), `l1` (sum), `l2`, `linf` of
    the change.

    >>> before = np.zeros((2, 2, 1), "float32")
    >>> after = before + np.float32([[[3.0], [0.0]], [[0.0], [-4.0]]])
    >>> distances(before, after)
    {'l0_share': 0.5, 'l1': 7.0, 'l2': 5.0, 'linf': 4.0}
    """
    change = _change(before, after)
    return {
        "l0_share": float(np.any(change != 0, axis=-1).mean()),
        "l1": float(np.abs(change).sum()),
        "l2": float(np.sqrt((change**2).sum())),
        "linf": float(np.abs(change).max(initial=0.0)),
    }


def ssim(before: Image, after: Image) -> float:
    """Structural similarity (1 for equal images), mean over channels, 7×7 windows; smaller images
    take the largest odd window.

    NaN where either image holds a non-finite value or is narrower than 3 px.
    """
    from skimage.metrics import structural_similarity

    change = _change(before, after)
    side = min(before.shape[:2])
    if side < 3 or not np.isfinite(change).all():
        return np.nan
    window = min(7, side - (side + 1) % 2)
    return float(
        structural_similarity(
            before.astype(np.float64),
            after.astype(np.float64),
            win_size=window,
            data_range=DATA_RANGE,
            channel_axis=-1,
        )
    )


def total_variation(image: Image) -> float:
    """Mean absolute difference of neighbouring pixels, over all pairs (down and right) and
    channels; 0 for a single pixel.

    >>> ramp = np.tile(np.arange(4, dtype="float32")[None, :, None], (4, 1, 3))
    >>> total_variation(ramp)  # 12 pairs to the right differ by 1, 12 pairs downward by 0
    0.5
    """
    image = image.astype(np.float64)
    down, right = np.abs(np.diff(image, axis=0)), np.abs(np.diff(image, axis=1))
    return float((down.sum() + right.sum()) / max(down.size + right.size, 1))


def high_frequency_energy(before: Image, after: Image) -> float:
    """Share of the change's energy at spatial frequencies above a quarter of a cycle a pixel
    (Nyquist is 0.5); NaN for no change.

    The frequency is radial, √(fy² + fx²); the energies of the channels are added. White noise has 1
    − π/16 ≈ 0.80, a smooth change almost 0.
    """
    change = _change(before, after)
    if not np.isfinite(change).all():
        return np.nan
    energy = (np.abs(np.fft.fft2(change, axes=(0, 1))) ** 2).sum(axis=-1)
    total = energy.sum()
    if total == 0:
        return np.nan
    frequency = np.hypot(
        np.fft.fftfreq(change.shape[0])[:, None], np.fft.fftfreq(change.shape[1])[None, :]
    )
    return float(energy[frequency > 0.25].sum() / total)


def change_measures(before: Image, after: Image) -> dict[str, float]:
    """Every measure of one change, named as the columns of `counterfactuals` and `adversarials`."""
    return {
        **distances(before, after),
        "ssim": ssim(before, after),
        "total_variation_before": total_variation(before),
        "total_variation_after": total_variation(after),
        "high_frequency_energy": high_frequency_energy(before, after),
    }


def feature_distances(
    features: Float[np.ndarray, "image feature"],
    real: Float[np.ndarray, "example feature"],
    made_from: Int[np.ndarray, "image"],
) -> tuple[Float[np.ndarray, "image"], float]:
    """How near images lie to real ones, in any feature space, such as the network's pooled
    features of real stage-1 eyes.

    Parameters
    ----------
    features, real : of the images and of the real examples, (image, feature), (example, feature)
    made_from : the example that each image was made from (−1: none), which is not counted: every
        small change would be near that one

    Returns
    -------
    nearest, typical
        The Euclidean distance of each image to its nearest example, and the median such distance
        among the examples themselves: an image near that is as close to reality as reality is to
        itself. NaN where there are too few examples.
    """
    from scipy.spatial.distance import cdist

    if len(real) == 0:
        return np.full(len(features), np.nan), np.nan
    between = cdist(features, real)
    rows = np.flatnonzero(made_from >= 0)
    between[rows, made_from[rows]] = np.inf
    nearest = between.min(axis=1)
    nearest[np.isinf(nearest)] = np.nan
    if len(real) < 2:
        return nearest, np.nan
    among = cdist(real, real)
    np.fill_diagonal(among, np.inf)
    return nearest, float(np.median(among.min(axis=1)))


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return after.astype(np.float64) - before.astype(np.float64)
