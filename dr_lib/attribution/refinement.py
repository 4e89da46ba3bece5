"""How the points on one line are chosen: a fixed rule, or a partition refined where its own
residuals are largest.

A plan is a coroutine over scalars (see `evaluator`): pure NumPy, no framework, no maps. The
interval's residual, what it contributes as sampled less the known difference of the quantity, is
known exactly and costs a forward pass, shared by all quantities.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from dr_lib.attribution.evaluator import Ask, Plan, Settle
from dr_lib.attribution.partition import Partition
from dr_lib.attribution.quadrature import halving
from dr_lib.attribution.quantities import Head

# Points of one line whose gradients wait for their final weights: 150 MB for five stages of a 256
# px image. Beyond, those with the smallest residuals are weighted for good, so that memory doesn't
# grow with the points.
OPEN_POINTS = 48


@dataclass(frozen=True)
class PlanResult:
    """What a plan found: F at both ends and, per interval, its edges, its tag, its direction and
    each quantity's residual.

    gradients: backward passes over as many as all quantities of one point take. The intervals of
    every direction are a partition of the line. A fixed rule has no intervals of its own: there it
    is the whole line, without a tag.
    """

    outcome: Float64[np.ndarray, "quantity"]
    baseline_outcome: Float64[np.ndarray, "quantity"]
    gradients: int
    converged: np.ndarray
    edges: Float64[np.ndarray, "interval 2"]
    tags: Float64[np.ndarray, "tag"]
    residuals: Float64[np.ndarray, "interval quantity"]
    directions: Int64[np.ndarray, "tag"] = field(default_factory=lambda: np.zeros(0, int))


def fixed_plan(
    head: Head, alphas: np.ndarray, weights: np.ndarray, tolerance: float, floor: float
) -> Plan:
    """One gradient at every node of a rule, and the two ends; the only residual is that of the
    whole line.
    """
    basis, mix, carrier = head.basis(), head.mix(), head.basis().carrier()
    start, stop = head.values((yield Ask(np.array([0.0, 1.0]))).outputs)
    factors, total = halving(weights), 0.0
    if carrier is None:
        here = (yield Ask(alphas)).outputs
        jacobians = weights[:, None, None] * basis.mean_jacobian(here, here)
        total = (yield Ask(alphas, jacobians, factors)).slopes.sum(axis=0)
    elif not head.probability_weights.any():
        total = (
            yield Ask(alphas, weights[:, None, None] * basis.logit_weights, factors)
        ).slopes.sum(axis=0)
    else:
        # The head's derivative is known only after the pass: keep a few gradients rather than pass
        # twice.
        for first in range(0, len(alphas), OPEN_POINTS):
            rows = slice(first, first + OPEN_POINTS)
            told = yield Ask(alphas[rows], np.repeat(carrier[None], len(alphas[rows]), axis=0))
            jacobians = (
                weights[rows, None, None]
                * basis.mean_jacobian(told.outputs, told.outputs)
                @ np.linalg.pinv(carrier)
            )
            total += np.einsum("kqb,kb->q", jacobians, told.slopes)
            each = np.moveaxis(jacobians, 1, 2).reshape(
                -1, len(basis.logit_weights)
            )  # a row for every gradient
            nodes = first * len(carrier) + np.arange(len(each))
            yield Settle(nodes, each, np.repeat(factors[rows], len(carrier))[:, None] * each)
    residual = mix @ total - (stop - start)
    converged = np.abs(residual) <= tolerance * np.maximum(np.abs(stop - start), floor)
    return PlanResult(
        stop, start, len(alphas), converged, np.array([[0.0, 1.0]]), np.zeros(0), residual[None]
    )


def live_plan(
    neurons: int, together: int, alphas: np.ndarray, weights: np.ndarray, rectified: bool
) -> Plan:
    """A fixed rule for the first `neurons` outputs, each a quantity, `together` of them to a pass.

    rectified: an output that is 0 has gradient 0. Then a forward pass at every node comes first,
    and at each only what is not 0 there is passed back: exact, and cheaper where most neurons sleep
    along most of the line.
    """
    ends = (yield Ask(np.array([0.0, 1.0]))).outputs
    start, stop = ends[:, :neurons]
    live = np.ones((len(alphas), neurons), bool)
    if rectified:
        live = (yield Ask(alphas)).outputs[:, :neurons] != 0
    rows, targets = [], []
    for point, awake in enumerate(live):
        for group in (
            np.split(np.flatnonzero(awake), range(together, awake.sum(), together))
            if awake.any()
            else ()
        ):
            rows.append(point)
            targets.append(np.full(together, -1))
            targets[-1][: len(group)] = group
    total = np.zeros(neurons)
    if rows:
        targets = np.array(targets)
        one_hot = (targets[..., None] == np.arange(ends.shape[1])) * weights[rows, None, None]
        told = yield Ask(alphas[rows], one_hot, targets=targets)
        np.add.at(total, targets[targets >= 0], told.slopes[targets >= 0])
    residual = total - (stop - start)
    return PlanResult(
        stop,
        start,
        int(live.sum()),
        np.ones(neurons, bool),
        np.array([[0.0, 1.0]]),
        np.zeros(0),
        residual[None],
    )


def adaptive_plan(
    head: Head,
    points: int,
    tolerance: float,
    floor: float,
    max_points: int,
    residual_tolerance: float | None = None,
) -> Plan:
    """Equal intervals with their centres as tags; then the worst are cut until every quantity's gap
    holds.

    Each direction in the space of outputs is cut by itself (`partition`). Outputs at the borders
    cost a forward pass each, those at the tags nothing. `residual_tolerance` (None: `tolerance`)
    bounds what may cancel in the gap. Gradients are kept until all tags are known and weighted
    once, so none is run twice; beyond `OPEN_POINTS` the best are weighted for good, pair by pair.
    """
    edges = np.linspace(0, 1, points + 1)
    outputs = (yield Ask(edges)).outputs
    start, stop = head.values(outputs[[0, -1]])
    allowed = tolerance * np.maximum(np.abs(stop - start), floor)
    partition = Partition(
        head.basis(),
        head.mix(),
        tolerance,
        residual_tolerance or tolerance,
        allowed,
        edges,
        outputs,
    )
    tags = (edges[:-1] + edges[1:]) / 2
    # All directions at once: they share the forward pass. Later each asks alone, where it needs
    # more.
    carriers = np.concatenate(
        [partition.carriers(number, tags) for number in range(len(partition.directions))], axis=1
    )
    owners = [np.full(points, number) for number in range(len(partition.directions))]
    while True:
        told = yield Ask(tags, carriers)
        partition.learn_tags(owners, tags, carriers, told.outputs, told.slopes)
        partition.place_borders()
        met = partition.met()
        if met.all() or not partition.finite:
            break
        if partition.open_nodes > OPEN_POINTS * partition.width:
            yield Settle(*partition.settle(OPEN_POINTS * partition.width))
        wanted, places = partition.split(
            met, (max_points * partition.width - partition.nodes) // partition.each
        )
        if not wanted:
            break
        if len(places):
            partition.learn_values(places, (yield Ask(places)).outputs)
        tags, owners = (
            np.array([one.tag for one in wanted]),
            [np.array([one.direction for one in wanted])],
        )
        carriers = np.concatenate(
            [partition.carriers(one.direction, tags[k : k + 1]) for k, one in enumerate(wanted)]
        )
    yield Settle(*partition.settle(0))
    return PlanResult(
        stop,
        start,
        -(-partition.nodes // partition.width),
        met,
        np.concatenate([one.edges for one in partition.directions]),
        np.concatenate([one.tags for one in partition.directions]),
        partition.residuals,
        np.concatenate(
            [np.full(len(one.tags), number) for number, one in enumerate(partition.directions)]
        ),
    )
