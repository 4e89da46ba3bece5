"""How far a changed image lies from its original, and how smooth the change is.

Images are network inputs: float, (pixel − 128) / 128, so one 8-bit level is 1/128. Everything is
computed in float64. The counterfactual study's claim that IG counterfactuals are "smoother and
closer to reality" (METHOD §7) is judged by these numbers alone. Reading images or tables is
somebody else's work.
"""

import numpy as np
from jaxtyping import Float, Int

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
    if before.shape != after.shape:
        raise ValueError(
            f"images of different shapes cannot be compared: {before.shape} and {after.shape}"
        )
    return after.astype(np.float64) - before.astype(np.float64)
