"""Single neurons and sums of neurons: choosing them, their active regions on pixels, and their resultant (METHOD §5.2–5.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer

from dr_lib.attribution.evaluator import Evaluator, Line
from dr_lib.attribution.graph import rebuilt, rectified
from dr_lib.attribution.heads import identity_head
from dr_lib.attribution.integrated import plan_maker
from dr_lib.attribution.plans import live_plan
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.receptive import receptive_field, window_origin, window_side

if TYPE_CHECKING:
    import keras

# Neurons that share one forward pass where each sees the whole image. More would save little: one forward against this
# many backward passes is near the end of the gain, and where some sleep, larger groups are rarely full.
SHARED_NEURONS = 5
# Windows at most in the place of one image of a batch.
WINDOWS_TOGETHER = 32
# Maps of one image summed side by side: 25 MB at 256 px.
SUMMED_NEURONS = 32


@dataclass(frozen=True)
class Regions:
    """Active regions: IG of single neurons on the pixels of their window.

    values: float32, 0 outside the window by construction. origin: the window's upper left pixel (y, x) in the image.
    gap: sum of values − (h_j(x) − h_j(x')).
    """

    values: Float32[np.ndarray, "image rank window_y window_x channel"]
    origin: Int64[np.ndarray, "image rank 2"]
    gap: Float64[np.ndarray, "image rank"]


def strongest_neurons(
    values: Float[np.ndarray, "*axes"], k: int
) -> tuple[Int64[np.ndarray, "positive ndim"], Int64[np.ndarray, "negative ndim"]]:
    """Indices of the k largest positive and the k most negative entries, strongest first; ties by lowest flat index.

    Fewer than k rows where fewer entries have that sign; an entry that is 0 has none.

    >>> strongest_neurons(np.array([[0.0, 2.0], [-1.0, 2.0]]), 2)
    (array([[0, 1], [1, 1]]), array([[1, 0]]))

    Raises ValueError for values that are not finite: their order would mean nothing.
    """
    flat = np.asarray(values).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("values must be finite to be ranked")
    return tuple(np.stack(np.unravel_index(_first(flat * sign, k), np.shape(values)), axis=1) for sign in (1, -1))


def _first(flat: np.ndarray, k: int) -> np.ndarray:
    """Flat indices of the at most k largest entries above 0."""
    k = min(k, int((flat > 0).sum()))
    if k == 0:
        return np.zeros(0, np.int64)
    # Partition first: a full sort of 700,000 units takes 50 times longer. Everything tied with the k-th stays in.
    threshold = np.partition(flat, len(flat) - k)[len(flat) - k]
    candidates = np.flatnonzero(flat >= threshold)
    return candidates[np.argsort(-flat[candidates], kind="stable")[:k]]


class NeuronEngine:
    """Active regions of one layer's neurons; keeps its compiled functions, so reuse it for the same `lower`.

    `windows=False` runs every neuron on the whole image: the same numbers, for checking.
    """

    def __init__(self, lower: "keras.Model", batch_size: int = 16, windows: bool = True) -> None:
        self.lower = lower
        self.field = receptive_field(lower)
        self.input_size = int(lower.inputs[0].shape[1])
        square = len(lower.inputs[0].shape) == 4 and lower.inputs[0].shape[1] == lower.inputs[0].shape[2]
        self.side = window_side(lower, self.input_size) if square and windows else self.input_size
        self.whole = self.side == self.input_size
        self.unit_shape = tuple(int(n) for n in lower.outputs[0].shape[1:])
        network = lower if self.whole else rebuilt(lower, self.side)
        self._window_units = tuple(int(n) for n in network.outputs[0].shape[1:])
        self.rectified = rectified(lower)
        # As many windows as hold about as many pixels as a batch of images, so that small layers fill the cores too.
        together = 1 if self.whole else min((self.input_size // self.side) ** 2, WINDOWS_TOGETHER)
        self.evaluator = Evaluator(_picked(network), batch_size * together)

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
            raise ValueError("neurons must hold one index array for each input, all of the same length")
        indices = np.stack(neurons).astype(np.int64)
        if indices.shape[-1] != len(self.unit_shape) or (indices < 0).any() or (indices >= self.unit_shape).any():
            raise ValueError(f"a neuron of this layer is an index into {self.unit_shape}; not all of the given ones are")
        make_plan = plan_maker(points, rule, tolerance, max_points)
        nodes = quadrature(rule, points)
        n, k = indices.shape[:2]
        window = (self.side, self.side) if not self.whole else inputs.shape[1:3]
        values = np.zeros((n, k, *window, *inputs.shape[3:]), np.float32)
        gap, origin = np.zeros((n, k)), np.zeros((n, k, 2), np.int64)
        baselines = np.broadcast_to(baselines, inputs.shape)
        adapts = tolerance is not None
        shared = min(k, SHARED_NEURONS if adapts else SUMMED_NEURONS) if self.whole else 1

        def lines() -> Any:
            for image, first in np.ndindex(n, -(-k // shared) if k else 0):
                ranks = np.arange(first * shared, min((first + 1) * shared, k))
                unit, window = indices[image, ranks], np.s_[:, :]
                if not self.whole:
                    y, x = window_origin(self.field, self.side, self.input_size, tuple(unit[0, :2].tolist()))
                    origin[image, ranks] = y, x
                    window = np.s_[y : y + self.side, x : x + self.side]
                    unit = unit - [[y // self.field.stride[0], x // self.field.stride[1], 0]]
                flat = np.ravel_multi_index(tuple(unit.T), self._window_units).astype(np.int32)
                # The last group of an image may be short; the copies keep the compiled shape and are dropped below.
                flat = np.pad(flat, (0, shared - len(flat)), mode="edge")
                x, baseline = inputs[image][window], baselines[image][window]
                if adapts:
                    plan = make_plan(identity_head(shared))
                else:
                    # On its own window a neuron would pay a forward pass of its own for every point to find it awake, as
                    # 89 to 99 % of the strongest neurons' are.
                    plan = live_plan(len(ranks), min(shared, SHARED_NEURONS), *nodes, rectified=self.rectified and self.whole)
                yield Line((image, ranks), baseline, x - baseline, plan, shared, (flat,), contrasted=False)

        for line in self.evaluator.run(lines()):
            image, ranks = line.key
            maps = (line.sum * line.difference)[: len(ranks)]
            values[image, ranks] = maps
            change = (line.result.outcome - line.result.baseline_outcome)[: len(ranks)]
            gap[image, ranks] = maps.sum(axis=tuple(range(1, maps.ndim)), dtype=np.float64) - change
        return Regions(values, origin, gap)


def neuron_regions(
    lower: "keras.Model",
    inputs: Float[np.ndarray, "image y x channel"],
    baselines: Float[np.ndarray, "*baseline"],
    neurons: Sequence[Integer[np.ndarray, "rank axis"]],
    *,
    points: int = 50,
    rule: str = "midpoint",
    tolerance: float | None = None,
    max_points: int = 256,
    batch_size: int = 16,
) -> Regions:
    """The active region of each neuron: IG with F = h_j(x), on the window that holds the neuron's receptive field.

    lower: the model below the layer (`split_at`). neurons: for each input an index array (k, 3) of (y, x, channel), or
    (k, 1) for a layer without positions; k is the same for all. Exact on windows: the numbers are those of the whole
    image. Where a unit sees the whole image the window is the image, and the neurons of an image share forward passes.

    Raises ValueError for indices outside the layer and for impossible numbers.
    """
    inputs, baselines = np.asarray(inputs, np.float32), np.asarray(baselines, np.float32)
    engine = NeuronEngine(lower, batch_size)
    return engine.regions(inputs, baselines, neurons, points=points, rule=rule, tolerance=tolerance, max_points=max_points)


def resultant(
    regions: Regions, weights: Float[np.ndarray, "image rank"], shape: tuple[int, int]
) -> Float32[np.ndarray, "image y x channel"]:
    """The weighted sum of each image's regions, laid where they belong in an image of `shape` (height, width)."""
    n, k, height, width, channels = regions.values.shape
    total = np.zeros((n, *shape, channels), np.float32)
    for image, rank in np.ndindex(n, k):
        y, x = regions.origin[image, rank]
        total[image, y : y + height, x : x + width] += np.float32(weights[image, rank]) * regions.values[image, rank]
    return total


def weighted_sums(lower: "keras.Model") -> Any:
    """The function whose IG is a resultant: (n, …) and weights (n, sums, units) -> (n, sums), Σ_j weight_j · h_j(x)."""

    def sums(x: Any, weights: Any) -> Any:
        from keras import ops

        h = lower(x, training=False)
        return ops.einsum("nsu,nu->ns", weights, ops.reshape(h, (h.shape[0], -1)))

    return sums


def flat_activations(lower: "keras.Model") -> Any:
    """The function (n, …) -> (n, units): a network's activations, flat as an `Evaluator` wants them."""

    def flat(x: Any) -> Any:
        from keras import ops

        h = lower(x, training=False)
        return ops.reshape(h, (h.shape[0], -1))

    return flat


def _picked(network: "keras.Model") -> Any:
    """(n, …) and flat unit numbers (n, k) -> those units' activations (n, k)."""

    def picked(x: Any, units: Any) -> Any:
        from keras import ops

        h = network(x, training=False)
        return ops.take_along_axis(ops.reshape(h, (h.shape[0], -1)), units, axis=1)

    return picked
