"""How the points on one line are chosen: a fixed rule, or intervals refined where their own residual is largest.

A plan is a coroutine over scalars (see `evaluator`): pure NumPy, no framework, no maps. On each interval [a, b] with
node m the integral of the gradient is taken as J·∇u(m), where u are the network's outputs and J is the head's
derivative integrated over the interval, with u running straight from u(a) to u(b). For a linear head J is (b − a)
and this is the midpoint rule; for a softmax it keeps saturation out of the sampling, and only the network's own kinks remain.
The interval's residual J·du/dα(m) − (F(b) − F(a)) is known exactly and costs a forward pass, shared by all quantities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dr_lib.attribution.evaluator import Ask, Plan
from dr_lib.attribution.heads import Head
from dr_lib.attribution.quadrature import halving

# Converged by |gap| alone could be luck: residuals of both signs may cancel. Their absolute sum, relative to the way F
# travels along the line (up and down), may be at most this many times what the gap may be relative to F(x) − F(x').
CANCELLATION = 4.0
# Panels before the first look at where the quantities bend.
FIRST_PANELS = 4


@dataclass(frozen=True)
class PlanResult:
    """What a plan found: F at both ends and, per interval, its edges and each quantity's residual."""

    outcome: Float64[np.ndarray, "quantity"]
    baseline_outcome: Float64[np.ndarray, "quantity"]
    gradients: int
    converged: np.ndarray
    edges: Float64[np.ndarray, "interval 2"]
    residuals: Float64[np.ndarray, "interval quantity"]


def fixed_plan(head: Head, alphas: np.ndarray, weights: np.ndarray, tolerance: float, floor: float) -> Plan:
    """One gradient at every node of a rule, and the two ends; the only residual is that of the whole line."""
    basis, mix = head.basis(), head.mix()
    ends = (yield Ask(np.array([0.0, 1.0]))).outputs
    if not head.probability_weights.any():
        jacobians = np.broadcast_to(basis.logit_weights, (len(alphas), *basis.logit_weights.shape))
    else:
        here = (yield Ask(alphas)).outputs
        jacobians = basis.mean_jacobian(here, here)
    told = yield Ask(alphas, weights[:, None, None] * jacobians, halving(weights))
    start, stop = head.values(ends)
    residual = mix @ told.slopes.sum(axis=0) - (stop - start)
    converged = np.abs(residual) <= tolerance * np.maximum(np.abs(stop - start), floor)
    return PlanResult(stop, start, len(alphas), converged, np.array([[0.0, 1.0]]), residual[None])


def adaptive_plan(head: Head, points: int, tolerance: float, floor: float, max_points: int) -> Plan:
    """Panels of two intervals, each panel split into three where its residual is large, until every quantity's gap holds.

    Before any gradient, panels are halved where the quantities bend most (start − 2 · centre + end), until there are
    `points` nodes: the values at edges are needed for the residuals anyway, so this costs nothing more.
    Splitting a panel in three keeps both of its nodes: only four gradients are new, and the two old nodes are run once
    more with the change of their cotangent, so that no gradient is ever stored. The two nodes of a panel enter
    the contrast with opposite signs: the contrast sum is the change of the map when every second point is left out.
    """
    basis, mix = head.basis(), head.mix()
    edges = np.linspace(0, 1, 2 * min(max(points // 2, 1), FIRST_PANELS) + 1)
    outputs = (yield Ask(edges)).outputs
    start, stop = head.values(outputs[[0, -1]])
    allowed = tolerance * np.maximum(np.abs(stop - start), floor)
    while (missing := max(points // 2, 1) - len(edges) // 2) > 0:
        bend = np.abs(np.diff(head.values(outputs).reshape(-1, len(mix))[_panel_edges(edges)], 2, axis=1)[:, 0] / allowed).max(
            axis=1
        )
        chosen = np.argsort(-bend, kind="stable")[: min(missing, max(len(bend) // 3, 1))]
        first = np.sort(np.concatenate([2 * chosen, 2 * chosen + 1]))
        new = (edges[first] + edges[first + 1]) / 2
        outputs = np.insert(outputs, first + 1, (yield Ask(new)).outputs, axis=0)
        edges = np.insert(edges, first + 1, new)
    mesh = _Mesh(basis, edges, outputs)
    mesh.note_slopes((yield Ask(*mesh.changed_rows())).slopes)
    spent = 2 * mesh.panels
    while True:
        residuals = mesh.residuals() @ mix.T  # (panel, 2, quantity)
        travelled = tolerance * np.abs(np.diff(head.values(mesh.outputs), axis=1)).sum(axis=(0, 1))
        met = np.abs(residuals.sum(axis=(0, 1))) <= allowed
        met &= np.abs(residuals).sum(axis=(0, 1)) <= CANCELLATION * np.maximum(travelled, allowed)
        affordable = (max_points - spent) // 6
        if met.all() or affordable < 1 or not np.isfinite(residuals).all():
            break
        size = (np.abs(residuals).sum(axis=1) / allowed)[:, ~met].max(axis=1)
        worst = np.argsort(-size, kind="stable")
        # Enough of the worst that the rest, signs at random, could meet half the allowance by itself, but at most a
        # quarter of all at once: after a refinement the picture has changed.
        rest = np.sqrt((size[worst] ** 2)[::-1].cumsum()[::-1])
        count = int(np.clip((rest > 0.5).sum(), 1, min(affordable, max(mesh.panels // 4, 1))))
        chosen = np.sort(worst[:count])
        new = (yield Ask(mesh.new_places(chosen))).outputs
        mesh.split(chosen, new)
        mesh.note_slopes((yield Ask(*mesh.changed_rows())).slopes)
        spent += 6 * count
    return PlanResult(stop, start, spent, met, mesh.edges(), residuals.reshape(-1, len(mix)))


def _panel_edges(edges: np.ndarray) -> np.ndarray:
    """(panel, 3): the numbers of each panel's start, centre and end among all edges."""
    return np.arange(0, len(edges) - 1, 2)[:, None] + np.arange(3)


class _Mesh:
    """Panels on [0, 1] in rising order: 3 edges, outputs there, 2 cotangents, 2 slopes and 2 signs each."""

    def __init__(self, basis: Head, edges: np.ndarray, outputs: np.ndarray) -> None:
        self.basis = basis
        self.alphas, self.outputs = edges[_panel_edges(edges)], outputs[_panel_edges(edges)]
        self.signs = np.where(np.arange(self.panels)[:, None] % 2 == 0, [1.0, -1.0], [-1.0, 1.0])
        self.cotangents = self._jacobians(self.alphas, self.outputs)
        self.slopes = np.zeros(self.cotangents.shape[:3])
        self._changed = np.ones((self.panels, 2), bool)
        self._before = np.zeros_like(self.cotangents)

    @property
    def panels(self) -> int:
        return len(self.alphas)

    def changed_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes whose cotangent changed, the change, and the sign in the contrast."""
        nodes = (self.alphas[:, :2] + self.alphas[:, 1:]) / 2
        where = self._changed
        return nodes[where], (self.cotangents - self._before)[where], self.signs[where]

    def note_slopes(self, slopes: np.ndarray) -> None:
        self.slopes[self._changed] += slopes
        self._changed[:] = False
        self._before = self.cotangents.copy()

    def residuals(self) -> np.ndarray:
        """(panel, 2, basis): integral of the derivative as sampled, less the known difference of the quantity."""
        return self.slopes - np.diff(self.basis.values(self.outputs), axis=1)

    def edges(self) -> np.ndarray:
        return np.stack([self.alphas[:, :2], self.alphas[:, 1:]], axis=2).reshape(-1, 2)

    def new_places(self, chosen: np.ndarray) -> np.ndarray:
        return self._sixths(chosen)[:, [1, 2, 4, 5]].ravel()

    def split(self, chosen: np.ndarray, new_outputs: np.ndarray) -> None:
        places = self._sixths(chosen)
        outputs = np.empty((len(chosen), 7, self.outputs.shape[-1]))
        outputs[:, [0, 3, 6]] = self.outputs[chosen]
        outputs[:, [1, 2, 4, 5]] = new_outputs.reshape(len(chosen), 4, -1)
        thirds = np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6]])
        alphas, outputs = places[:, thirds], outputs[:, thirds]
        cotangents = self._jacobians(alphas, outputs)
        # Of the six nodes the second and the fifth are the panel's old ones; they keep their signs.
        old, where = np.zeros((len(chosen), 3, 2), bool), [(0, 1), (2, 0)]
        slopes = np.zeros((*alphas.shape[:2], 2, self.slopes.shape[-1]))
        before = np.zeros_like(cotangents)
        signs = np.empty((len(chosen), 3, 2))
        for side, (third, node) in enumerate(where):
            old[:, third, node] = True
            slopes[:, third, node] = self.slopes[chosen, side]
            before[:, third, node] = self.cotangents[chosen, side]
            signs[:, third, node] = self.signs[chosen, side]
            signs[:, third, 1 - node] = -self.signs[chosen, side]
        signs[:, 1] = self.signs[chosen]
        keep = np.ones(self.panels, bool)
        keep[chosen] = False
        order = np.argsort(np.concatenate([self.alphas[keep, 0], alphas[..., 0].ravel()]), kind="stable")

        def merged(kept: np.ndarray, added: np.ndarray) -> np.ndarray:
            return np.concatenate([kept[keep], added.reshape(-1, *added.shape[2:])])[order]

        changed = merged(np.zeros((self.panels, 2), bool), np.ones_like(old))
        self.outputs, self.slopes = merged(self.outputs, outputs), merged(self.slopes, slopes)
        self._before = merged(self._before, before)
        self.signs, self.cotangents = merged(self.signs, signs), merged(self.cotangents, cotangents)
        self.alphas, self._changed = merged(self.alphas, alphas), changed

    def _sixths(self, chosen: np.ndarray) -> np.ndarray:
        start, stop = self.alphas[chosen, :1], self.alphas[chosen, 2:]
        places = start + (stop - start) * np.arange(7) / 6
        places[:, [0, 3, 6]] = self.alphas[chosen]  # to the bit, so that neighbours share their edges
        return places

    def _jacobians(self, alphas: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        width = np.diff(alphas, axis=-1)
        return width[..., None, None] * self.basis.mean_jacobian(outputs[..., :-1, :], outputs[..., 1:, :])
