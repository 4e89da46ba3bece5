"""Units of a layer along adversarial examples of growing strength (activation difference, mean
gradient, attribution), and special units one by one: which stages a unit argues for, what the
outcome is without it, which pixels drive it (METHOD §8).

A unit of a dense layer is a number, one of a convolutional layer a channel: all its positions
together.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval
from jaxtyping import Bool, Float, Float32, Float64, Int

from dr_lib.attribution import integrated_gradients, stage_quantities
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import RefinementMaker, attributions
from dr_lib.attribution.neurons import flat_activations
from dr_lib.attribution.quantities import identity_quantities, softmax
from dr_lib.network import backend
from dr_lib.network.layers import logits_model
from dr_lib.perturbation.adversarial import Gradient, Norm, ascent
from dr_lib.perturbation.strength_search import LEGAL
from dr_lib.settings import (
    Limit,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    Stage,
)
from dr_lib.vocabulary import STAGE_QUANTITIES


@dataclass(frozen=True)
class LinearityParams(Settings):
    """Which layers, which strengths, how finely averaged, and the thresholds of a unit's
    verdict.
    """

    layers: tuple[str, ...] = ("fc1", "fc2", "pooled", "mixed2")
    target_stage: Stage = 1
    norm: Norm = "linf"
    smallest_strength: PositiveFloat = 2.0**-12  # far below one 8-bit level, 2⁻⁷
    strengths: PositiveInt = 12  # from the smallest, growing by `growth`; strength 0 is added
    growth: Annotated[float, Interval(gt=1), "strengths grow"] = 2.0
    points: PositiveInt = 64  # of the average gradient's quadrature
    conv_points: PositiveInt = (
        16  # the same in a convolutional layer, above which most of the network may lie
    )
    inside_only: bool = True
    limit: Limit = 32  # eyes; 0: all
    batch_size: PositiveInt = 4
    dead_share: Share = (
        1e-6  # a unit whose attribution never exceeds this share of the layer's largest is dead
    )
    constant_share: Share = (
        0.05  # activation moves by less than this share of its largest difference: constant
    )
    reversed_correlation: Share = (
        0.5  # attribution and outcome correlate below minus this: reversed
    )
    gradient_bound: Share = (
        0.2  # linear: the average gradient's coefficient of variation stays within this …
    )
    # … and attribution is a line through 0 of the activation difference with at least this R²
    least_r2: Share = 0.9
    # constant or reversed units of a layer that are looked at one by one, the largest first; 0:
    # none
    special_units: NonNegativeInt = 8
    special_eyes: PositiveInt = 3  # eyes of which a special unit's region is kept
    region_points: PositiveInt = 32  # midpoints of such a region

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths, 0 (the original) first.

        >>> LinearityParams(smallest_strength=0.25, strengths=3).grid
        (0.0, 0.25, 0.5, 1.0)
        """
        return (0.0, *(self.smallest_strength * self.growth**k for k in range(self.strengths)))


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
    slopes = gradient(inputs, params.target_stage)
    finite = np.isfinite(slopes).all(axis=(1, 2, 3))
    if not finite.any():
        return pd.DataFrame({name: [] for name in COLUMNS})
    inputs, ids = inputs[finite], np.asarray(image_ids, object)[finite]
    direction = ascent(
        np.where(inside[..., None], slopes[finite], 0).astype(inputs.dtype),
        params.norm,
    )

    seen: dict[str, list[np.ndarray]] = {layer: [] for layer in uppers}
    for strength in params.grid:
        examples = np.clip(inputs + np.float32(strength) * direction, *LEGAL).astype(inputs.dtype)
        for batch in _batches(examples, params.batch_size):
            activations = lower(batch)
            for layer, kept in seen.items():
                kept.append(np.asarray(activations[layer]))
    start = lower(baseline[None])
    frames = []
    for layer, upper in uppers.items():
        activations, origin = np.concatenate(seen.pop(layer)), np.asarray(start[layer])[0]
        stages = np.concatenate(
            [np.asarray(upper(batch)) for batch in _batches(activations, params.batch_size)]
        )
        slope = np.asarray(average_gradient(upper, params.target_stage, activations, origin))
        frames.append(_frame(ids, layer, activations - origin, slope, stages, params))
    return pd.concat(frames, ignore_index=True)


def engine_average_gradient(params: LinearityParams) -> AverageGradient:
    """∫ ∂F/∂h over the straight line, by the project's own integrated gradients with
    `params.points` midpoints.

    `upper` must be a Keras model that ends in a softmax: its derivative is integrated in closed
    form between the points, so that a saturated outcome does not show up as a gradient that varies.
    Each upper model is compiled once.
    """
    above = functools.cache(lambda upper: _Above(upper, params))

    def average(upper: Model, stage: int, inputs: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        values = above(upper).maps(inputs, baseline, (f"stage{stage}",), multiply_by_inputs=False)
        return values[:, 0]

    return average


def _batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows in order, at most `batch_size` at a time."""
    return np.split(rows, range(batch_size, len(rows), batch_size))


class _Above:
    """The logits of a Keras model above a layer: compiled once, in batches that suit its units."""

    def __init__(self, upper: Any, params: LinearityParams) -> None:
        flat = len(upper.inputs[0].shape) == 2
        self.points = params.points if flat else params.conv_points
        batch_size = UNITS_AT_ONCE if flat else params.batch_size
        self.evaluator = Evaluator(flat_activations(logits_model(upper)), batch_size)

    def maps(
        self,
        activations: np.ndarray,
        baseline: np.ndarray,
        quantities: tuple[str, ...],
        *,
        multiply_by_inputs: bool = True,
    ) -> Float[np.ndarray, "image quantity *unit"]:
        """Integrated gradients of the quantities by the layer's units."""
        return integrated_gradients(
            self.evaluator,
            activations,
            baseline,
            points=self.points,
            multiply_by_inputs=multiply_by_inputs,
            quantities=stage_quantities(quantities),
        ).values

    def probabilities(self, activations: np.ndarray) -> np.ndarray:
        """The stages' probabilities."""
        return softmax(self.evaluator.values(activations))


def trunk(lowers: Mapping[str, Any]) -> Callable[[np.ndarray], Mapping[str, Any]]:
    """One compiled function for the activations of every layer, of Keras models on one input, as
    `dr_lib.attribution.split_at` gives them: what lies below several layers is computed once.
    """
    import keras

    first = next(iter(lowers.values())).inputs[0]
    below = keras.Model(first, {layer: lower.outputs[0] for layer, lower in lowers.items()})
    return backend.compiled(lambda images: below(images, training=False))


def _frame(
    ids: np.ndarray,
    layer: str,
    difference: np.ndarray,
    slope: np.ndarray,
    stages: np.ndarray,
    params: LinearityParams,
) -> pd.DataFrame:
    """Rows in the order of the arrays (example, …, unit): strength, then eye, then unit."""
    difference, slope = difference.astype(np.float64), slope.astype(np.float64)
    examples, *_, count = difference.shape
    space = tuple(range(1, difference.ndim - 1))
    outcome = stages[:, params.target_stage].astype(np.float64)
    return pd.DataFrame(
        {
            "image_id": np.tile(np.repeat(ids, count), len(params.grid)),
            "layer": layer,
            "strength": np.repeat(params.grid, len(ids) * count),
            "unit": np.tile(np.arange(count), examples),
            "outcome": np.repeat(outcome, count),
            "predicted_stage": np.repeat(stages.argmax(axis=1), count),
            "activation_difference": difference.mean(axis=space).ravel(),
            "mean_gradient": slope.sum(axis=space).ravel(),
            "attribution": (difference * slope).sum(axis=space).ravel(),
        }
    )


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
    above = _Above(upper, params)
    maps = above.maps(activations, baseline, STAGE_QUANTITIES).astype(np.float64)
    argues = maps.sum(axis=tuple(range(2, maps.ndim - 1)))  # (image, stage, unit)
    difference = (activations - baseline).astype(np.float64)
    difference = difference.mean(axis=tuple(range(1, difference.ndim - 1)))
    units = np.array([*verdicts], int)
    whole, effects = baseline_effect(above.probabilities, activations, baseline, units)
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
    weights = np.zeros(tuple(unit_shape), np.float32)
    weights[..., unit] = 1 / np.prod(unit_shape[:-1], initial=1)
    (region,) = attributions(
        sums,
        identity_quantities(1),
        image[None],
        baseline,
        RefinementMaker(params.region_points),
        extras=(weights.reshape(1, 1, -1),),
    )
    return region.values[0].sum(axis=-1)
