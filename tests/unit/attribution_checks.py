"""Whether maps deserve belief: completeness, insertion and deletion, randomised weights, agreement
of two maps.

None of these trusts the engine's own account. The first two ask the model again, the third takes
its knowledge away and looks whether the map notices, the fourth compares two maps with each other.
A "function" here is any callable from a batch of arrays (n, …) to numbers (n,) or (n, quantity):
plain NumPy, a Keras model, or an `Evaluator`, which compiles it once and fills its batches. This
module must not know how maps are made.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import FLOOR
from dr_lib.maps.stats import correlation
from dr_lib.network.graph import calls

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Completeness:
    """How far maps are from explaining the whole change (METHOD §4); no quantity axis where the
    function answers (n,).

    gap: sum of the map − (F(x) − F(x')), in the quantity's units.
    relative: |gap| / max(|F(x) − F(x')|, floor), unitless.
    """

    gap: Float64[np.ndarray, "image *quantity"]
    relative: Float64[np.ndarray, "image *quantity"]


def completeness(
    function: Callable | Evaluator,
    inputs: Float[np.ndarray, "image *shape"],
    baselines: Float[np.ndarray, "*baseline"],
    maps: Float[np.ndarray, "image *map"],
    *,
    floor: float = FLOOR,
    batch_size: int = 16,
) -> Completeness:
    """The completeness gap of every map, with F evaluated anew at both ends: 2n rows.

    maps: (n, …) for a function that answers (n,), (n, quantity, …) for (n, quantity); colour
    channels may be summed.

    >>> x, baseline = np.array([[3.0, 1.0]]), np.zeros(2)
    >>> completeness(lambda x: x[:, 0] * x[:, 1], x, baseline, np.array([[1.5, 1.2]])).gap.round(3)
    array([-0.3])
    """
    after = _outputs(function, inputs, batch_size)
    before = _outputs(function, np.broadcast_to(baselines, inputs.shape), batch_size)
    change = after - before
    gap = maps.reshape(*change.shape, -1).sum(axis=-1, dtype=np.float64) - change
    return Completeness(gap, np.abs(gap) / np.maximum(np.abs(change), floor))


@dataclass(frozen=True)
class MaskingCurves:
    """F while pixels are shown, and while they are taken away, the strongest of the map first
    (Petsiuk et al. 2018).

    share: of the positions shown or taken away, 0 … 1. insertion starts at F(x') and ends at F(x),
    deletion the other way round. The areas under them are means of F over the share, in the
    quantity's units: a good map has a large insertion area and a small deletion area. What is large
    depends on the model; maps of random numbers say.
    """

    share: Float64[np.ndarray, "step"]
    insertion: Float64[np.ndarray, "image *quantity step"]
    deletion: Float64[np.ndarray, "image *quantity step"]
    insertion_area: Float64[np.ndarray, "image *quantity"]
    deletion_area: Float64[np.ndarray, "image *quantity"]


def insertion_deletion(
    function: Callable | Evaluator,
    inputs: Float[np.ndarray, "image *shape"],
    baselines: Float[np.ndarray, "*baseline"],
    maps: Float[np.ndarray, "image *map"],
    *,
    steps: int = 32,
    batch_size: int = 16,
) -> MaskingCurves:
    """Both curves of every map in steps + 1 places: 2 · (steps + 1) rows a map, in one stream of
    full batches.

    A hidden position holds the baseline's value, here half-gray (METHOD §4) where the paper blurs.
    Positions are ranked by signed attribution, the most positive first, ties by lowest flat index.
    maps: (n, *positions) for a function that answers (n,), (n, quantity, *positions) for (n,
    quantity); the positions are the leading axes of an input, so that a map (y, x) hides all colour
    channels together. With several quantities each map is judged by its own quantity.

    Raises ValueError for maps of another shape, maps that are not finite, or steps outside 1 …
    positions.
    """
    baselines = np.broadcast_to(baselines, inputs.shape)
    quantities = _outputs(function, inputs[:1], batch_size).shape[1:]
    axes = maps.ndim - 1 - len(quantities)
    positions = inputs.shape[1 : 1 + axes]
    if axes < 1 or maps.shape != (len(inputs), *quantities, *positions):
        raise ValueError(
            f"maps of shape {maps.shape} do not fit inputs {inputs.shape} and outputs (n,"
            f" {', '.join(map(str, quantities))})"
        )
    if not np.isfinite(maps).all():
        raise ValueError("maps must be finite to be ranked")
    count = int(np.prod(positions))
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be between 1 and the map's {count} positions, not {steps}")
    shown = np.round(np.linspace(0, count, steps + 1)).astype(np.int64)
    flat = maps.reshape(len(inputs), -1, count)
    ranks = np.argsort(np.argsort(-flat, axis=-1, kind="stable"), axis=-1, kind="stable")

    def masked(place: tuple[int, ...]) -> np.ndarray:
        image, quantity, step, deleting = place
        keep = (ranks[image, quantity] < shown[step]) != bool(deleting)
        keep = keep.reshape(*positions, *[1] * (inputs.ndim - 1 - axes))
        return np.where(keep, inputs[image], baselines[image])

    curves = np.empty((len(inputs), flat.shape[1], steps + 1, 2))
    for places in _batches(
        np.ndindex(curves.shape),
        function.batch_size if isinstance(function, Evaluator) else batch_size,
    ):
        found = _outputs(function, np.stack([masked(place) for place in places]), batch_size)
        for row, place in enumerate(places):
            curves[place] = found[row, place[1]] if quantities else found[row]
    insertion, deletion = np.moveaxis(curves.reshape(len(inputs), *quantities, steps + 1, 2), -1, 0)
    share = shown / count
    areas = [np.trapezoid(curve, share, axis=-1) for curve in (insertion, deletion)]
    return MaskingCurves(share, insertion, deletion, *areas)


@dataclass(frozen=True)
class Randomisation:
    """How alike maps stay while a network forgets what it learned, from its top down (Adebayo et
    al. 2018).

    layers: what was shuffled in each step, together with everything above it. correlation,
    absolute_correlation: Spearman's, −1 … 1, between the map of the trained network and of the
    shuffled one; of signed values and of magnitudes; NaN where a map does not vary. Maps that
    depend on what the network knows fall towards 0 at once; those that stay near 1 to the end draw
    the image's edges and would do so for any network.
    """

    layers: tuple[str, ...]
    correlation: Float64[np.ndarray, "step image"]
    absolute_correlation: Float64[np.ndarray, "step image"]


def randomisation(
    model: "keras.Model",
    explain: Callable[[], Float[np.ndarray, "image *map"]],
    *,
    layers: Sequence[str] = (),
    seed: int = 0,
) -> Randomisation:
    """Spearman correlation of `explain()` before and after the model's weights are shuffled, ever
    more from the top down.

    explain: no arguments -> one map an image, made with `model` or anything that shares its
    weights. A compiled
        function reads the weights anew at each call on TensorFlow; on JAX they are part of it, so
        compile within `explain`.
    layers: where to stop in turn, topmost first; each step shuffles the layer itself and all that
    lies above it, also
        where the layer has no weights (a concatenation). Empty: every layer with weights, one by
        one.
    Each array of weights keeps its own numbers in another order, so that no activation dies or
    explodes for its scale alone. The weights are put back, to the bit, also when `explain` fails.

    Raises ValueError for a layer that is not there or stands out of order.
    """
    order = [layer for layer, _, _ in calls(model)][::-1]
    known = {layer.name for layer in order}
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise ValueError(f"the model has no layer {unknown[0]!r}")
    stops = tuple(layers) or tuple(layer.name for layer in order if layer.weights)
    groups = _groups_from_the_top(model, stops)
    random = np.random.default_rng(seed)
    kept = {id(layer): (layer, layer.get_weights()) for layer in order}
    before = explain()
    found = []
    try:
        for names in groups:
            for layer in order:
                if layer.name in names:
                    layer.set_weights(
                        [random.permutation(w.ravel()).reshape(w.shape) for w in kept[id(layer)][1]]
                    )
            after = explain()
            found.append([_rank_correlations(a, b) for a, b in zip(before, after, strict=True)])
    finally:
        for layer, weights in kept.values():
            layer.set_weights(weights)
    correlations = np.array(found, np.float64).reshape(len(stops), len(before), 2)
    return Randomisation(stops, correlations[..., 0], correlations[..., 1])


@dataclass(frozen=True)
class Agreement:
    """How two maps relate: −1 where one is the other's negative (Fig b of METHOD §6), +1 where they
    are alike.

    correlation: Pearson's. rank_correlation: Spearman's. Both NaN where a map does not vary.
    opposed: the share, 0 … 1, of Σ min(|a|, |b|) that lies where the two have opposite signs: which
    part of what both
        maps speak of they see in complementary colours. NaN where no place is of both.
    """

    correlation: float
    rank_correlation: float
    opposed: float


def agreement(
    first: Float[np.ndarray, "*map"],
    second: Float[np.ndarray, "*map"],
    inside: Bool[np.ndarray, "*place"] | None = None,
) -> Agreement:
    """The agreement of two maps of one image over the places `inside` (all by default), such as
    stage 0's and stage 4's.

    Expect a negative sign between stages, and not only for good reasons. Probabilities sum to 1, so
    the maps of all stages sum to 0 at every pixel: two stages that share all the probability have
    correlation −1 whatever they look at, and q exchangeable ones `chance_agreement(q)`. Only what
    is below that tells of lesions seen in complementary colours.

    >>> agreement(np.array([1.0, -2.0, 0.5]), np.array([-1.0, 2.0, -0.5]))
    Agreement(correlation=-1.0, rank_correlation=-1.0, opposed=1.0)
    """
    a, b = (
        np.asarray(values, np.float64)[inside if inside is not None else ...].ravel()
        for values in (first, second)
    )
    both = np.minimum(np.abs(a), np.abs(b))
    opposed = (
        float(both[np.sign(a) * np.sign(b) < 0].sum() / both.sum())
        if both.sum() > 0
        else float("nan")
    )
    return Agreement(correlation(a, b), correlation(*_ranks(a, b)), opposed)


def chance_agreement(quantities: int) -> float:
    """The correlation of any two of so many maps that sum to 0 at every pixel and are otherwise
    alike: −1/(q − 1).

    >>> chance_agreement(5)
    -0.25
    """
    if quantities < 2:
        raise ValueError(f"agreement needs at least 2 quantities, not {quantities}")
    return -1 / (quantities - 1)


def _outputs(function: Callable | Evaluator, x: np.ndarray, batch_size: int) -> np.ndarray:
    """float64 (n,) or (n, quantity)."""
    x = np.asarray(x, np.float32) if isinstance(function, Evaluator) else np.asarray(x)
    if isinstance(function, Evaluator):
        found = np.asarray(function.values(x), np.float64)
        return found[:, 0] if function.squeezed else found
    parts = [
        np.asarray(function(x[start : start + batch_size]), np.float64)
        for start in range(0, len(x), batch_size)
    ]
    return np.concatenate(parts)


def _batches(items: Any, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _groups_from_the_top(model: "keras.Model", stops: Sequence[str]) -> list[set[str]]:
    """For each stop the names of the layers that are it or depend on it, less those of the stops
    before.
    """
    groups, done = [], set()
    for stop in stops:
        if stop in done:
            raise ValueError(
                f"layer {stop!r} lies above one named before it: name the topmost first"
            )
        above, names = set(), set()
        for layer, sources, outputs in calls(model):
            if layer.name == stop or any(id(source) in above for source in sources):
                above |= {id(tensor) for tensor in outputs}
                names.add(layer.name)
        groups.append(names - done)
        done |= names
    return groups


def _rank_correlations(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman's of the values and of their magnitudes."""
    a, b = a.ravel(), b.ravel()
    return correlation(*_ranks(a, b)), correlation(*_ranks(np.abs(a), np.abs(b)))


def _ranks(*arrays: np.ndarray) -> list[np.ndarray]:
    from scipy.stats import rankdata

    return [rankdata(array, nan_policy="propagate") for array in arrays]
