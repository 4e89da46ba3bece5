"""Partitions of the line [0, 1] into intervals with one sampled point ("tag") each, and how well
each tag stands for its own interval (METHOD §4).

The integral over an interval is taken as J · ∇u(tag), where u are the network's outputs and J is
the derivative of the quantities by u, integrated over the interval along the known outputs: a
Riemann sum whose tags need not be centres. Every direction in the space of outputs has a partition
of its own, because directions differ in what they count: where three stages hardly move, a single
direction of four decides and gets the tags. A border may lie anywhere between its two tags, so it
moves to where both neighbours' residuals (what the interval contributes as sampled, less the known
change of the quantity) are small. Weights are widths: positive, and 1 in sum. Pure NumPy on
scalars; no maps, no network.
"""

import numpy as np
from jaxtyping import Float64, Int

from dr_lib.attribution.direction import Direction
from dr_lib.attribution.quantities import QuantityMap
from dr_lib.attribution.sums import Commit

# How much the intervals' own residuals and a border's distance from the middle count beside the gap
# when borders are chosen. Measured: from 0.1 to 1 nothing changes; without them the gap would be
# met by chance alone.
OWN_RESIDUAL = 0.5
OFF_CENTRE = 0.1
SWEEPS = 10
# An interval narrower than this has no two different points left in float32.
NARROWEST = 1e-5


class Partition:
    """Places on [0, 1] where the outputs are known, and a partition for each direction.

    Parameters
    ----------
    tolerance, allowed: what the gap may be, relative to F(x) − F(x'), and (quantity,) in the
        quantity's units; these place the borders.
    residual_tolerance: only for `met`: what the root sum of squares of the residuals may be,
        relative to the way that a quantity travels along the line, up and down. That is the gap
        which they would give if their signs were random; without this bound a gap may hold because
        large residuals of both signs cancel.
    places, outputs: (place,) and (place, output), where the outputs are known to begin with.
    """

    def __init__(
        self,
        quantities: QuantityMap,
        tolerance: float,
        residual_tolerance: float,
        allowed: np.ndarray,
        places: np.ndarray,
        outputs: np.ndarray,
    ) -> None:
        self.basis, self.mix, self.allowed = quantities.basis(), quantities.mix(), allowed
        self.tolerance, self.residual_tolerance = tolerance, residual_tolerance
        self.places, self.outputs = places, outputs
        self.nodes = 0  # gradients taken so far: backward passes
        # Backward passes for a tag in every direction, and for one in a single direction.
        self.width = self.each = len(self.basis.probability_weights)
        self.vectors: np.ndarray | None = None
        projectors = np.eye(outputs.shape[1])[None]
        if (cotangents := self.basis.constant_cotangents()) is not None:
            self.vectors, self.each = self._principal(cotangents), 1
            projectors = [np.outer(vector, vector) for vector in self.vectors]
        self.directions = [Direction(part, self.each, self.mix) for part in projectors]
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
        integral, moved = _running(cells * jacobians), np.diff(self.outputs, axis=0)
        changes = [
            np.einsum("cqo,op,cp->cq", jacobians, direction.projector, moved)
            for direction in self.directions
        ]
        # What the inner rule of `mean_jacobian` leaves over, 1e-6 at most, goes to the first: the
        # sum is exact.
        changes[0] += np.diff(values, axis=0) - sum(changes)
        for direction, change in zip(self.directions, changes, strict=True):
            direction.integral, direction.known = integral, _running(change @ self.mix.T)

    def _principal(self, cotangents: np.ndarray) -> Float64[np.ndarray, "direction output"]:
        """Orthonormal directions that hold the quantities' derivative, those first along which it
        weighs most along this line.
        """
        span = np.linalg.svd(cotangents, full_matrices=False)[2]
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

    def cotangents(
        self, owners: Int[np.ndarray, "tag group"], tags: np.ndarray
    ) -> Float64[np.ndarray, "tag pass output"]:
        """Cotangents whose gradients are to be taken at new tags of the directions of these
        numbers: the directions themselves, or unit vectors along the quantities' derivative.
        """
        if self.vectors is not None:
            return self.vectors[owners]
        after = np.clip(np.searchsorted(self.places, tags), 1, len(self.places) - 1)
        rows = self.basis.mean_jacobian(self.outputs[after - 1], self.outputs[after])
        size = np.linalg.norm(rows, axis=-1, keepdims=True)
        return np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)

    def learn_tags(
        self,
        owners: np.ndarray,
        tags: np.ndarray,
        cotangents: np.ndarray,
        outputs: np.ndarray,
        slopes: np.ndarray,
    ) -> None:
        """Takes in new tags, where gradients were taken; these are numbered in this order.

        Parameters
        ----------
        owners: (tag, group) a tag's passes fall into equal groups, each for the direction of this
            number.
        tags: (tag,) places. cotangents: (tag, pass, output) what the gradients are of.
        outputs: (tag, output). slopes: (tag, pass) the gradients' products with input − baseline.
        """
        self.learn_values(tags, outputs)
        nodes = self.nodes + np.arange(slopes.size).reshape(slopes.shape)
        self.nodes += slopes.size
        for group, numbers in enumerate(owners.T):
            passes = slice(group * self.each, (group + 1) * self.each)
            for number in np.unique(numbers):
                rows = numbers == number
                self.directions[number].learn(
                    tags[rows], cotangents[rows, passes], slopes[rows, passes], nodes[rows, passes]
                )

    @property
    def finite(self) -> bool:
        return bool(
            np.isfinite(self.outputs).all()
            and all(np.isfinite(direction.velocities).all() for direction in self.directions)
        )

    @property
    def residuals(self) -> Float64[np.ndarray, "interval quantity"]:
        return np.concatenate([direction.residuals for direction in self.directions])

    @property
    def open_nodes(self) -> int:
        """Gradients that wait for their weights."""
        return self.each * sum(int((~part.committed).sum()) for part in self.directions)

    def place_borders(self) -> None:
        """Borders between neighbouring tags, at known places: near the middle, moved where that
        lessens gap and residuals.
        """
        movable = [
            (direction, *border)
            for direction in self.directions
            for border in direction.start_borders(self.places)
        ]
        total = self.residuals.sum(axis=0)
        limits = np.maximum(self.tolerance * self.travelled, self.allowed)
        for _ in range(SWEEPS):
            moved = False
            for direction, k, between, middle in movable:
                before, now, after = direction.chosen[k - 1 : k + 2]
                candidates = between[(between > before) & (between < after)]
                if not len(candidates):
                    continue
                left = direction.residuals_between(k - 1, before, candidates)
                right = direction.residuals_between(k, candidates, after)
                residuals = direction.residuals
                totals = total - residuals[k - 1] - residuals[k] + left + right
                sizes = OWN_RESIDUAL * ((np.abs(left) + np.abs(right)) / limits).mean(axis=-1)
                losses = (
                    (np.abs(totals) / self.allowed).max(axis=-1)
                    + sizes
                    + OFF_CENTRE / self.tolerance * np.abs(self.places[candidates] - middle)
                )
                best, current = int(losses.argmin()), int(np.searchsorted(candidates, now))
                # A committed neighbour may end at this very place: any other is then better.
                taken = current == len(candidates)
                if taken or losses[best] < losses[current] - 1e-9:
                    direction.chosen[k], total, moved = candidates[best], totals[best], True
                    residuals[k - 1], residuals[k] = left[best], right[best]
            if not moved:
                break
        for direction in self.directions:
            direction.borders = self.places[direction.chosen]

    def met(self) -> np.ndarray:
        """Per quantity: whether the gap is within what is allowed, and not by large residuals
        that happen to cancel.
        """
        residuals = self.residuals
        limits = np.maximum(self.residual_tolerance * self.travelled, self.allowed)
        return (np.abs(residuals.sum(axis=0)) <= self.allowed) & (
            np.linalg.norm(residuals, axis=0) <= limits
        )

    def split(self, met: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At most `most` new tags, each after the number of its direction (tag, 1), and places to
        be known, where quantities not yet met have the largest residuals.

        An interval is cut in three around its tag, which stays; beside a tag at the very border
        only the far side is cut.
        """
        sizes, intervals = [], []
        for number, direction in enumerate(self.directions):
            size = (np.abs(direction.residuals) / self.allowed)[:, ~met].max(axis=1)
            size[direction.committed | (np.diff(direction.borders) < NARROWEST)] = 0
            sizes.append(size)
            intervals += [(number, k) for k in range(len(size))]
        size = np.concatenate(sizes)
        worst = np.argsort(-size, kind="stable")
        # Enough of the worst that the rest, signs at random, could meet half the allowance by
        # itself, but few at once: after each the picture has changed. Measured: an eighth needs a
        # third fewer points than a half.
        rest = np.sqrt((size[worst] ** 2)[::-1].cumsum()[::-1])
        count = int(np.clip((rest > 0.5).sum(), 1, max(len(worst) // 8, 1)))
        owners: list[int] = []
        tags: list[float] = []
        places: list[float] = []
        for index in worst[:count]:
            if size[index] == 0:
                break
            number, k = intervals[index]
            direction = self.directions[number]
            (start, stop), tag = direction.edges[k], direction.tags[k]
            for edge, hole in ((start, tag - start), (stop, tag - stop)):
                if abs(hole) > (stop - start) / 8 and len(tags) < most:
                    new = edge + hole / 3
                    owners.append(number)
                    tags.append(new)
                    if not self._is_known_between(new, tag, places):
                        places.append((new + tag) / 2)
        return np.array(owners, int)[:, None], np.array(tags), np.array(places)

    def _is_known_between(self, new: float, tag: float, planned: list[float]) -> bool:
        """Whether the outputs are known, or about to be, in the middle half between two tags:
        room for their border.
        """
        low, high = sorted((new, tag))
        quarter = (high - low) / 4
        known = np.concatenate([self.places, planned])
        return bool(((known >= low + quarter) & (known <= high - quarter)).any())

    def commit(self, most_open: int) -> Commit:
        """Weights for good the neighbours with the smallest residuals, so that at most `most_open`
        gradients stay open; all tags when that is 0.
        """
        chosen = [
            np.zeros(len(direction.tags), bool) if most_open else ~direction.committed
            for direction in self.directions
        ]
        pairs = []
        for number, direction in enumerate(self.directions):
            size = (np.abs(direction.residuals) / self.allowed).max(axis=1)
            open_pairs = np.flatnonzero(~direction.committed[:-1] & ~direction.committed[1:])
            pairs += [(max(size[k], size[k + 1]), number, k) for k in open_pairs]
        still_open = self.open_nodes if most_open else 0
        for _, number, k in sorted(pairs):
            if still_open <= most_open:
                break
            if not chosen[number][k : k + 2].any():
                chosen[number][k : k + 2] = True
                still_open -= 2 * self.each
        parts = [
            direction.commit(tags) for direction, tags in zip(self.directions, chosen, strict=True)
        ]
        return Commit(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _running(parts: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, … parts."""
    return np.concatenate([np.zeros_like(parts[:1]), np.cumsum(parts, axis=0)])
