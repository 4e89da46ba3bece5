"""A partition of the line [0, 1] into intervals with one sampled point ("tag") each, and how well each tag stands for its own.

The integral over an interval is taken as J · ∇u(tag), where u are the network's outputs and J is the head's derivative
integrated over the interval along the known outputs: a Riemann sum whose tags need not be centres. Where the borders
lie is open as long as each tag stays inside its interval, so a border moves to where both neighbours' residuals
(what the interval contributes as sampled, less the known difference of the quantity) are small. Weights are widths:
positive, and 1 in sum. Pure NumPy on scalars; no maps, no network.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.heads import Head

# Converged by |gap| alone could be luck: residuals of both signs may cancel. The gap that they would give if their signs
# were random, their root sum of squares, may be at most this many times the tolerance, relative to the way that F travels
# along the line (up and down).
CANCELLATION = 1.0
# How much the intervals' own residuals and a border's distance from the middle count beside the gap when borders are
# chosen. Measured: from 0.1 to 1 nothing changes; without them the gap would be met by chance alone.
OWN_RESIDUAL = 0.5
OFF_CENTRE = 0.1
SWEEPS = 10
# An interval narrower than this has no two different points left in float32.
NARROWEST = 1e-5


class Partition:
    """Places on [0, 1] where the outputs are known, and tags with their slopes; quantities are those of `mix`.

    tolerance and allowed (quantity,): what the gap may be, relative to F(x) − F(x') and in the quantity's units.
    """

    def __init__(self, basis: Head, mix: np.ndarray, tolerance: float, allowed: np.ndarray) -> None:
        self.basis, self.mix, self.tolerance, self.allowed = basis, mix, tolerance, allowed
        outputs, rank = basis.probability_weights.shape[1], len(basis.probability_weights)
        self.places, self.outputs = np.zeros(0), np.zeros((0, outputs))
        self.tags, self.nodes, self.settled = np.zeros(0), np.zeros(0, int), np.zeros(0, bool)
        self.inverses, self.velocities = np.zeros((0, outputs, rank)), np.zeros((0, outputs))
        self.bounds = np.zeros((0, 2))  # a settled tag's interval, which can't change any more

    def learn_values(self, places: np.ndarray, outputs: np.ndarray) -> None:
        """The outputs at more places."""
        self.places, order = np.unique(np.concatenate([self.places, places]), return_index=True)
        self.outputs = np.concatenate([self.outputs, outputs])[order]
        values, cells = self.basis.values(self.outputs), np.diff(self.places)[:, None, None]
        self._values = values @ self.mix.T
        jacobians = cells * self.basis.mean_jacobian(self.outputs[:-1], self.outputs[1:])
        self._integral = np.concatenate([np.zeros_like(jacobians[:1]), np.cumsum(jacobians, axis=0)])
        self.travelled = np.abs(np.diff(self._values, axis=0)).sum(axis=0)

    def carriers(self, tags: np.ndarray) -> Float64[np.ndarray, "tag basis output"]:
        """Cotangents whose gradients are to be taken at new tags: constant, or of unit length along the head's derivative."""
        constant = self.basis.carrier()
        if constant is not None:
            return np.repeat(constant[None], len(tags), axis=0)
        after = np.clip(np.searchsorted(self.places, tags), 1, len(self.places) - 1)
        rows = self.basis.mean_jacobian(self.outputs[after - 1], self.outputs[after])
        size = np.linalg.norm(rows, axis=-1, keepdims=True)
        return np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)

    def learn_tags(self, tags: np.ndarray, carriers: np.ndarray, outputs: np.ndarray, slopes: np.ndarray) -> None:
        """Tags with the outputs there and the products of the carriers' gradients with input − baseline."""
        self.learn_values(tags, outputs)
        inverses = np.linalg.pinv(np.where(np.isfinite(carriers), carriers, 0))
        velocities = np.einsum("kob,kb->ko", inverses, slopes)
        nodes = np.arange(len(self.nodes), len(self.nodes) + len(tags))
        order = np.argsort(np.concatenate([self.tags, tags]), kind="stable")
        for name, new in {
            "tags": tags,
            "nodes": nodes,
            "settled": np.zeros(len(tags), bool),
            "bounds": np.full((len(tags), 2), np.nan),
            "inverses": inverses,
            "velocities": velocities,
        }.items():
            setattr(self, name, np.concatenate([getattr(self, name), new])[order])

    @property
    def edges(self) -> Float64[np.ndarray, "tag 2"]:
        return np.stack([self.borders[:-1], self.borders[1:]], axis=1)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.outputs).all() and np.isfinite(self.velocities).all())

    def place_borders(self) -> None:
        """Borders between neighbouring tags, at known places: near the middle, moved where that lessens gap and residuals."""
        at = np.searchsorted(self.places, self.tags)
        between = [np.arange(start, stop + 1) for start, stop in pairwise(at)]
        middles = (self.tags[:-1] + self.tags[1:]) / 2
        chosen, movable = np.zeros(len(self.tags) + 1, int), []
        chosen[-1] = len(self.places) - 1
        for k, (candidates, middle) in enumerate(zip(between, middles, strict=True), start=1):
            if self.settled[k - 1 : k + 1].any():
                chosen[k] = np.searchsorted(self.places, self.bounds[k - 1, 1] if self.settled[k - 1] else self.bounds[k, 0])
            else:
                # Never at the left tag, so that no interval is empty: the right one may already reach up to its own.
                inner = candidates[1:-1] if len(candidates) > 2 else candidates[1:]
                chosen[k] = inner[np.abs(self.places[inner] - middle).argmin()]
                movable.append(k)
        residuals = self._residuals(self.velocities, chosen[:-1], chosen[1:])
        total = residuals.sum(axis=0)
        limits = np.maximum(self.tolerance * self.travelled, self.allowed)

        def loss(total: np.ndarray, sizes: np.ndarray, places: np.ndarray, middle: float) -> np.ndarray:
            own = OWN_RESIDUAL * (sizes / limits).mean(axis=-1)
            return (np.abs(total) / self.allowed).max(axis=-1) + own + OFF_CENTRE / self.tolerance * np.abs(places - middle)

        for _ in range(SWEEPS):
            moved = False
            for k in movable:
                candidates = between[k - 1]
                candidates = candidates[(candidates > chosen[k - 1]) & (candidates < chosen[k + 1])]
                left = self._residuals(self.velocities[k - 1], chosen[k - 1], candidates)
                right = self._residuals(self.velocities[k], candidates, chosen[k + 1])
                totals = total - residuals[k - 1] - residuals[k] + left + right
                losses = loss(totals, np.abs(left) + np.abs(right), self.places[candidates], middles[k - 1])
                best, now = int(losses.argmin()), int(np.searchsorted(candidates, chosen[k]))
                if losses[best] < losses[now] - 1e-9:
                    chosen[k], total, moved = candidates[best], totals[best], True
                    residuals[k - 1], residuals[k] = left[best], right[best]
            if not moved:
                break
        self.borders, self.residuals, self._chosen = self.places[chosen], residuals, chosen

    def met(self) -> np.ndarray:
        """Per quantity: whether the gap is within what is allowed, and not by large residuals that happen to cancel."""
        limits = CANCELLATION * np.maximum(self.tolerance * self.travelled, self.allowed)
        return (np.abs(self.residuals.sum(axis=0)) <= self.allowed) & (np.linalg.norm(self.residuals, axis=0) <= limits)

    def split(self, met: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """At most `most` new tags, and the places of new borders, where quantities not yet met have the largest residuals.

        An interval is cut in three around its tag, which stays; beside a tag at the very border only the far side is cut.
        """
        size = (np.abs(self.residuals) / self.allowed)[:, ~met].max(axis=1)
        widths = np.diff(self.borders)
        size[self.settled | (widths < NARROWEST)] = 0
        worst = np.argsort(-size, kind="stable")
        # Enough of the worst that the rest, signs at random, could meet half the allowance by itself, but few at once:
        # after each the picture has changed. Measured: an eighth needs a third fewer points than a half.
        rest = np.sqrt((size[worst] ** 2)[::-1].cumsum()[::-1])
        count = int(np.clip((rest > 0.5).sum(), 1, max(len(worst) // 8, 1)))
        tags, places = [], []
        for k in worst[:count]:
            if size[k] == 0:
                break
            start, stop, tag = self.borders[k], self.borders[k + 1], self.tags[k]
            for edge, hole in ((start, tag - start), (stop, tag - stop)):
                if abs(hole) > widths[k] / 8 and len(tags) < most:
                    tags.append(edge + hole / 3)
                    places.append(edge + 2 * hole / 3)
        return np.array(tags), np.array(places)

    def settle(self, live: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(nodes, weights, contrasts) of the neighbours with the smallest residuals, so that at most `live` stay open."""
        size = (np.abs(self.residuals) / self.allowed).max(axis=1)
        chosen = np.zeros(len(self.tags), bool)
        open_pairs = np.flatnonzero(~self.settled[:-1] & ~self.settled[1:])
        for k in open_pairs[np.argsort(np.maximum(size[open_pairs], size[open_pairs + 1]), kind="stable")]:
            if (~self.settled & ~chosen).sum() <= live:
                break
            if not chosen[k : k + 2].any():
                chosen[k : k + 2] = True
        if live == 0:
            chosen = ~self.settled
        self.bounds[chosen] = self.edges[chosen]
        self.settled |= chosen
        return self.nodes[chosen], *self._weights(chosen)

    def _weights(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What gradients count in the map, and in its change when of every two neighbours one is left out.

        The other takes over the interval of the one that is left out; which of the two alternates from pair to pair.
        """
        jacobians = np.diff(self._integral[self._chosen], axis=0)
        weights = np.einsum("kqo,kob->kqb", jacobians, self.inverses)
        contrasts = np.zeros_like(weights)
        first, pairs = 0, 0
        while first + 1 < len(chosen):
            if not (chosen[first] and chosen[first + 1]):
                first += 1
                continue
            kept, dropped = (first, first + 1) if pairs % 2 == 0 else (first + 1, first)
            contrasts[dropped] = weights[dropped]
            contrasts[kept] = -jacobians[dropped] @ self.inverses[kept]
            first, pairs = first + 2, pairs + 1
        return weights[chosen], contrasts[chosen]

    def _residuals(self, velocities: np.ndarray, start: np.ndarray | np.int64, stop: np.ndarray | np.int64) -> np.ndarray:
        """(interval, quantity): the contribution of a tag to the interval between two places, less the known difference."""
        sampled = np.einsum("...qo,...o->...q", self._integral[stop] - self._integral[start], velocities)
        return sampled @ self.mix.T - (self._values[stop] - self._values[start])
