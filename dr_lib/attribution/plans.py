"""How the points on one line are chosen: a fixed rule, or a partition refined where its own residuals are largest.

A plan is a coroutine over scalars (see `evaluator`): pure NumPy, no framework, no maps. The interval's residual,
what it contributes as sampled less the known difference of the quantity, is known exactly and costs a forward pass,
shared by all quantities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.evaluator import Ask, Plan, Settle
from dr_lib.attribution.heads import Head
from dr_lib.attribution.partition import Partition
from dr_lib.attribution.quadrature import halving

# Gradients of one line that wait for their final weights: 150 MB for five stages of a 256 px image. Beyond, those with
# the smallest residuals are weighted for good, so that memory doesn't grow with the points.
OPEN_POINTS = 48


@dataclass(frozen=True)
class PlanResult:
    """What a plan found: F at both ends and, per interval, its edges, its tag and each quantity's residual.

    A fixed rule has no intervals of its own: there it is the whole line, without a tag.
    """

    outcome: Float64[np.ndarray, "quantity"]
    baseline_outcome: Float64[np.ndarray, "quantity"]
    gradients: int
    converged: np.ndarray
    edges: Float64[np.ndarray, "interval 2"]
    tags: Float64[np.ndarray, "tag"]
    residuals: Float64[np.ndarray, "interval quantity"]


def fixed_plan(head: Head, alphas: np.ndarray, weights: np.ndarray, tolerance: float, floor: float) -> Plan:
    """One gradient at every node of a rule, and the two ends; the only residual is that of the whole line."""
    basis, mix, carrier = head.basis(), head.mix(), head.basis().carrier()
    start, stop = head.values((yield Ask(np.array([0.0, 1.0]))).outputs)
    factors, total = halving(weights), 0.0
    if carrier is None:
        here = (yield Ask(alphas)).outputs
        jacobians = weights[:, None, None] * basis.mean_jacobian(here, here)
        total = (yield Ask(alphas, jacobians, factors)).slopes.sum(axis=0)
    elif not head.probability_weights.any():
        total = (yield Ask(alphas, weights[:, None, None] * basis.logit_weights, factors)).slopes.sum(axis=0)
    else:
        # The head's derivative is known only after the pass: keep a few gradients rather than pass twice.
        for first in range(0, len(alphas), OPEN_POINTS):
            rows = slice(first, first + OPEN_POINTS)
            told = yield Ask(alphas[rows], np.repeat(carrier[None], len(alphas[rows]), axis=0))
            jacobians = weights[rows, None, None] * basis.mean_jacobian(told.outputs, told.outputs) @ np.linalg.pinv(carrier)
            yield Settle(first + np.arange(len(jacobians)), jacobians, factors[rows, None, None] * jacobians)
            total += np.einsum("kqb,kb->q", jacobians, told.slopes)
    residual = mix @ total - (stop - start)
    converged = np.abs(residual) <= tolerance * np.maximum(np.abs(stop - start), floor)
    return PlanResult(stop, start, len(alphas), converged, np.array([[0.0, 1.0]]), np.zeros(0), residual[None])


def live_plan(neurons: int, together: int, alphas: np.ndarray, weights: np.ndarray, rectified: bool) -> Plan:
    """A fixed rule for the first `neurons` outputs, each a quantity, `together` of them to a pass.

    rectified: an output that is 0 has gradient 0. Then a forward pass at every node comes first, and at each only what
    is not 0 there is passed back: exact, and cheaper where most neurons sleep along most of the line.
    """
    ends = (yield Ask(np.array([0.0, 1.0]))).outputs
    start, stop = ends[:, :neurons]
    live = np.ones((len(alphas), neurons), bool)
    if rectified:
        live = (yield Ask(alphas)).outputs[:, :neurons] != 0
    rows, targets = [], []
    for point, awake in enumerate(live):
        for group in np.split(np.flatnonzero(awake), range(together, awake.sum(), together)) if awake.any() else ():
            rows.append(point)
            targets.append(np.pad(group, (0, together - len(group)), constant_values=-1))
    total = np.zeros(neurons)
    if rows:
        targets = np.array(targets)
        one_hot = (targets[..., None] == np.arange(ends.shape[1])) * weights[rows, None, None]
        told = yield Ask(alphas[rows], one_hot, targets=targets)
        np.add.at(total, targets[targets >= 0], told.slopes[targets >= 0])
    residual = total - (stop - start)
    return PlanResult(stop, start, int(live.sum()), np.ones(neurons, bool), np.array([[0.0, 1.0]]), np.zeros(0), residual[None])


def adaptive_plan(head: Head, points: int, tolerance: float, floor: float, max_points: int) -> Plan:
    """Equal intervals with their centres as tags; then the worst are cut until every quantity's gap holds.

    Outputs at the borders cost a forward pass each, those at the tags nothing. Gradients are kept until all tags are
    known and weighted once, so none is run twice; beyond `OPEN_POINTS` the best are weighted for good, pair by pair.
    """
    edges = np.linspace(0, 1, points + 1)
    outputs = (yield Ask(edges)).outputs
    start, stop = head.values(outputs[[0, -1]])
    allowed = tolerance * np.maximum(np.abs(stop - start), floor)
    partition = Partition(head.basis(), head.mix(), tolerance, allowed)
    partition.learn_values(edges, outputs)
    tags = (edges[:-1] + edges[1:]) / 2
    while True:
        carriers = partition.carriers(tags)
        told = yield Ask(tags, carriers)
        partition.learn_tags(tags, carriers, told.outputs, told.slopes)
        partition.place_borders()
        met = partition.met()
        if met.all() or not partition.finite:
            break
        if (~partition.settled).sum() > OPEN_POINTS:
            yield Settle(*partition.settle(OPEN_POINTS))
        tags, places = partition.split(met, max_points - len(partition.tags))
        if not len(tags):
            break
        partition.learn_values(places, (yield Ask(places)).outputs)
    yield Settle(*partition.settle(0))
    return PlanResult(stop, start, len(partition.tags), met, partition.edges, partition.tags, partition.residuals)
