"""Special units one by one: which stages a unit argues for, what the outcome is without it, which
pixels drive it (METHOD §8).

A unit of a dense layer is a number, one of a convolutional layer a channel: all its positions
together.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64, Int

from dr_lib.attribution import integrated_gradients, stage_quantities
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.quantities import softmax
from dr_lib.linearity.params import LinearityParams
from dr_lib.linearity.study import UNITS_AT_ONCE, Model, upper_evaluator
from dr_lib.vocabulary import STAGE_QUANTITIES

SPECIAL = ("constant", "reversed")


def special_units(verdicts: pd.DataFrame, params: LinearityParams) -> dict[str, list[int]]:
    """For each layer the constant and reversed units to look at, those of the largest mean
    attribution first, ties by number.
    """
    chosen = verdicts[verdicts["verdict"].isin(SPECIAL)]
    order = chosen.assign(size=chosen["mean_attribution"].abs()).sort_values(
        ["size", "unit"], ascending=[False, True]
    )
    return {
        str(layer): part["unit"].astype(int).tolist()[: params.special_units]
        for layer, part in order.groupby("layer", sort=True)
        if params.special_units
    }


def unit_effects(
    image_ids: Sequence[str],
    layer: str,
    upper: Model,
    activations: Float[np.ndarray, "image *unit"],
    baseline: Float[np.ndarray, "*unit"],
    verdicts: Mapping[int, str],
    params: LinearityParams,
) -> list[dict]:
    """One row per unit and eye for the table `unit_effects`; eyes are ranked by the unit's
    attribution to the target.

    Parameters
    ----------
    upper : a Keras model from the layer to a softmax
    activations : h(x) of the eyes as they are
    baseline : h(x')
    verdicts : the units to look at, by number, with their verdicts
    """
    flat = activations.ndim == 2
    evaluator = upper_evaluator(upper, UNITS_AT_ONCE if flat else params.batch_size)
    points = params.points if flat else params.conv_points
    quantities = stage_quantities(STAGE_QUANTITIES)
    maps = integrated_gradients(
        evaluator, activations, baseline, points=points, quantities=quantities
    ).values.astype(np.float64)
    argues = maps.sum(axis=tuple(range(2, maps.ndim - 1)))  # (image, stage, unit)
    difference = (activations - baseline).astype(np.float64)
    difference = difference.mean(axis=tuple(range(1, difference.ndim - 1)))

    def predict(h: np.ndarray) -> np.ndarray:
        return softmax(evaluator.values(h))

    whole, effects = baseline_effect(predict, activations, baseline, np.array([*verdicts], int))
    rows = []
    for k, (unit, verdict) in enumerate(verdicts.items()):
        order = np.argsort(-np.abs(argues[:, params.target_stage, unit]), kind="stable")
        for rank, image in enumerate(order):
            effect = effects[image, k]
            rows.append(
                {
                    "layer": layer,
                    "unit": unit,
                    "image_id": image_ids[image],
                    "verdict": verdict,
                    "rank": rank,
                    "activation_difference": difference[image, unit],
                    **_by_stage("attribution", argues[image, :, unit]),
                    **_by_stage("effect", effect),
                    "predicted_before": int(whole[image].argmax()),
                    "predicted_after": int((whole[image] + effect).argmax()),
                }
            )
    return rows


def _by_stage(name: str, values: np.ndarray) -> dict[str, float]:
    return {f"{name}_{stage}": value for stage, value in zip(STAGE_QUANTITIES, values, strict=True)}


def baseline_effect(
    predict: Callable[[np.ndarray], np.ndarray],
    activations: Float[np.ndarray, "image *unit"],
    baseline: Float[np.ndarray, "*unit"],
    units: Int[np.ndarray, "chosen"],
) -> tuple[Float64[np.ndarray, "image stage"], Float64[np.ndarray, "image chosen stage"]]:
    """(the stages' probabilities as they are, what setting one unit at a time to its baseline adds
    to them).

    A unit is an index of the last axis; in a convolutional layer that is a whole channel.
    """
    whole = np.asarray(predict(activations), np.float64)
    effects = np.empty((len(activations), len(units), whole.shape[1]))
    for k, unit in enumerate(units):
        changed = activations.copy()
        changed[..., unit] = baseline[..., unit]
        effects[:, k] = np.asarray(predict(changed), np.float64) - whole
    return whole, effects


def unit_region(
    sums: Evaluator,
    image: Float[np.ndarray, "y x 3"],
    baseline: Float[np.ndarray, "y x 3"],
    unit_shape: Sequence[int],
    unit: int,
    params: LinearityParams,
) -> Float32[np.ndarray, "y x"]:
    """The unit's activation attributed to the pixels of one image, summed over colours; a channel's
    is the mean over positions.

    `sums` evaluates `dr_lib.attribution.neurons.weighted_sums` of the network below the layer.
    """
    from dr_lib.attribution.integrated import RefinementMaker, attributions
    from dr_lib.attribution.quantities import identity_quantities

    weights = np.zeros(tuple(unit_shape), np.float32)
    weights[..., unit] = 1 / np.prod(unit_shape[:-1], initial=1)
    refinement = RefinementMaker(params.region_points, "midpoint", None, params.region_points)
    extras = (weights.reshape(1, 1, -1),)
    (region,) = attributions(
        sums, identity_quantities(1), image[None], baseline, refinement, extras=extras
    )
    return region.values[0].sum(axis=-1)
