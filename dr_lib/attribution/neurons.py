"""Single neurons and sums of neurons: choosing them, their active regions on pixels, and their
resultant (METHOD §5.2–5.4).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer

from dr_lib.attribution.cone import cone
from dr_lib.attribution.evaluator import Evaluator, Path
from dr_lib.attribution.integrated import refinement_maker
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import identity_quantities
from dr_lib.attribution.receptive import receptive_field, window_origin, window_side
from dr_lib.attribution.refinement import live_refinement
from dr_lib.network.graph import rebuilt, rectified

if TYPE_CHECKING:
    import keras

# Neurons that share one forward pass where each sees the whole image. More would save little: one
# forward against this many backward passes is near the end of the gain, and where some sleep,
# larger groups are rarely full.
SHARED_NEURONS = 5
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
    (`cone`). `windows=False` runs every neuron on the whole image: the same numbers, for checking.
    """

    def __init__(self, lower: "keras.Model", batch_size: int = 16, windows: bool = True) -> None:
        self.lower = lower
        self.field = receptive_field(lower)
        self.input_size = int(lower.inputs[0].shape[1])
        square = (
            len(lower.inputs[0].shape) == 4 and lower.inputs[0].shape[1] == lower.inputs[0].shape[2]
        )
        self.side = window_side(lower, self.input_size) if square and windows else self.input_size
        self.whole = self.side == self.input_size
        self.unit_shape = tuple(int(n) for n in lower.outputs[0].shape[1:])
        network = lower if self.whole else rebuilt(lower, self.side)
        self._window_units = tuple(int(n) for n in network.outputs[0].shape[1:])
        self.rectified = rectified(lower)
        # As many windows as hold about as many pixels as a batch of images, so that small layers
        # fill the cores too.
        together = 1 if self.whole else min((self.input_size // self.side) ** 2, WINDOWS_TOGETHER)
        self.evaluator = Evaluator(
            _picked(lambda x: network(x, training=False)), batch_size * together
        )
        unit = None if self.whole else cone(lower)
        self.inner = None if unit is None else Evaluator(_picked(unit), batch_size * together)

    def regions(
        self,
        inputs: np.ndarray,
        baselines: np.ndarray,
        neurons: Sequence[np.ndarray],
        *,
        points: int = 50,
        rule: str = "midpoint",
        tolerance: float | None = None,
        max_points: int = 256,
    ) -> Regions:
        """See `neuron_regions`."""
        ranks = {len(index) for index in neurons}
        if len(neurons) != len(inputs) or len(ranks) != 1:
            raise ValueError(
                "neurons must hold one index array for each input, all of the same length"
            )
        indices = np.stack(neurons).astype(np.int64)
        if (
            indices.shape[-1] != len(self.unit_shape)
            or (indices < 0).any()
            or (indices >= self.unit_shape).any()
        ):
            raise ValueError(
                f"a neuron of this layer is an index into {self.unit_shape}; not all of the given"
                " ones are"
            )
        make_refinement = refinement_maker(points, rule, tolerance, max_points)
        nodes = quadrature(rule, points)
        n, k = indices.shape[:2]
        window = inputs.shape[1:] if self.whole else (self.side, self.side, *inputs.shape[3:])
        values = np.zeros((n, k, *window), np.float32)
        # All axes of an input but the channels of an image have a place in it.
        gap, origin = np.zeros((n, k)), np.zeros((n, k, min(inputs.ndim - 1, 2)), np.int64)
        baselines = np.broadcast_to(baselines, inputs.shape)
        adapts = tolerance is not None
        shared = min(k, SHARED_NEURONS if adapts else SUMMED_NEURONS) if self.whole else 1

        def paths(evaluator: Evaluator) -> Iterator[Path]:
            for image, first in np.ndindex(n, -(-k // shared) if k else 0):
                ranks = np.arange(first * shared, min((first + 1) * shared, k))
                view = self._view(indices[image, ranks])
                if view.evaluator is not evaluator:
                    continue
                origin[image, ranks] = view.origin
                # The last group of an image may be short; the copies keep the compiled shape and
                # are dropped below.
                places = np.pad(view.places.astype(np.int32), (0, shared - len(ranks)), mode="edge")
                x, baseline = inputs[image][view.pixels], baselines[image][view.pixels]
                if adapts:
                    refinement = make_refinement(identity_quantities(shared))
                else:
                    # On its own window a neuron would pay a forward pass of its own for every point
                    # to find it awake, as 89 to 99 % of the strongest neurons' are.
                    refinement = live_refinement(
                        len(ranks),
                        min(shared, SHARED_NEURONS),
                        *nodes,
                        rectified=self.rectified and self.whole,
                    )
                yield Path(
                    (image, ranks, view.laid),
                    baseline,
                    x - baseline,
                    refinement,
                    shared,
                    (places,),
                    contrasted=False,
                )

        for evaluator in filter(None, (self.evaluator, self.inner)):
            for path in evaluator.run(paths(evaluator)):
                image, ranks, laid = path.key
                maps = (path.sum * path.difference)[: len(ranks)]
                for rank, region in zip(ranks, maps, strict=True):
                    values[image, rank][laid] = region
                change = (path.result.outcome - path.result.baseline_outcome)[: len(ranks)]
                gap[image, ranks] = (
                    maps.sum(axis=tuple(range(1, maps.ndim)), dtype=np.float64) - change
                )
        return Regions(values, origin, gap)

    def _view(self, units: np.ndarray) -> "_View":
        everything = ()
        if self.whole:
            return _View(
                self.evaluator,
                everything,
                np.ravel_multi_index(tuple(units.T), self.unit_shape),
                everything,
                0,
            )
        ((y, x, channel),) = units.tolist()
        top, left = origin = window_origin(self.field, self.side, self.input_size, (y, x))
        rows, columns = seen = self.field.pixels((y, x))
        if (
            self.inner
            and min(rows.start, columns.start) >= 0
            and max(rows.stop, columns.stop) <= self.input_size
        ):
            laid = (
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            return _View(self.inner, seen, np.array([channel]), laid, origin)
        place = (y - top // self.field.stride[0], x - left // self.field.stride[1], channel)
        window = np.s_[top : top + self.side, left : left + self.side]
        places = np.ravel_multi_index(tuple([axis] for axis in place), self._window_units)
        return _View(self.evaluator, window, places, everything, origin)


@dataclass(frozen=True)
class _View:
    """How units that share passes are computed: by `evaluator` from `pixels` of the image (rows,
    columns; empty: all), at the flat `places` of its network's units. Their maps are `laid` on the
    region, whose first pixel is the image's `origin`.
    """

    evaluator: Evaluator
    pixels: tuple[slice, ...]
    places: np.ndarray
    laid: tuple[slice, ...]
    origin: tuple[int, int] | int


def neuron_regions(
    lower: "keras.Model",
    inputs: Float[np.ndarray, "image *input"],
    baselines: Float[np.ndarray, "*baseline"],
    neurons: Sequence[Integer[np.ndarray, "rank axis"]],
    *,
    points: int = 50,
    rule: str = "midpoint",
    tolerance: float | None = None,
    max_points: int = 256,
    batch_size: int = 16,
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
    points, rule, tolerance, max_points: as in `integrated_gradients`, of a single neuron.

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
        points=points,
        rule=rule,
        tolerance=tolerance,
        max_points=max_points,
    )


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
        place = zip(regions.origin[image, rank], window, strict=False)
        laid = tuple(slice(first, first + side) for first, side in place)
        total[image][laid] += np.float32(weights[image, rank]) * regions.values[image, rank]
    return total


def weighted_sums(lower: "keras.Model") -> Callable[..., Any]:
    """The function whose IG is a resultant: (n, …) and weights (n, sums, units) -> (n, sums),
    Σ_j weight_j · h_j(x).
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
