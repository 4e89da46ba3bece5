"""Our side of the attribution benchmark: this project's engine on TensorFlow, asked by
`attribution.py`.
"""

import dataclasses
import time
from typing import Any

import attribution_sides
import numpy as np
from attribution_meters import evaluators, forward_flops, matrix_rate, metered

from dr_lib.attribution import (
    AttributionParams,
    integrated_gradients,
    quadrature,
    split_at,
    stage_quantities,
    strongest_neurons,
)
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.explain import Explainer, suggested_batch_size
from dr_lib.attribution.integrated import RefinementMaker, attributions
from dr_lib.attribution.neurons import NeuronEngine
from dr_lib.attribution.quantities import identity_quantities
from dr_lib.attribution.receptive import cone_spans
from dr_lib.network import backend
from dr_lib.network.graph import rebuilt
from dr_lib.network.layers import logits_model
from dr_lib.network.model import ModelParams, build, scaled
from tests.unit.counting import Counting

STAGES = tuple(f"stage{stage}" for stage in range(5))
LOGITS = tuple(f"logit{stage}" for stage in range(5))
# Where the gap is the only promise: the fewest points that leave borders to move.
GAP_ALONE_POINTS = 4
# What an evaluator of `dr_lib.attribution.explain` computes, by the attribute that holds it.
WORK = {
    "activations": "h(x)",
    "upper": "outcome → units",
    "sums": "resultant",
    "evaluator": "neurons' regions",
    "inner": "neurons' inner regions",
}


class Side:
    """The engine with one model; everything is compiled before it is timed."""

    def __init__(
        self,
        model: dict[str, Any],
        weights: str | None,
        threads: int,
        floor: float,
        tolerance: float,
    ) -> None:
        backend.configure(threads=threads)
        self.model = build(ModelParams(**model))
        if weights:
            self.model.load_weights(weights)
        self.model.trainable = False
        self.params = AttributionParams(floor=floor, tolerance=tolerance)
        self.batch = suggested_batch_size(self.model)
        self.logits = logits_model(self.model)
        self.pixels = Counting(lambda x: self.logits(x, training=False), self.batch)
        self.probability = Evaluator(_weighted(self.model), self.batch)
        self._slopes = backend.compiled(self._slopes_and_logits)
        self._engines: dict[str, NeuronEngine] = {}

    # What there is

    def describe(self) -> dict[str, Any]:
        """Versions, the matrix rate (FLOP/s) and one pass' cost: FLOPs, seconds of a forward and
        of a gradient.
        """
        import keras

        x = np.zeros((self.batch, *self.model.inputs[0].shape[1:]), np.float32)
        x[:] = np.random.default_rng(0).normal(scale=0.3, size=x.shape)
        once = np.ones((len(x), self.model.outputs[0].shape[-1]), np.float32) / 5
        forward, gradient = (
            backend.compiled(_weighted(self.model)),
            backend.compiled(self._gradient),
        )
        tensors = [backend.tensor(x), backend.tensor(once)]
        forward(*tensors), gradient(*tensors)
        return {
            "versions": f"Keras {keras.__version__} on {backend.name()}",
            "batch": self.batch,
            "flops": forward_flops(self.model),
            "forward": attribution_sides.quickest(lambda: np.asarray(forward(*tensors))) / len(x),
            "gradient": attribution_sides.quickest(lambda: np.asarray(gradient(*tensors))) / len(x),
            "matrix_rate": matrix_rate(),
        }

    def save_weights(self, path: str, scale: float) -> None:
        """Writes the weights to a file, those of the last layer multiplied: random ones move no
        probability otherwise.
        """
        last = self.model.layers[-1]
        last.set_weights([weight * scale for weight in last.get_weights()])
        self.model.save_weights(path)

    def outputs(self, pixels: np.ndarray) -> np.ndarray:
        """The stages' probabilities."""
        return np.concatenate(
            [np.asarray(self.model(one[None], training=False)) for one in scaled(pixels)]
        )

    # a. neurons

    def neurons(self, pixels: np.ndarray, layer: str, count: int, points: int) -> dict[str, Any]:
        """Seconds a neuron, the neurons chosen (most positive first) and their maps on the whole
        image.
        """
        x = scaled(pixels)
        lower, upper = split_at(self.model, layer)
        above = Evaluator(lambda h: upper(h, training=False), self.batch)
        h = np.concatenate([np.asarray(lower(one[None], training=False)) for one in x])
        h0 = np.asarray(lower(np.zeros_like(x[:1]), training=False))[0]
        chosen = []
        for one in attributions(
            above, identity_quantities(5), h, h0, RefinementMaker(8, "midpoint", None, 8)
        ):
            found = strongest_neurons(one.values[int(np.argmax(one.refinement.outcome))], count)[0]
            chosen.append((one.index, found))
        ranks = min(len(found) for _, found in chosen)
        if ranks == 0:
            raise ValueError(
                f"an eye has no neuron with a positive attribution at {layer}: a model without"
                " training?"
            )
        chosen = [found[:ranks] for _, found in sorted(chosen, key=lambda pair: pair[0])]
        engine = self._engines.setdefault(layer, NeuronEngine(lower, self.batch))
        zeros = np.zeros(x.shape[1:], np.float32)
        engine.regions(x[:1], zeros, [chosen[0][:1]], RefinementMaker(2))  # compiles
        started = time.perf_counter()
        regions = engine.regions(x, zeros, chosen, RefinementMaker(points))
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds / (len(x) * ranks),
            "timed": len(x) * ranks,
            "side": engine.side,
            "neurons": chosen[0],
            "values": regions.values[0],
            "origin": regions.origin[0],
            "gap": float(np.abs(regions.gap).max()),
        }

    # b. outcome → pixels

    def adaptive(
        self,
        pixels: np.ndarray,
        quantities: tuple[str, ...] = STAGES,
        max_points: int = 0,
        gap_alone: bool = False,
    ) -> dict[str, Any]:
        """All quantities of one or more eyes: seconds, passes, gaps, maps. With the product's
        settings, which keep residuals from cancelling and start from enough points for a good map;
        or, like the others, with the gap as the only promise.
        """
        quantities = stage_quantities(quantities)
        x, p = scaled(pixels), self.params
        if gap_alone:
            p = dataclasses.replace(p, points=GAP_ALONE_POINTS, residual_tolerance=100.0)
        self._warm(x[:1], quantities)

        def spent() -> np.ndarray:
            e = self.pixels
            return np.array(
                [
                    e.forward_rows,
                    e.gradient_rows,
                    e.forward_rows + e.gradient_rows + e.backward_passes,
                ]
            )

        before = spent()
        started = time.perf_counter()
        found = integrated_gradients(
            self.pixels,
            x,
            np.zeros(x.shape[1:], np.float32),
            points=p.points,
            tolerance=p.tolerance,
            max_points=max_points or p.max_points,
            quantities=quantities,
            floor=p.floor,
            residual_tolerance=p.residual_tolerance or None,
        )
        seconds = time.perf_counter() - started
        forwards, gradients, passes = (int(number) for number in spent() - before)
        change = found.outcome - found.baseline_outcome
        return {
            "seconds": seconds,
            "passes": passes,
            "forwards": forwards,
            "gradients": gradients,
            "points": found.points.max(axis=1),
            "converged": found.converged,
            "relative": np.abs(found.gap) / np.maximum(np.abs(change), p.floor),
            "maps": found.values if len(x) == 1 else None,
        }

    def sufficient(
        self, pixels: np.ndarray, rule: str, ladder: tuple[int, ...], steady: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per stage of one eye the first number of points of a ladder whose gap holds, and with
        `steady` the first from which on all of them hold; 0 where there is none.

        The gap needs the derivative along the line only, which costs one forward and one more pass
        for all stages together; every number of points is evaluated at exactly its own nodes.
        """
        x = scaled(pixels)[0]
        ends = self._stages(np.stack([np.zeros_like(x), x]))
        change = ends[1] - ends[0]
        allowed = self.params.tolerance * np.maximum(np.abs(change), self.params.floor)
        known: dict[float, np.ndarray] = {}
        first, since = np.zeros(len(change), int), np.zeros(len(change), int)
        for points in ladder:
            alphas, weights = quadrature(rule, points)
            keys = [round(float(alpha), 12) for alpha in alphas]
            missing = [key for key in dict.fromkeys(keys) if key not in known]
            known.update(zip(missing, self._slopes_at(x, np.array(missing)), strict=True))
            holds = np.abs(weights @ np.stack([known[key] for key in keys]) - change) <= allowed
            first = np.where((first == 0) & holds, points, first)
            since = np.where(holds, np.where(since == 0, points, since), 0)
            if first.all() and not steady:
                break
        return first, since

    def plain(
        self, pixels: np.ndarray, points: tuple[int, ...], rule: str = "midpoint"
    ) -> dict[str, Any]:
        """Each stage's probability by a fixed rule with its own number of points: two passes a
        point.
        """
        x = scaled(pixels)
        each = np.repeat(x, len(points), axis=0)
        once = np.eye(len(points), dtype=np.float32)
        zeros = np.zeros(x.shape[1:], np.float32)
        list(
            attributions(
                self.probability,
                identity_quantities(1),
                x,
                zeros,
                RefinementMaker(1, rule, None, 1),
                extras=(once[:1],),
            )
        )
        numbers = iter(points)  # lines are drawn in order
        started = time.perf_counter()
        maps = np.zeros((len(points), *x.shape[1:]), np.float32)
        relative = np.zeros(len(points))
        for one in attributions(
            self.probability,
            identity_quantities(1),
            each,
            zeros,
            lambda quantities: RefinementMaker(next(numbers), rule, None, 1)(quantities),
            extras=(once,),
        ):
            maps[one.index] = one.values[0]
            change = one.refinement.outcome - one.refinement.baseline_outcome
            relative[one.index] = (np.abs(one.gap) / np.maximum(np.abs(change), self.params.floor))[
                0
            ]
        return {"seconds": time.perf_counter() - started, "relative": relative, "maps": maps}

    # c. outcome → layer

    def layer(self, pixels: np.ndarray, layer: str, points: int) -> dict[str, Any]:
        """The predicted stage on one eye's units by midpoints: seconds (h(x) and h(x')
        included), stage and values.
        """
        x = scaled(pixels)
        lower, upper = split_at(self.model, layer)
        below, above = (
            backend.compiled(lambda z: lower(z, training=False)),
            Evaluator(_weighted(upper), self.batch),
        )
        stage = int(np.argmax(self.outputs(pixels)[0]))
        once = np.eye(5, dtype=np.float32)[[stage]]

        def work(points: int) -> np.ndarray:
            h0, h = np.asarray(below(backend.tensor(np.concatenate([np.zeros_like(x), x]))))
            refinement = RefinementMaker(points, "midpoint", None, points)
            return next(
                iter(
                    attributions(
                        above, identity_quantities(1), h[None], h0, refinement, extras=(once,)
                    )
                )
            ).values[0]

        work(1)
        started = time.perf_counter()
        values = work(points)
        return {"seconds": time.perf_counter() - started, "stage": stage, "values": values}

    # d. one eye's complete explanation

    def whole(self, pixels: np.ndarray, layers: tuple[str, ...]) -> dict[str, Any]:
        """The last eye's complete explanation after the others have compiled it: seconds and
        FLOPs by kind of work.
        """
        params = AttributionParams(
            quantities=STAGES,
            layers=layers,
            floor=self.params.floor,
            tolerance=self.params.tolerance,
        )
        explainer = Explainer(self.model, params)
        explainer.explain(pixels[:1])
        explainer.seconds.clear()
        with metered() as meters:
            started = time.perf_counter()
            explainer.explain(pixels[-1:])
            seconds = time.perf_counter() - started
        parts = []
        for path, evaluator in evaluators(explainer):
            meter = meters.get(id(evaluator))
            if meter is None:
                continue
            layer = next((name for name in layers if name in path), None)
            whole = "lesion map" if path[-1] == "disease" else "outcome → pixels"
            label = f"{layer}: {WORK.get(path[-1], path[-1])}" if layer else whole
            flops = meter["passes"] * self._flops(layer, path, explainer)
            parts.append(
                {
                    "part": label,
                    "seconds": meter["seconds"],
                    "rows": meter["rows"],
                    "passes": meter["passes"],
                    "flops": flops,
                }
            )
        return {"seconds": seconds, "parts": parts, "by_part": dict(explainer.seconds)}

    def _flops(self, layer: str | None, path: tuple[str, ...], explainer: Explainer) -> float:
        if layer is None:
            return forward_flops(self.logits)
        lower, upper = split_at(self.logits, layer)
        if path[-1] == "upper":
            return forward_flops(upper)
        if path[-1] == "evaluator":
            whole = forward_flops(lower)
            engine = explainer.layers[layer].neurons
            if engine.whole:
                return whole
            return forward_flops(rebuilt(lower, engine.side))
        if path[-1] == "inner":
            return forward_flops(lower, cone_spans(lower))
        return forward_flops(lower)

    # f. memory

    def peak(self, kind: str, pixels: np.ndarray, layer: str, points: int) -> dict[str, int]:
        """The most memory this process has held, before and after one attribution with so many
        points.
        """
        x, zeros = scaled(pixels), np.zeros(pixels.shape[1:], np.float32)
        before = attribution_sides.peak_memory_bytes()
        if kind == "pixels":
            integrated_gradients(
                self.pixels, x, zeros, points=points, quantities=stage_quantities(STAGES)
            )
        else:
            lower, _ = split_at(self.model, layer)
            size = int(lower.outputs[0].shape[1])
            index = np.stack([np.full(10, size // 2), np.arange(10) % size, np.arange(10)], axis=1)
            NeuronEngine(lower, self.batch).regions(
                x, zeros, [index] * len(x), RefinementMaker(points)
            )
        return {"before": before, "peak": attribution_sides.peak_memory_bytes()}

    # Parts

    def _warm(self, x: np.ndarray, quantities: Any) -> None:
        """Compiles what asks for all gradients of a point, and for a single one."""
        for own in (quantities, stage_quantities(STAGES[:1])):
            list(
                attributions(
                    self.pixels,
                    own,
                    x,
                    np.zeros(x.shape[1:], np.float32),
                    RefinementMaker(1, "midpoint", None, 1),
                )
            )

    def _gradient(self, x: Any, once: Any) -> Any:
        return backend.vjp(lambda z: self.model(z, training=False), x, once)[1]

    def _slopes_and_logits(self, x: Any, direction: Any, zeros: Any) -> tuple[Any, Any]:
        """Logits and their derivative along `direction`: the gradient is linear in its
        cotangent, whose own gradient that is.
        """
        slopes = backend.vjp(
            lambda cotangent: backend.vjp(lambda z: self.logits(z, training=False), x, cotangent)[
                1
            ],
            zeros,
            direction,
        )
        return slopes[1], self.logits(x, training=False)

    def _slopes_at(self, x: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        """(alphas, stage): dP/dα on the line from half-gray."""
        found = []
        for start in range(0, len(alphas), self.batch):
            own = np.resize(alphas[start : start + self.batch], self.batch).astype(np.float32)
            points, direction = (
                own[:, None, None, None] * x,
                np.broadcast_to(x, (self.batch, *x.shape)),
            )
            tensors = [
                backend.tensor(a)
                for a in (points, direction, np.zeros((self.batch, 5), np.float32))
            ]
            slope, logits = (np.asarray(a, np.float64) for a in self._slopes(*tensors))
            p = stage_quantities(STAGES).values(logits)
            slope = p * (slope - (p * slope).sum(axis=1, keepdims=True))
            found.append(slope[: len(alphas) - start])
        return np.concatenate(found) if found else np.zeros((0, 5))

    def _stages(self, x: np.ndarray) -> np.ndarray:
        return stage_quantities(STAGES).values(self.pixels.values(x))


def _weighted(network: Any) -> Any:
    """(n, …) and weights (n, stages) -> (n,): one stage of each row."""

    def weighted(x: Any, weights: Any) -> Any:
        from keras import ops

        return ops.sum(network(x, training=False) * weights, axis=-1)

    return weighted
