"""Units of a layer along adversarial examples of growing strength: activation difference, mean
gradient, attribution.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from dr_lib.linearity.params import LinearityParams
from dr_lib.perturbation.adversarial import Gradient, ascent
from dr_lib.perturbation.strength_search import LEGAL, batches
from dr_lib.vocabulary import STAGE_COUNT

Model = Callable[[Any], Any]  # a Keras model, or any function of a batch
AverageGradient = Callable[
    [Model, int, np.ndarray, np.ndarray], np.ndarray
]  # (upper, stage, inputs (n, …), baseline) -> (n, …)

UNITS_AT_ONCE = 64  # rows of a dense layer in one pass: they weigh nothing

COLUMNS = (
    "image_id",
    "layer",
    "strength",
    "unit",
    "outcome",
    "predicted_stage",
    "activation_difference",
    "mean_gradient",
    "attribution",
)


def linearity_study(
    image_ids: Sequence[str],
    inputs: Float[np.ndarray, "image y x channel"],
    baseline: Float[np.ndarray, "y x channel"],
    gradient: Gradient,
    lower: Callable[[np.ndarray], Mapping[str, Any]],
    uppers: Mapping[str, Model],
    params: LinearityParams,
    *,
    inside: Bool[np.ndarray, "y x"],
    average_gradient: AverageGradient,
) -> pd.DataFrame:
    """Units along adversarial examples of growing strength (METHOD §8).

    In a convolutional layer a unit is a channel: differences are means over positions, gradients
    and attributions sums over them, so there the attribution is not the product of the other two.
    Needs memory for every layer's activations at all strengths.

    Parameters
    ----------
    inputs : (image, y, x, channel) scaled images
    baseline : (y, x, channel)
    gradient, inside : as in `dr_lib.perturbation.adversarial`
    lower : images to each layer's activations (n, units) or (n, y, x, channels), as `trunk` gives
        it
    uppers : of each layer, activations to (n, stages) probabilities
    average_gradient : such as `engine_average_gradient` gives

    Returns
    -------
    DataFrame
        One row per layer, strength, eye and unit, with COLUMNS; the outcome is the probability of
        `params.target_stage`. An eye whose gradient is not finite has no rows.
    """
    if not params.inside_only:
        inside = np.ones(inputs.shape[1:3], bool)
    slopes = [gradient(batch, params.target_stage) for batch in batches(inputs, params.batch_size)]
    finite = np.concatenate(
        [np.isfinite(batch).all(axis=(1, 2, 3)) for batch in slopes] or [np.zeros(0, bool)]
    )
    if not finite.any():
        return pd.DataFrame({name: [] for name in COLUMNS})
    inputs, ids = inputs[finite], np.asarray(image_ids, object)[finite]
    direction = ascent(
        np.where(inside[..., None], np.concatenate(slopes)[finite], 0).astype(inputs.dtype),
        params.norm,
    )

    seen: dict[str, list[np.ndarray]] = {layer: [] for layer in uppers}
    for strength in params.grid:
        examples = np.clip(inputs + np.float32(strength) * direction, *LEGAL).astype(inputs.dtype)
        for batch in batches(examples, params.batch_size):
            activations = lower(batch)
            for layer, kept in seen.items():
                kept.append(np.asarray(activations[layer]))
    start = lower(baseline[None])
    frames = []
    for layer, upper in uppers.items():
        activations, origin = np.concatenate(seen.pop(layer)), np.asarray(start[layer])[0]
        stages = np.concatenate(
            [np.asarray(upper(batch)) for batch in batches(activations, params.batch_size)]
        )
        mean_gradient = np.asarray(
            average_gradient(upper, params.target_stage, activations, origin)
        )
        units = _by_unit(activations - origin, mean_gradient)
        frames.append(_frame(ids, layer, params.grid, units, stages, params.target_stage))
    return pd.concat(frames, ignore_index=True)


def engine_average_gradient(params: LinearityParams) -> AverageGradient:
    """∫ ∂F/∂h over the straight line, by the project's own integrated gradients with
    `params.points` midpoints.

    `upper` must be a Keras model that ends in a softmax: its derivative is integrated in closed
    form between the points, so that a saturated outcome does not show up as a gradient that varies.
    Each upper model is compiled once.
    """
    from dr_lib.attribution import integrated_gradients, stage_quantities

    evaluator = functools.cache(upper_evaluator)

    def average(upper: Model, stage: int, inputs: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        flat = inputs.ndim == 2
        values = integrated_gradients(
            evaluator(upper, UNITS_AT_ONCE if flat else params.batch_size),
            inputs,
            baseline,
            points=params.points if flat else params.conv_points,
            rule="midpoint",
            multiply_by_inputs=False,
            quantities=stage_quantities((f"stage{stage}",), STAGE_COUNT),
        ).values
        return values.reshape(
            inputs.shape
        )  # one quantity: its axis, where there is one, has length 1

    return average


def upper_evaluator(upper: Any, batch_size: int) -> Any:
    """The logits of a Keras model above a layer, compiled for batches of this size."""
    from dr_lib.attribution.evaluator import Evaluator
    from dr_lib.network.layers import logits_model

    logits = logits_model(upper)
    return Evaluator(lambda h: logits(h, training=False), batch_size)


def trunk(lowers: Mapping[str, Any]) -> Callable[[np.ndarray], Mapping[str, Any]]:
    """One compiled function for the activations of every layer, of Keras models on one input, as
    `dr_lib.attribution.split_at` gives them: what lies below several layers is computed once.
    """
    import keras

    from dr_lib.network import backend

    first = next(iter(lowers.values())).inputs[0]
    below = keras.Model(first, {layer: lower.outputs[0] for layer, lower in lowers.items()})
    return backend.compiled(lambda images: below(images, training=False))


def _by_unit(difference: np.ndarray, slope: np.ndarray) -> dict[str, np.ndarray]:
    """Activation difference, average gradient and attribution, each (image, unit) float64."""
    difference, slope = difference.astype(np.float64), slope.astype(np.float64)
    space = tuple(range(1, difference.ndim - 1))
    return {
        "activation_difference": difference.mean(axis=space) if space else difference,
        "mean_gradient": slope.sum(axis=space),
        "attribution": (difference * slope).sum(axis=space),
    }


def _frame(
    ids: np.ndarray,
    layer: str,
    strengths: Sequence[float],
    units: dict[str, np.ndarray],
    stages: np.ndarray,
    target: int,
) -> pd.DataFrame:
    """Rows in the order of the arrays: strength, then eye, then unit."""
    count = units["attribution"].shape[1]
    return pd.DataFrame(
        {
            "image_id": np.tile(np.repeat(ids, count), len(strengths)),
            "layer": layer,
            "strength": np.repeat(strengths, len(ids) * count),
            "unit": np.tile(np.arange(count), len(ids) * len(strengths)),
            "outcome": np.repeat(stages[:, target].astype(np.float64), count),
            "predicted_stage": np.repeat(stages.argmax(axis=1), count),
            **{name: values.ravel() for name, values in units.items()},
        }
    )
