"""Integrated gradients of any differentiable function: fixed rules, or points that adapt to a
promised gap (METHOD §4).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Shaped

from dr_lib.attribution.evaluator import Evaluator, Path, Refinement
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import QuantityMap, identity_quantities
from dr_lib.attribution.refinement import RefinementResult, adaptive_refinement, fixed_refinement

# Below this difference a quantity is judged against the floor instead: a stage whose probability
# hardly moves would otherwise demand hundreds of points to explain nothing.
FLOOR = 1e-3


@dataclass(frozen=True)
class Attribution:
    """Attribution maps, and numbers that say how exact they are. The quantity axis is missing where
    the function answers (n,).

    values: the attributions, in the quantity's units; they sum to outcome − baseline_outcome but
        for `gap`.
    outcome, baseline_outcome: F(x) and F(x').
    gap: sum of values − (F(x) − F(x')).
    map_error: the relative L1 change of the map when every second of the (final) points is left out
        and its neighbour takes over its weight, that is n against n/2 points; NaN for one point.
    residual: sum over intervals of the absolute residual (adaptive), or |gap| (fixed rule).
    points: gradients spent on the image.
    converged: whether |gap| ≤ tolerance · max(|F(x) − F(x')|, floor) and, when points adapt, the
        root sum of squares of the intervals' residuals is at most `residual_tolerance` of the way
        that F travels along the line, up and down.
    """

    values: Float32[np.ndarray, "image *shape"]
    outcome: Float64[np.ndarray, "image *quantity"]
    baseline_outcome: Float64[np.ndarray, "image *quantity"]
    gap: Float64[np.ndarray, "image *quantity"]
    map_error: Float64[np.ndarray, "image *quantity"]
    residual: Float64[np.ndarray, "image *quantity"]
    points: Int32[np.ndarray, "image *quantity"]
    converged: Bool[np.ndarray, "image *quantity"]


@dataclass(frozen=True)
class ImageAttribution:
    """An image's maps (quantity, …) and their numbers (quantity,), with the intervals behind
    them.
    """

    index: int
    values: np.ndarray
    gap: np.ndarray
    map_error: np.ndarray
    refinement: RefinementResult

    def numbers(self) -> dict[str, np.ndarray]:
        """The image's part of every field of `Attribution` but the maps: (quantity,) each."""
        result = self.refinement
        return {
            "outcome": result.outcome,
            "baseline_outcome": result.baseline_outcome,
            "gap": self.gap,
            "map_error": self.map_error,
            "residual": np.abs(result.residuals).sum(axis=0),
            "points": np.full(len(self.gap), result.gradients, np.int32),
            "converged": result.converged,
        }


@dataclass(frozen=True)
class RefinementMaker:
    """The settings of `integrated_gradients`; called with quantities, a fresh refinement.

    Raises
    ------
    ValueError: for impossible settings, before any work is done.
    """

    points: int
    rule: str = "midpoint"
    tolerance: float | None = None
    max_points: int = 256
    floor: float = FLOOR
    residual_tolerance: float | None = None

    def __post_init__(self) -> None:
        quadrature(self.rule, self.points)
        for name in ("floor", "tolerance", "residual_tolerance"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.tolerance is None:
            return
        if self.rule != "midpoint":
            raise ValueError(
                f"points that adapt start as midpoints: rule must be midpoint, not {self.rule!r};"
                " in a configuration tolerance = 0 leaves the points fixed"
            )
        if self.max_points < self.points:
            raise ValueError(
                f"max_points ({self.max_points}) must be at least points ({self.points})"
            )

    def __call__(self, quantities: QuantityMap) -> Refinement:
        if self.tolerance is None:
            rule = quadrature(self.rule, self.points)
            return fixed_refinement(quantities, *rule, self.floor)
        return adaptive_refinement(
            quantities,
            self.points,
            self.tolerance,
            self.floor,
            self.max_points,
            self.residual_tolerance,
        )


def integrated_gradients(
    function: Callable | Evaluator,
    inputs: Shaped[np.ndarray, "image *shape"],
    baselines: Shaped[np.ndarray, "*baseline"],
    *,
    points: int = 32,
    rule: str = "midpoint",
    tolerance: float | None = None,
    max_points: int = 256,
    batch_size: int = 16,
    multiply_by_inputs: bool = True,
    quantities: QuantityMap | None = None,
    floor: float = FLOOR,
    residual_tolerance: float | None = None,
) -> Attribution:
    """Integrated gradients of each quantity at each input: IG_i = (x_i − x'_i) · ∫ ∂F/∂x_i along
    the straight line (Sundararajan et al. 2017; METHOD §4).

    Parameters
    ----------
    function: differentiable, (n, …) float32 tensor -> (n,) or (n, q) tensor; rows must not
        influence each other. A Keras model is one. An `Evaluator` made of it keeps its compiled
        form from call to call.
    inputs: (n, …). baselines: (n, …), or (…) for all.
    points, rule: of the fixed rule; with a tolerance, `points` is the number to start with, at
        first midpoints.
    tolerance: None for a fixed rule; otherwise refine until |gap| ≤ tolerance · max(|F(x) − F(x')|,
        floor) for every quantity of an image, or `max_points` gradients are spent. Each image is
        refined by itself, whatever shares its batch.
    batch_size: rows of one call of `function`.
    multiply_by_inputs: False gives the average gradients alone.
    quantities: known functions of what `function` answers; without them, the answer itself.
    floor: a quantity that changes by less is judged as if it changed by this much.
    residual_tolerance: residuals of both signs cancel in a gap; this bounds their root sum of
        squares (None: as `tolerance`). The larger, the fewer passes and the coarser the map: at 100
        the gap alone is promised.

    Returns
    -------
    Attribution: maps (n, …) or (n, q, …) float32, in the quantity's units, and their numbers (n,)
        or (n, q).

    Raises
    ------
    ValueError: for no inputs, for shapes that don't match and for impossible settings.

    >>> from keras import ops
    >>> x = np.array([[3.0, 1.0]], np.float32)
    >>> relu_net = lambda x: ops.relu(ops.relu(x[:, 0]) - 1 - ops.relu(x[:, 1]))
    >>> integrated_gradients(relu_net, x, np.zeros(2), points=50).values.round(5)
    array([[ 1.5, -0.5]], dtype=float32)
    """
    inputs, baselines = np.asarray(inputs, np.float32), np.asarray(baselines, np.float32)
    if baselines.shape not in (inputs.shape, inputs.shape[1:]):
        raise ValueError(
            f"baselines must have the inputs' shape {inputs.shape}, or {inputs.shape[1:]}, not"
            f" {baselines.shape}"
        )
    evaluator = function if isinstance(function, Evaluator) else Evaluator(function, batch_size)
    make_refinement = RefinementMaker(
        points, rule, tolerance, max_points, floor, residual_tolerance
    )
    if len(inputs) == 0:
        raise ValueError("there are no inputs to attribute")
    if quantities is None:
        quantities = identity_quantities(evaluator.values(inputs[:1]).shape[1])
    maps = attributions(
        evaluator,
        quantities,
        inputs,
        baselines,
        make_refinement,
        multiply_by_inputs=multiply_by_inputs,
    )
    images = sorted(maps, key=lambda image: image.index)
    rows = [{"values": image.values} | image.numbers() for image in images]
    fields = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if evaluator.squeezed and len(images[0].gap) == 1:
        fields = {name: array[:, 0] for name, array in fields.items()}
    return Attribution(**fields)


def attributions(
    evaluator: Evaluator,
    quantities: QuantityMap | Sequence[QuantityMap],
    inputs: np.ndarray,
    baselines: np.ndarray,
    make_refinement: Callable[[QuantityMap], Refinement],
    *,
    extras: tuple[np.ndarray, ...] = (),
    multiply_by_inputs: bool = True,
) -> Iterator[ImageAttribution]:
    """Each image's attribution as soon as it is done, in the order in which they are done; nothing
    is kept.

    Parameters
    ----------
    quantities: for all images, or a sequence with those of each, all needing equally many backward
        passes.
    inputs: (n, …) float32. baselines: (n, …), or (…) for all.
    extras: further arguments of the evaluator's function, (n, …) each.
    """
    quantities = [quantities] * len(inputs) if isinstance(quantities, QuantityMap) else quantities
    baselines = np.broadcast_to(baselines, inputs.shape)
    paths = (
        Path(
            index,
            baselines[index],
            x - baselines[index],
            make_refinement(quantities[index]),
            len(quantities[index].basis().logit_weights),
            tuple(extra[index] for extra in extras),
        )
        for index, x in enumerate(inputs)
    )
    for path in evaluator.run(paths):
        # The sums of gradients, mixed into those of all quantities.
        mix, result = quantities[path.key].mix().astype(np.float32), path.result
        gradients = np.tensordot(mix, path.sum, axes=1)
        maps = gradients * path.difference
        axes = tuple(range(1, maps.ndim))
        changed = np.tensordot(mix, path.contrast_sum, axes=1) * path.difference
        size, change = (np.abs(m).sum(axis=axes, dtype=np.float64) for m in (maps, changed))
        with np.errstate(invalid="ignore", divide="ignore"):
            map_error = np.where(size > 0, change / size, np.where(change > 0, np.inf, 0.0))
        if result.gradients < 2:
            map_error = np.full_like(size, np.nan)
        gap = maps.sum(axis=axes, dtype=np.float64) - (result.outcome - result.baseline_outcome)
        yield ImageAttribution(
            path.key, maps if multiply_by_inputs else gradients, gap, map_error, result
        )
