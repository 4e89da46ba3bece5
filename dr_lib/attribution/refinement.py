"""How the points on a path are chosen: by a fixed rule, or by a partition that is refined where its
residuals are largest (METHOD §4).

A refinement is a coroutine over scalars (see `evaluator`): pure NumPy, no framework, no maps. An
interval's residual is what the interval contributes as sampled, less the known difference of the
quantity. It is known exactly and costs a forward pass, shared by all quantities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.evaluator import Refinement, Request
from dr_lib.attribution.partition import Partition
from dr_lib.attribution.quadrature import halving
from dr_lib.attribution.quantities import QuantityMap
from dr_lib.attribution.sums import Commit

# Points of one line whose gradients wait for their final weights: 150 MB for five stages of a 256
# px image. Beyond, those with the smallest residuals are weighted for good, so that memory doesn't
# grow with the points.
OPEN_POINTS = 48
FIXED_TOLERANCE = 0.05


@dataclass(frozen=True)
class RefinementResult:
    """The result of a refinement. A fixed rule has a single interval, the whole line; otherwise
    the intervals of each direction are a partition of the line.

    outcome, baseline_outcome: F(x) and F(x').
    gradients: backward passes over as many as all quantities of a point take.
    converged: (quantity,) whether the gap is within what is allowed.
    residuals: of each interval, one direction's after the other's; none for neurons.
    """

    outcome: Float64[np.ndarray, "quantity"]
    baseline_outcome: Float64[np.ndarray, "quantity"]
    gradients: int
    converged: np.ndarray
    residuals: Float64[np.ndarray, "interval quantity"]


def fixed_refinement(
    quantities: QuantityMap, alphas: np.ndarray, weights: np.ndarray, floor: float
) -> Refinement:
    """A gradient at every node of a rule, and the outputs at the two ends; the only residual is
    that of the whole line.

    Parameters
    ----------
    alphas, weights: (point,) of the rule (`quadrature`).
    floor: the path has converged if |gap| ≤ FIXED_TOLERANCE · max(|F(x) − F(x')|, floor).
    """
    basis, mix = quantities.basis(), quantities.mix()
    constant = basis.constant_cotangents()
    start, stop = quantities.values((yield Request(np.array([0.0, 1.0]))).outputs)
    factors, total = halving(weights), 0.0
    if constant is None or not quantities.probability_weights.any():
        # Without probabilities the derivative is the same everywhere.
        here = np.zeros((len(alphas), basis.logit_weights.shape[1]))
        if constant is None:
            here = (yield Request(alphas)).outputs
        jacobians = weights[:, None, None] * basis.mean_jacobian(here, here)
        total = (yield Request(alphas, jacobians, factors)).slopes.sum(axis=0)
    else:
        # The quantities' derivative is known only after the pass: keep a few gradients rather than
        # pass twice.
        for first in range(0, len(alphas), OPEN_POINTS):
            rows = slice(first, first + OPEN_POINTS)
            cotangents = np.repeat(constant[None], len(alphas[rows]), axis=0)
            values = yield Request(alphas[rows], cotangents)
            jacobians = (
                weights[rows, None, None]
                * basis.mean_jacobian(values.outputs, values.outputs)
                @ np.linalg.pinv(constant)
            )
            total += np.einsum("kqb,kb->q", jacobians, values.slopes)
            # A row for every gradient.
            each = np.moveaxis(jacobians, 1, 2).reshape(-1, len(basis.logit_weights))
            nodes = first * len(constant) + np.arange(len(each))
            yield Commit(nodes, each, np.repeat(factors[rows], len(constant))[:, None] * each)
    residual = mix @ total - (stop - start)
    converged = np.abs(residual) <= FIXED_TOLERANCE * np.maximum(np.abs(stop - start), floor)
    return RefinementResult(stop, start, len(alphas), converged, residual[None])


def unchecked_refinement(alphas: np.ndarray, weights: np.ndarray) -> Refinement:
    """The first output's gradient at every node of a rule, without the outputs at the ends, which
    only tell how exact the sum is.
    """
    yield Request(alphas, weights[:, None, None], contrast=np.zeros(len(alphas)))


def live_refinement(
    neurons: int, together: int, alphas: np.ndarray, weights: np.ndarray, rectified: bool
) -> Refinement:
    """A fixed rule for the first `neurons` outputs, each a quantity, `together` of them to a pass.

    Parameters
    ----------
    alphas, weights: (point,) of the rule (`quadrature`).
    rectified: an output that is 0 has gradient 0. Then a forward pass at every node comes first,
        and at each only what is not 0 there is passed back: exact, and cheaper where most neurons
        are 0 along most of the line.
    """
    ends = (yield Request(np.array([0.0, 1.0]))).outputs
    start, stop = ends[:, :neurons]
    live = np.ones((len(alphas), neurons), bool)
    if rectified:
        live = (yield Request(alphas)).outputs[:, :neurons] != 0
    rows, targets = [], []
    for point, awake in enumerate(live):
        numbers = np.flatnonzero(awake)
        for first in range(0, len(numbers), together):
            group = numbers[first : first + together]
            rows.append(point)
            targets.append(np.pad(group, (0, together - len(group)), constant_values=-1))
    if rows:
        targets = np.array(targets)
        one_hot = (targets[..., None] == np.arange(ends.shape[1])) * weights[rows, None, None]
        yield Request(alphas[rows], one_hot, targets=targets)
    unjudged = np.zeros((0, neurons))
    return RefinementResult(stop, start, int(live.sum()), np.ones(neurons, bool), unjudged)


def adaptive_refinement(
    quantities: QuantityMap,
    points: int,
    tolerance: float,
    floor: float,
    max_points: int,
    residual_tolerance: float | None = None,
) -> Refinement:
    """Equal intervals with their centres as tags; then the worst are cut until every quantity's gap
    holds.

    Each direction in the space of outputs is cut by itself (`partition`). Outputs at the borders
    cost a forward pass each, those at the tags nothing. `residual_tolerance` (None: `tolerance`)
    bounds what may cancel in the gap. Gradients are kept until all tags are known and weighted
    once, so none is run twice; beyond `OPEN_POINTS` the best are weighted for good, pair by pair.
    """
    edges = np.linspace(0, 1, points + 1)
    outputs = (yield Request(edges)).outputs
    start, stop = quantities.values(outputs[[0, -1]])
    allowed = tolerance * np.maximum(np.abs(stop - start), floor)
    partition = Partition(
        quantities,
        tolerance,
        residual_tolerance or tolerance,
        allowed,
        edges,
        outputs,
    )
    tags = (edges[:-1] + edges[1:]) / 2
    # All directions at once: they share the forward pass. Later each asks alone, where it needs
    # more.
    owners = np.tile(range(len(partition.directions)), (points, 1))
    while True:
        cotangents = partition.cotangents(owners, tags)
        values = yield Request(tags, cotangents)
        partition.learn_tags(owners, tags, cotangents, values.outputs, values.slopes)
        partition.place_borders()
        met = partition.met()
        if met.all() or not partition.finite:
            break
        if partition.open_nodes > OPEN_POINTS * partition.width:
            yield partition.commit(OPEN_POINTS * partition.width)
        owners, tags, places = partition.split(
            met, (max_points * partition.width - partition.nodes) // partition.each
        )
        if not len(tags):
            break
        if len(places):
            partition.learn_values(places, (yield Request(places)).outputs)
    yield partition.commit(0)
    gradients = -(-partition.nodes // partition.width)
    return RefinementResult(stop, start, gradients, met, partition.residuals)
