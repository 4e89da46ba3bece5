"""What each unit does as the outcome grows: linear, constant, reversed, saturating, nonlinear or
dead.
"""

import numpy as np
import pandas as pd

from dr_lib.evaluation.ratio import ratio
from dr_lib.linearity.study import LinearityParams

COLUMNS = (
    *("layer", "unit", "verdict", "images", "gradient_variation", "slope", "r2"),
    *("mean_attribution", "strongest_image_id", "moved_share", "outcome_correlation"),
    "linear_up_to",
)


def unit_verdicts(rows: pd.DataFrame, params: LinearityParams) -> pd.DataFrame:
    """The verdict on each unit of each layer, and the numbers behind it (METHOD §8).

    Sums run over eyes, so strong eyes count most; spreads are taken within an eye over the
    strengths. The first that holds, in this order:

    - dead: no attribution above `dead_share` of the layer's largest, anywhere
    - constant: the activation's range is at most `constant_share` of its largest difference from
      the baseline
    - reversed: the attribution falls while the outcome rises: correlation within eyes at most
      −`reversed_correlation`
    - linear: `gradient_variation` within `gradient_bound` and `r2` at least `least_r2`
    - saturating: the average gradient shrinks as the activation difference grows
    - nonlinear: anything else

    `gradient_variation` is the average gradient's standard deviation over strengths by its mean
    size; `slope` and `r2` are of attribution on activation difference, a line through 0 for each
    eye (slope: its median; R² within eyes, pooled). NaN where nothing varies. `mean_attribution` is
    over eyes and strengths, `strongest_image_id` holds the largest |attribution|. `moved_share` and
    `outcome_correlation` are what constant and reversed are judged by. A softmax must level off
    somewhere, and the verdict is over all strengths: `linear_up_to` is the largest strength up to
    which the unit would count as linear.

    Parameters
    ----------
    rows : of `linearity_study`

    Returns
    -------
    DataFrame
        One row per layer and unit, with COLUMNS.

    Raises
    ------
    ValueError
        If some eye lacks a strength or a unit that the others have.
    """
    frames = [
        _layer_verdicts(str(layer), part, params)
        for layer, part in rows.groupby("layer", sort=True)
    ]
    return pd.concat(frames or [pd.DataFrame()], ignore_index=True).reindex(columns=COLUMNS)


def _layer_verdicts(layer: str, rows: pd.DataFrame, params: LinearityParams) -> pd.DataFrame:
    images, strengths, units = (np.unique(rows[name]) for name in ("image_id", "strength", "unit"))
    shape = (len(images), len(strengths), len(units))
    rows = rows.sort_values(["image_id", "strength", "unit"], kind="stable")
    if len(rows) != np.prod(shape) or rows.duplicated(["image_id", "strength", "unit"]).any():
        raise ValueError(
            f"layer {layer}: every eye needs the same strengths and units, each once; {len(rows)}"
            f" rows are not {shape}"
        )
    difference, gradient, attribution, outcome = numbers = [
        rows[name].to_numpy(np.float64).reshape(shape)
        for name in ("activation_difference", "mean_gradient", "attribution", "outcome")
    ]
    up_to = np.full(len(units), np.nan)
    for last in range(1, len(strengths)):
        below = (values[:, : last + 1] for values in numbers)
        up_to[_judged(*below, params)["verdict"] == "linear"] = strengths[last]
    return pd.DataFrame(
        {
            "layer": layer,
            "unit": units,
            "images": len(images),
            **_judged(difference, gradient, attribution, outcome, params),
            "mean_attribution": attribution.mean(axis=(0, 1)),
            "strongest_image_id": images[np.abs(attribution).max(axis=1).argmax(axis=0)],
            "linear_up_to": up_to,
        }
    )


def _judged(
    difference: np.ndarray,
    gradient: np.ndarray,
    attribution: np.ndarray,
    outcome: np.ndarray,
    params: LinearityParams,
) -> dict[str, np.ndarray]:
    """Verdict and numbers of each unit from arrays (image, strength, unit)."""
    size = np.abs(attribution).max(axis=(0, 1))
    moved = ratio(
        np.ptp(difference, axis=1).sum(axis=0),
        np.abs(difference).max(axis=1).sum(axis=0),
        empty=0.0,
    )
    variation = ratio(gradient.std(axis=1).sum(axis=0), np.abs(gradient).mean(axis=1).sum(axis=0))
    with_outcome = _correlation_within(attribution, outcome)
    flattening = _correlation_within(np.abs(gradient), np.abs(difference))
    slopes = ratio(
        (attribution * difference).sum(axis=1), (difference**2).sum(axis=1)
    )  # (image, unit)
    residual = attribution - np.nan_to_num(slopes)[:, None] * difference
    r2 = 1 - ratio((residual**2).sum(axis=(0, 1)), (_centred(attribution) ** 2).sum(axis=(0, 1)))

    verdicts = {
        "dead": size <= params.dead_share * size.max(initial=0),
        "constant": moved <= params.constant_share,
        "reversed": with_outcome <= -params.reversed_correlation,
        "linear": (variation <= params.gradient_bound) & (r2 >= params.least_r2),
        "saturating": flattening < 0,
    }
    return {
        "verdict": np.select(list(verdicts.values()), list(verdicts), "nonlinear"),
        "gradient_variation": variation,
        # Over eyes, those without a slope left out.
        "slope": pd.DataFrame(slopes).median().to_numpy(),
        "r2": r2,
        "moved_share": moved,
        "outcome_correlation": with_outcome,
    }


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def _correlation_within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation over strengths, means taken out eye by eye; (unit,), NaN where nothing varies."""
    a, b = _centred(a), _centred(b)
    return ratio(
        (a * b).sum(axis=(0, 1)), np.sqrt((a**2).sum(axis=(0, 1)) * (b**2).sum(axis=(0, 1)))
    )


def flip_strengths(rows: pd.DataFrame, target_stage: int) -> pd.Series:
    """For each eye the smallest strength of the study at which the model predicts the target;
    infinite where at none.
    """
    once = rows.drop_duplicates(["image_id", "strength"])
    flipped = once[once["predicted_stage"] == target_stage].groupby("image_id")["strength"].min()
    return flipped.reindex(once["image_id"].unique()).fillna(np.inf)
