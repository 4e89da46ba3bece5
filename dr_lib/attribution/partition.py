"""Partitions of the line [0, 1] into intervals with one sampled point ("tag") each, and how well
each tag stands for its own.

The integral over an interval is taken as J · ∇u(tag), where u are the network's outputs and J is
the head's derivative integrated over the interval along the known outputs: a Riemann sum whose tags
need not be centres. Every direction in the space of outputs has a partition of its own, since some
count for little: where three stages hardly move, one direction of four decides and gets the tags.
Where borders lie is open as long as each tag stays inside its interval, so a border moves to where
both neighbours' residuals (what the interval contributes as sampled, less the known difference of
the quantity) are small. Weights are widths: positive, and 1 in sum. Pure NumPy on scalars; no maps,
no network.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.quantities import Head

# How much the intervals' own residuals and a border's distance from the middle count beside the gap
# when borders are chosen. Measured: from 0.1 to 1 nothing changes; without them the gap would be
# met by chance alone.
OWN_RESIDUAL = 0.5
OFF_CENTRE = 0.1
SWEEPS = 10
# An interval narrower than this has no two different points left in float32.
NARROWEST = 1e-5


@dataclass(frozen=True)
class Wanted:
    """A gradient to be taken: the direction whose partition it is for (its number), and its
    place.
    """

    direction: int
    tag: float


class Direction:
    """One partition: tags with what was sampled there, and the borders between them.

    vector: the direction in the space of outputs, of unit length; None where every tag has carriers
    of its own, which then stand for all directions together.
    """

    def __init__(
        self, vector: np.ndarray | None, outputs: int, carriers: int, quantities: int
    ) -> None:
        self.vector = vector
        self.projector = np.eye(outputs) if vector is None else np.outer(vector, vector)
        self.tags, self.nodes, self.settled = (
            np.zeros(0),
            np.zeros((0, carriers), int),
            np.zeros(0, bool),
        )
        self.inverses, self.velocities = np.zeros((0, outputs, carriers)), np.zeros((0, outputs))
        # A settled tag's interval and what it contributes, which can't change any more, whatever is
        # learnt of the outputs within.
        self.bounds, self.fixed = np.zeros((0, 2)), np.zeros((0, quantities))
        self.borders, self.chosen = (
            np.zeros(0),
            np.zeros(0, int),
        )  # as places on the line and as their numbers
        self.residuals = np.zeros((0, 0))

    def learn(
        self, tags: np.ndarray, carriers: np.ndarray, slopes: np.ndarray, nodes: np.ndarray
    ) -> None:
        inverses = np.linalg.pinv(np.where(np.isfinite(carriers), carriers, 0))
        order = np.argsort(np.concatenate([self.tags, tags]), kind="stable")
        for name, new in {
            "tags": tags,
            "nodes": nodes,
            "settled": np.zeros(len(tags), bool),
            "bounds": np.full((len(tags), 2), np.nan),
            "fixed": np.full((len(tags), self.fixed.shape[1]), np.nan),
            "inverses": inverses,
            "velocities": np.einsum("kob,kb->ko", inverses, slopes),
        }.items():
            setattr(self, name, np.concatenate([getattr(self, name), new])[order])

    @property
    def edges(self) -> Float64[np.ndarray, "tag 2"]:
        return np.stack([self.borders[:-1], self.borders[1:]], axis=1)


class Partition:
    """Places on [0, 1] where the outputs are known, and a partition for each direction; quantities
    are those of `mix`.

    allowed (quantity,): what the gap may be, and `tolerance` the same relative to F(x) − F(x');
    these place the borders. residual_tolerance: only for `met`, what the root sum of squares of the
    residuals may be, relative to the way that a quantity travels along the line, up and down: the
    gap that they would give if their signs were random. A gap that holds without it may do so
    because large residuals of both signs cancel.
    """

    def __init__(
        self,
        basis: Head,
        mix: np.ndarray,
        tolerance: float,
        residual_tolerance: float,
        allowed: np.ndarray,
        places: np.ndarray,
        outputs: np.ndarray,
    ) -> None:
        self.basis, self.mix, self.allowed = basis, mix, allowed
        self.tolerance, self.residual_tolerance = tolerance, residual_tolerance
        self.places, self.outputs = np.zeros(0), np.zeros((0, outputs.shape[1]))
        self.nodes = 0  # gradients taken so far: backward passes
        self.directions: list[Direction] = []
        self.learn_values(places, outputs)
        vectors = self._principal(basis.carrier())
        # Backward passes for a tag in every direction, and for one in a single direction.
        self.width = len(basis.probability_weights) if vectors is None else len(vectors)
        self.each = self.width if vectors is None else 1
        for vector in [None] if vectors is None else vectors:
            self.directions.append(Direction(vector, outputs.shape[1], self.each, len(mix)))
        self._integrate()

    def learn_values(self, places: np.ndarray, outputs: np.ndarray) -> None:
        """The outputs at more places."""
        self.places, order = np.unique(np.concatenate([self.places, places]), return_index=True)
        self.outputs = np.concatenate([self.outputs, outputs])[order]
        self._integrate()

    def _integrate(self) -> None:
        values, cells = self.basis.values(self.outputs), np.diff(self.places)[:, None, None]
        self.travelled = np.abs(np.diff(values @ self.mix.T, axis=0)).sum(axis=0)
        jacobians = self.basis.mean_jacobian(self.outputs[:-1], self.outputs[1:])
        self._integral = _running(cells * jacobians)
        moved = np.diff(self.outputs, axis=0)
        known = [
            np.einsum("cqo,op,cp->cq", jacobians, one.projector, moved) for one in self.directions
        ]
        if known:
            # What the head's inner rule leaves over, 1e-6 at most, goes to the first: the sum is
            # exact.
            known[0] += np.diff(values, axis=0) - sum(known)
        self._known = [_running(one @ self.mix.T) for one in known]

    def _principal(
        self, carrier: np.ndarray | None
    ) -> Float64[np.ndarray, "direction output"] | None:
        """Orthonormal directions that hold the head's derivative, those first along which it
        weighs most along this line.
        """
        if carrier is None:
            return None
        span = np.linalg.svd(carrier, full_matrices=False)[2]
        cells = np.diff(self.places)
        rows = (
            self.mix
            @ self.basis.mean_jacobian(self.outputs[:-1], self.outputs[1:])
            / self.allowed[:, None]
            @ span.T
        )
        second = np.einsum("c,cqi,cqj->ij", cells, rows, rows)
        axes = np.linalg.eigh(np.where(np.isfinite(second), second, 0))[1][:, ::-1]
        return axes.T @ span

    def carriers(
        self, direction: int, tags: np.ndarray
    ) -> Float64[np.ndarray, "tag carrier output"]:
        """Cotangents whose gradients are to be taken at new tags: the direction, or of unit
        length along the head's derivative.
        """
        vector = self.directions[direction].vector
        if vector is not None:
            return np.repeat(vector[None, None], len(tags), axis=0)
        after = np.clip(np.searchsorted(self.places, tags), 1, len(self.places) - 1)
        rows = self.basis.mean_jacobian(self.outputs[after - 1], self.outputs[after])
        size = np.linalg.norm(rows, axis=-1, keepdims=True)
        return np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)

    def learn_tags(
        self,
        directions: list[np.ndarray],
        tags: np.ndarray,
        carriers: np.ndarray,
        outputs: np.ndarray,
        slopes: np.ndarray,
    ) -> None:
        """Gradients of `carriers` (tag, carrier, output) and their products with input − baseline,
        numbered in this order.

        directions: for each column of carriers the direction it is for (tag,); a single entry takes
        all columns.
        """
        self.learn_values(tags, outputs)
        nodes = self.nodes + np.arange(slopes.size).reshape(slopes.shape)
        self.nodes += slopes.size
        columns = (
            [np.arange(slopes.shape[1])]
            if len(directions) == 1
            else np.arange(slopes.shape[1])[:, None]
        )
        for own, column in zip(directions, columns, strict=True):
            for number in np.unique(own):
                rows = own == number
                self.directions[number].learn(
                    tags[rows],
                    carriers[rows][:, column],
                    slopes[rows][:, column],
                    nodes[rows][:, column],
                )

    @property
    def finite(self) -> bool:
        return bool(
            np.isfinite(self.outputs).all()
            and all(np.isfinite(one.velocities).all() for one in self.directions)
        )

    @property
    def residuals(self) -> Float64[np.ndarray, "interval quantity"]:
        return np.concatenate([one.residuals for one in self.directions])

    def place_borders(self) -> None:
        """Borders between neighbouring tags, at known places: near the middle, moved where that
        lessens gap and residuals.
        """
        plans = [self._start(number) for number in range(len(self.directions))]
        total = self.residuals.sum(axis=0)
        limits = np.maximum(self.tolerance * self.travelled, self.allowed)

        def loss(
            total: np.ndarray, sizes: np.ndarray, places: np.ndarray, middle: float
        ) -> np.ndarray:
            own = OWN_RESIDUAL * (sizes / limits).mean(axis=-1)
            return (
                (np.abs(total) / self.allowed).max(axis=-1)
                + own
                + OFF_CENTRE / self.tolerance * np.abs(places - middle)
            )

        for _ in range(SWEEPS):
            moved = False
            for number, plan in enumerate(plans):
                one = self.directions[number]
                for k, between, middle in plan:
                    candidates = between[
                        (between > one.chosen[k - 1]) & (between < one.chosen[k + 1])
                    ]
                    left = self._residuals(number, k - 1, one.chosen[k - 1], candidates)
                    right = self._residuals(number, k, candidates, one.chosen[k + 1])
                    totals = total - one.residuals[k - 1] - one.residuals[k] + left + right
                    losses = loss(
                        totals, np.abs(left) + np.abs(right), self.places[candidates], middle
                    )
                    best, now = (
                        int(losses.argmin()),
                        int(np.searchsorted(candidates, one.chosen[k])),
                    )
                    if losses[best] < losses[now] - 1e-9:
                        one.chosen[k], total, moved = candidates[best], totals[best], True
                        one.residuals[k - 1], one.residuals[k] = left[best], right[best]
            if not moved:
                break
        for one in self.directions:
            one.borders = self.places[one.chosen]

    def _start(self, number: int) -> list[tuple[int, np.ndarray, float]]:
        """Puts a direction's borders near the middles; (number, places it may move to, middle)
        of each that can move.
        """
        one = self.directions[number]
        at = np.searchsorted(self.places, one.tags)
        middles = (one.tags[:-1] + one.tags[1:]) / 2
        one.chosen, movable = np.zeros(len(one.tags) + 1, int), []
        one.chosen[-1] = len(self.places) - 1
        for k, (start, stop) in enumerate(pairwise(at), start=1):
            between, middle = np.arange(start, stop + 1), middles[k - 1]
            if one.settled[k - 1 : k + 1].any():
                one.chosen[k] = np.searchsorted(
                    self.places, one.bounds[k - 1, 1] if one.settled[k - 1] else one.bounds[k, 0]
                )
            else:
                # Never at the left tag, so that no interval is empty: the right one may already
                # reach up to its own.
                inner = between[1:-1] if len(between) > 2 else between[1:]
                one.chosen[k] = inner[np.abs(self.places[inner] - middle).argmin()]
                movable.append((k, between, middle))
        ks = np.arange(len(one.tags))
        one.residuals = self._residuals(number, ks, one.chosen[:-1], one.chosen[1:])
        known = np.diff(self._known[number][one.chosen], axis=0)
        one.residuals[one.settled] = (one.fixed - known)[one.settled]
        return movable

    def met(self) -> np.ndarray:
        """Per quantity: whether the gap is within what is allowed, and not by large residuals
        that happen to cancel.
        """
        residuals = self.residuals
        limits = np.maximum(self.residual_tolerance * self.travelled, self.allowed)
        return (np.abs(residuals.sum(axis=0)) <= self.allowed) & (
            np.linalg.norm(residuals, axis=0) <= limits
        )

    def split(self, met: np.ndarray, most: int) -> tuple[list[Wanted], np.ndarray]:
        """At most `most` new tags, and places to be known, where quantities not yet met have the
        largest residuals.

        An interval is cut in three around its tag, which stays; beside a tag at the very border
        only the far side is cut.
        """
        sizes, intervals = [], []
        for number, one in enumerate(self.directions):
            size = (np.abs(one.residuals) / self.allowed)[:, ~met].max(axis=1)
            size[one.settled | (np.diff(one.borders) < NARROWEST)] = 0
            sizes.append(size)
            intervals += [(number, k) for k in range(len(size))]
        size = np.concatenate(sizes)
        worst = np.argsort(-size, kind="stable")
        # Enough of the worst that the rest, signs at random, could meet half the allowance by
        # itself, but few at once: after each the picture has changed. Measured: an eighth needs a
        # third fewer points than a half.
        rest = np.sqrt((size[worst] ** 2)[::-1].cumsum()[::-1])
        count = int(np.clip((rest > 0.5).sum(), 1, max(len(worst) // 8, 1)))
        wanted: list[Wanted] = []
        places: list[float] = []
        for index in worst[:count]:
            if size[index] == 0:
                break
            number, k = intervals[index]
            one = self.directions[number]
            start, stop, tag = one.borders[k], one.borders[k + 1], one.tags[k]
            for edge, hole in ((start, tag - start), (stop, tag - stop)):
                if abs(hole) > (stop - start) / 8 and len(wanted) < most:
                    new = edge + hole / 3
                    wanted.append(Wanted(number, float(new)))
                    if not self._is_known_between(new, tag, places):
                        places.append((new + tag) / 2)
        return wanted, np.array(places)

    def _is_known_between(self, new: float, tag: float, planned: list[float]) -> bool:
        """Whether the outputs are known, or about to be, in the middle half between two tags:
        room for their border.
        """
        low, high = sorted((new, tag))
        quarter = (high - low) / 4
        known = np.concatenate([self.places, planned])
        return bool(((known >= low + quarter) & (known <= high - quarter)).any())

    def settle(self, live: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(nodes, weights, contrasts) of the neighbours with the smallest residuals, so that at
        most `live` nodes stay open.
        """
        chosen = [
            np.zeros(len(one.tags), bool) if live else ~one.settled for one in self.directions
        ]
        pairs = []
        for number, one in enumerate(self.directions):
            size = (np.abs(one.residuals) / self.allowed).max(axis=1)
            open_pairs = np.flatnonzero(~one.settled[:-1] & ~one.settled[1:])
            pairs += [(max(size[k], size[k + 1]), number, k) for k in open_pairs]
        still = self.open_nodes - sum(
            own.sum() * one.nodes.shape[1] for own, one in zip(chosen, self.directions, strict=True)
        )
        for _, number, k in sorted(pairs):
            if still <= live:
                break
            if not chosen[number][k : k + 2].any():
                chosen[number][k : k + 2] = True
                still -= 2 * self.directions[number].nodes.shape[1]
        parts = [self._weights(one, own) for one, own in zip(self.directions, chosen, strict=True)]
        for one, own, known in zip(self.directions, chosen, self._known, strict=True):
            one.bounds[own] = one.edges[own]
            one.fixed[own] = (one.residuals + np.diff(known[one.chosen], axis=0))[own]
            one.settled |= own
        nodes, weights, contrasts = (np.concatenate(part) for part in zip(*parts, strict=True))
        return nodes, weights, contrasts

    @property
    def open_nodes(self) -> int:
        """Gradients that wait for their weights."""
        return sum(int((~one.settled).sum()) * one.nodes.shape[1] for one in self.directions)

    def _weights(
        self, one: Direction, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes, what their gradients count in the maps, and in the maps' change when of every two
        neighbours one is left out.

        The other takes over the interval of the one that is left out; which of the two alternates
        from pair to pair.
        """
        jacobians = np.diff(self._integral[one.chosen], axis=0)
        weights = np.einsum("kqo,kob->kbq", jacobians, one.inverses)
        contrasts = np.zeros_like(weights)
        first, pairs = 0, 0
        while first + 1 < len(chosen):
            if not (chosen[first] and chosen[first + 1]):
                first += 1
                continue
            kept, dropped = (first, first + 1) if pairs % 2 == 0 else (first + 1, first)
            contrasts[dropped] = weights[dropped]
            contrasts[kept] = -(jacobians[dropped] @ one.inverses[kept]).T
            first, pairs = first + 2, pairs + 1
        quantities = weights.shape[2]
        return (
            one.nodes[chosen].ravel(),
            weights[chosen].reshape(-1, quantities),
            contrasts[chosen].reshape(-1, quantities),
        )

    def _residuals(
        self,
        number: int,
        tags: np.ndarray | int,
        start: np.ndarray | np.int64,
        stop: np.ndarray | np.int64,
    ) -> np.ndarray:
        """(interval, quantity): the contribution of a tag to the interval between two places,
        less the known difference.
        """
        sampled = np.einsum(
            "...qo,...o->...q",
            self._integral[stop] - self._integral[start],
            self.directions[number].velocities[tags],
        )
        return sampled @ self.mix.T - (self._known[number][stop] - self._known[number][start])


def _running(parts: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, … parts."""
    return np.concatenate([np.zeros_like(parts[:1]), np.cumsum(parts, axis=0)])
