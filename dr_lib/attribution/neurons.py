"""Single neurons and sums of neurons: choosing them, their active regions on pixels, and their
resultant (METHOD §5.2–5.4).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer

from dr_lib.attribution.evaluator import Evaluator, Path
from dr_lib.attribution.integrated import RefinementMaker
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import identity_quantities
from dr_lib.attribution.receptive import cone, receptive_field, window_origin, window_side
from dr_lib.attribution.refinement import live_refinement
from dr_lib.network.graph import rebuilt, rectified

if TYPE_CHECKING:
    import keras

# Neurons at most that share one forward pass where each sees the whole image. More would save
# little: one forward against this many backward passes is near the end of the gain, and where some
# sleep, larger groups are rarely full.
SHARED_NEURONS = 6
# Windows at most in the place of one image of a batch.
WINDOWS_TOGETHER = 64
# Maps of one image summed side by side: 25 MB at 256 px.
SUMMED_NEURONS = 32


@dataclass(frozen=True)
class Regions:
    """Active regions: IG of single neurons on the pixels of their window.

    values: float32, 0 outside the window by construction; of an image its window (y, x, channel),
    of any other input the whole input. origin: the window's upper left pixel (y, x) in the image; 0
    for each axis of another input. gap: sum of values − (h_j(x) − h_j(x')).
    """

    values: Float32[np.ndarray, "image rank *window"]
    origin: Int64[np.ndarray, "image rank axis"]
    gap: Float64[np.ndarray, "image rank"]


def strongest_neurons(
    values: Float[np.ndarray, "*axes"], k: int
) -> tuple[Int64[np.ndarray, "positive ndim"], Int64[np.ndarray, "negative ndim"]]:
    """Indices of the k largest positive and the k most negative entries, strongest first (METHOD
    §5.2).

    Returns
    -------
    positive, negative: int64 (at most k, ndim), ties by lowest flat index. Fewer than k rows where
        fewer entries have that sign; an entry that is 0 has none.

    Raises
    ------
    ValueError: for values that are not finite: their order would mean nothing.

    >>> strongest_neurons(np.array([[0.0, 2.0], [-1.0, 2.0]]), 2)
    (array([[0, 1], [1, 1]]), array([[1, 0]]))
    """
    flat = np.asarray(values).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("values must be finite to be ranked")
    positive, negative = (
        np.stack(np.unravel_index(_first(flat * sign, k), np.shape(values)), axis=1)
        for sign in (1, -1)
    )
    return positive, negative


def _first(flat: np.ndarray, k: int) -> np.ndarray:
    """Flat indices of the at most k largest entries above 0."""
    k = min(k, int((flat > 0).sum()))
    if k == 0:
        return np.zeros(0, np.int64)
    # Partition first: a full sort of 700,000 units takes 50 times longer. Everything tied with the
    # k-th stays in.
    threshold = np.partition(flat, len(flat) - k)[len(flat) - k]
    candidates = np.flatnonzero(flat >= threshold)
    return candidates[np.argsort(-flat[candidates], kind="stable")[:k]]


class NeuronEngine:
    """Active regions of one layer's neurons; keeps its compiled functions, so reuse it for the same
    `lower`.

    `evaluator` runs the network on the whole image or on windows. Neurons whose receptive field
    lies within the image are computed from that alone, by `inner`, where the network allows it
    (`cone`).
    """

    def __init__(self, lower: "keras.Model", batch_size: int = 16) -> None:
        self.field = receptive_field(lower)
        self.unit_shape = lower.outputs[0].shape[1:]
        _, self.input_size, *rest = lower.inputs[0].shape
        square = len(rest) == 2 and rest[0] == self.input_size
        self.side = window_side(lower, self.input_size) if square else self.input_size
        self.whole = self.side == self.input_size
        self.rectified = rectified(lower)
        network = lower if self.whole else rebuilt(lower, self.side)
        self._window_units = network.outputs[0].shape[1:]
        # As many windows as hold about as many pixels as a batch of images, so that small layers
        # fill the cores too.
        together = 1 if self.whole else min((self.input_size // self.side) ** 2, WINDOWS_TOGETHER)
        batch_size *= together
        self.evaluator = Evaluator(_picked(lambda x: network(x, training=False)), batch_size)
        unit = None if self.whole else cone(lower)
        self.inner = None if unit is None else Evaluator(_picked(unit), batch_size)

    def regions(
        self,
        inputs: np.ndarray,
        baselines: np.ndarray,
        neurons: Sequence[np.ndarray],
        make_refinement: RefinementMaker,
    ) -> Regions:
        """See `neuron_regions`."""
        indices = self._checked(neurons, len(inputs))
        nodes = quadrature(make_refinement.rule, make_refinement.points)
        n, k = indices.shape[:2]
        window = inputs.shape[1:] if self.whole else (self.side, self.side, *inputs.shape[3:])
        values = np.zeros((n, k, *window), np.float32)
        # All axes of an input but the channels of an image have a place in it.
        gap, origin = np.zeros((n, k)), np.zeros((n, k, min(inputs.ndim - 1, 2)), np.int64)
        baselines = np.broadcast_to(baselines, inputs.shape)
        adapts = make_refinement.tolerance is not None
        shared = _equal_share(k, SHARED_NEURONS if adapts else SUMMED_NEURONS) if self.whole else 1

        def paths(evaluator: Evaluator) -> Iterator[Path]:
            for image, first in np.ndindex(n, -(-k // shared) if k else 0):
                ranks = np.arange(first * shared, min((first + 1) * shared, k))
                view = self._view(indices[image, ranks])
                if view.evaluator is not evaluator:
                    continue
                origin[image, ranks] = view.origin
                # The last group of an image may be short; the copies keep the compiled shape and
                # are dropped below.
                units = np.pad(view.units.astype(np.int32), (0, shared - len(ranks)), mode="edge")
                x, baseline = inputs[image][view.pixels], baselines[image][view.pixels]
                if adapts:
                    refinement = make_refinement(identity_quantities(shared))
                else:
                    # On its own window a neuron would pay a forward pass of its own for every point
                    # to find it awake, as 89 to 99 % of the strongest neurons' are.
                    skips = self.rectified and self.whole
                    together = _equal_share(shared, SHARED_NEURONS)
                    refinement = live_refinement(len(ranks), together, *nodes, rectified=skips)
                yield Path(
                    (image, ranks, view.laid),
                    baseline,
                    x - baseline,
                    refinement,
                    shared,
                    (units,),
                    contrasted=False,
                )

        for evaluator in filter(None, (self.evaluator, self.inner)):
            for path in evaluator.run(paths(evaluator)):
                image, ranks, laid = path.key
                maps = (path.sum * path.difference)[: len(ranks)]
                for rank, region in zip(ranks, maps, strict=True):
                    values[image, rank][laid] = region
                change = (path.result.outcome - path.result.baseline_outcome)[: len(ranks)]
                axes = tuple(range(1, maps.ndim))
                gap[image, ranks] = maps.sum(axis=axes, dtype=np.float64) - change
        return Regions(values, origin, gap)

    def _checked(self, neurons: Sequence[np.ndarray], images: int) -> np.ndarray:
        """The neurons' indices (image, rank, axis); ValueError if they are none of this layer."""
        if len(neurons) != images or len({len(index) for index in neurons}) != 1:
            raise ValueError(
                "neurons must hold one index array for each input, all of the same length"
            )
        indices = np.stack(neurons).astype(np.int64)
        axes = len(self.unit_shape)
        if indices.shape[-1] != axes or not ((indices >= 0) & (indices < self.unit_shape)).all():
            raise ValueError(
                f"a neuron of this layer is an index into {self.unit_shape}; not all of the given"
                " ones are"
            )
        return indices

    def _view(self, units: np.ndarray) -> "_View":
        """How these units (unit, axis) of an image, which share passes, are computed."""
        if self.whole:
            numbers = np.ravel_multi_index(tuple(units.T), self.unit_shape)
            return _View(self.evaluator, (), numbers, (), 0)
        ((y, x, channel),) = units.tolist()
        top, left = origin = window_origin(self.field, self.side, self.input_size, (y, x))
        seen = self.field.pixels((y, x))
        if self.inner and all(axis.start >= 0 and axis.stop <= self.input_size for axis in seen):
            axes = zip(seen, origin, strict=True)
            laid = tuple(slice(axis.start - first, axis.stop - first) for axis, first in axes)
            return _View(self.inner, seen, np.array([channel]), laid, origin)
        window = np.s_[top : top + self.side, left : left + self.side]
        place = y - top // self.field.stride[0], x - left // self.field.stride[1], channel
        number = np.ravel_multi_index(place, self._window_units)
        return _View(self.evaluator, window, np.array([number]), (), origin)


@dataclass(frozen=True)
class _View:
    """How units that share passes are computed.

    evaluator: runs the network on `pixels` of the image (rows, columns; empty: all).
    units: their flat numbers among that network's units.
    laid: where their maps lie in the region (rows, columns; empty: everywhere).
    origin: the region's first pixel (y, x) in the image.
    """

    evaluator: Evaluator
    pixels: tuple[slice, ...]
    units: np.ndarray
    laid: tuple[slice, ...]
    origin: tuple[int, int] | int


def neuron_regions(
    lower: "keras.Model",
    inputs: Float[np.ndarray, "image *input"],
    baselines: Float[np.ndarray, "*baseline"],
    neurons: Sequence[Integer[np.ndarray, "rank axis"]],
    *,
    points: int = 50,
    batch_size: int = 16,
    **settings: Any,
) -> Regions:
    """The active region of each neuron: IG with F = h_j(x), on the window that holds the neuron's
    receptive field (METHOD §5.3).

    Exact on windows: the numbers are those of the whole image. Where a unit sees the whole image
    the window is the image, and the neurons of an image share forward passes. An input that is no
    image (y, x, channel), such as a vector, is seen whole by every neuron: its region is the whole
    input.

    Parameters
    ----------
    lower: the model below the layer (`split_at`).
    inputs: (n, H, W, C). baselines: the same, or (H, W, C) for all.
    neurons: for each input an index array (k, 3) of (y, x, channel), or (k, 1) for a layer without
        positions; k is the same for all.
    points, settings: `rule`, `tolerance`, `max_points`, `floor` and `residual_tolerance` as in
        `integrated_gradients`, of a single neuron.

    Returns
    -------
    Regions: (n, k, …); in the activation's units.

    Raises
    ------
    ValueError: for indices outside the layer and for impossible numbers.
    """
    return NeuronEngine(lower, batch_size).regions(
        np.asarray(inputs, np.float32),
        np.asarray(baselines, np.float32),
        neurons,
        RefinementMaker(points, **settings),
    )


def _equal_share(count: int, most: int) -> int:
    """How many go into each group where groups of at most `most` hold about equally many."""
    return -(-count // max(-(-count // most), 1))


def resultant(
    regions: Regions, weights: Float[np.ndarray, "image rank"], shape: tuple[int, ...]
) -> Float32[np.ndarray, "image *input"]:
    """The weighted sum of each image's regions, laid where they belong in an image (METHOD §5.4).

    Parameters
    ----------
    weights: (n, k), one of each region. shape: height and width of the image in px; for regions of
        other inputs the input's own, such as (features,).

    Returns
    -------
    float32 (n, height, width, channel).
    """
    n, k, *window = regions.values.shape
    total = np.zeros((n, *shape, *window[len(shape) :]), np.float32)
    for image, rank in np.ndindex(n, k):
        axes = zip(regions.origin[image, rank], window, strict=False)
        laid = tuple(slice(first, first + side) for first, side in axes)
        total[image][laid] += np.float32(weights[image, rank]) * regions.values[image, rank]
    return total


def weighted_sums(lower: "keras.Model") -> Callable[..., Any]:
    """The function whose integrated gradients are a resultant: (n, …) and weights (n, sums, units)
    -> (n, sums), Σ_j weight_j · h_j(x).
    """

    def sums(x: Any, weights: Any) -> Any:
        from keras import ops

        return ops.einsum("nsu,nu->ns", weights, _flat(lower(x, training=False)))

    return sums


def flat_activations(lower: "keras.Model") -> Callable[..., Any]:
    """The function (n, …) -> (n, units): a network's activations, flat as an `Evaluator` wants
    them.
    """
    return lambda x: _flat(lower(x, training=False))


def _picked(network: Callable[[Any], Any]) -> Callable[..., Any]:
    """(n, …) and flat unit numbers (n, k) -> those units' activations (n, k)."""

    def picked(x: Any, units: Any) -> Any:
        from keras import ops

        return ops.take_along_axis(_flat(network(x)), units, axis=1)

    return picked


def _flat(activations: Any) -> Any:
    from keras import ops

    return ops.reshape(activations, (activations.shape[0], -1))
