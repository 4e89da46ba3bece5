"""A direction in the space of outputs and its partition of the line: tags, what was sampled there,
and the borders between them. Pure NumPy on scalars.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.quadrature import neighbour_pairs


class Direction:
    """The partition of a direction.

    `integral` and `known` are the `Partition`'s to set: for every known place the quantities'
    derivative integrated up to there, and how much of each quantity's change up to there belongs to
    this direction.

    Parameters
    ----------
    projector: (output, output) onto the direction; the identity where every tag has cotangents of
        its own, which then stand for all directions together.
    passes: how many gradients a tag has. mix: of the quantities.
    """

    def __init__(self, projector: np.ndarray, passes: int, mix: np.ndarray) -> None:
        self.projector, self.mix, outputs = projector, mix, len(projector)
        self.tags, self.committed = np.zeros(0), np.zeros(0, bool)
        self.nodes = np.zeros((0, passes), int)
        self.inverses, self.velocities = np.zeros((0, outputs, passes)), np.zeros((0, outputs))
        # A committed tag's interval and what it contributes: neither can change any more, whatever
        # is learnt of the outputs within.
        self.bounds, self.fixed = np.zeros((0, 2)), np.zeros((0, len(mix)))
        # As places on the line, and as the numbers of these places.
        self.borders, self.chosen = np.zeros(0), np.zeros(0, int)
        self.residuals = self.known = self.integral = np.zeros((0, 0))

    def learn(
        self, tags: np.ndarray, cotangents: np.ndarray, slopes: np.ndarray, nodes: np.ndarray
    ) -> None:
        """More tags, the cotangents (tag, pass, output) whose gradients were taken there, the
        gradients' products with input − baseline (tag, pass), and the gradients' numbers.
        """
        inverses = np.linalg.pinv(np.where(np.isfinite(cotangents), cotangents, 0))
        order = np.argsort(np.concatenate([self.tags, tags]), kind="stable")
        for name, new in {
            "tags": tags,
            "nodes": nodes,
            "committed": np.zeros(len(tags), bool),
            "bounds": np.full((len(tags), 2), np.nan),
            "fixed": np.full((len(tags), self.fixed.shape[1]), np.nan),
            "inverses": inverses,
            "velocities": np.einsum("kob,kb->ko", inverses, slopes),
        }.items():
            setattr(self, name, np.concatenate([getattr(self, name), new])[order])

    @property
    def edges(self) -> Float64[np.ndarray, "tag 2"]:
        return np.stack([self.borders[:-1], self.borders[1:]], axis=1)

    def residuals_between(
        self,
        tags: np.ndarray | int,
        start: np.ndarray | np.int64,
        stop: np.ndarray | np.int64,
    ) -> np.ndarray:
        """(interval, quantity): what each tag contributes to the interval between two places, less
        the known change there.
        """
        jacobians = self.integral[stop] - self.integral[start]
        sampled = np.einsum("...qo,...o->...q", jacobians, self.velocities[tags])
        return sampled @ self.mix.T - (self.known[stop] - self.known[start])

    def start_borders(self, places: np.ndarray) -> list[tuple[int, np.ndarray, float]]:
        """Puts the borders near the middles between tags; (number, places it may move to, middle)
        of each border that can move.
        """
        middles = (self.tags[:-1] + self.tags[1:]) / 2
        self.chosen, movable = np.zeros(len(self.tags) + 1, int), []
        self.chosen[-1] = len(places) - 1
        for k, (start, stop) in enumerate(pairwise(np.searchsorted(places, self.tags)), start=1):
            between, middle = np.arange(start, stop + 1), middles[k - 1]
            if self.committed[k - 1 : k + 1].any():
                bound = self.bounds[k - 1, 1] if self.committed[k - 1] else self.bounds[k, 0]
                self.chosen[k] = np.searchsorted(places, bound)
            else:
                # Never at the left tag, so that no interval is empty: the right one may already
                # reach up to its own.
                inner = between[1:-1] if len(between) > 2 else between[1:]
                self.chosen[k] = inner[np.abs(places[inner] - middle).argmin()]
                movable.append((k, between, middle))
        tags = np.arange(len(self.tags))
        self.residuals = self.residuals_between(tags, self.chosen[:-1], self.chosen[1:])
        known = np.diff(self.known[self.chosen], axis=0)
        self.residuals[self.committed] = (self.fixed - known)[self.committed]
        return movable

    def commit(self, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights these tags (a mask) for good: their gradients' numbers, and what each counts in
        the maps and in the maps' change when of every two neighbours one is left out and the other
        takes over its interval.
        """
        jacobians = np.diff(self.integral[self.chosen], axis=0)
        weights = np.einsum("kqo,kob->kbq", jacobians, self.inverses)
        contrasts = np.zeros_like(weights)
        for kept, dropped in neighbour_pairs(tags):
            contrasts[dropped] = weights[dropped]
            contrasts[kept] = -(jacobians[dropped] @ self.inverses[kept]).T
        self.bounds[tags] = self.edges[tags]
        self.fixed[tags] = (self.residuals + np.diff(self.known[self.chosen], axis=0))[tags]
        self.committed |= tags
        quantities = weights.shape[2]
        return (
            self.nodes[tags].ravel(),
            weights[tags].reshape(-1, quantities),
            contrasts[tags].reshape(-1, quantities),
        )
