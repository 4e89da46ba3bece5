"""What an explanation costs: operations of a network, the machine's matrix rate, and a meter on
every evaluator.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from attribution_sides import quickest

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.network import backend
from dr_lib.network.graph import calls


def forward_flops(model: Any, spans: dict[int, Any] | None = None) -> float:
    """Floating-point operations of one image's forward pass in convolutions and dense layers; a
    multiply-add counts two.

    spans: the places of each tensor that are computed (`cone_spans`), where that is not all.
    """
    total = 0.0
    for layer, sources, outputs in calls(model):
        shape = outputs[0].shape
        if spans:
            shape = (None, *(end - first for first, end in spans[id(outputs[0])]), shape[-1])
        kind = type(layer).__name__
        if kind == "Conv2D":
            total += 2.0 * np.prod(layer.kernel_size) * sources[0].shape[-1] * np.prod(shape[1:])
        elif kind in ("Dense", "Logits"):
            total += 2.0 * sources[0].shape[-1] * np.prod(shape[1:])
    return total


def matrix_rate(size: int = 2048) -> float:
    """FLOP/s of the framework's product of two large float32 matrices, the fastest of a few."""
    from keras import ops

    random = np.random.default_rng(0)
    a, b = (backend.tensor(random.normal(size=(size, size)).astype(np.float32)) for _ in range(2))
    product = backend.compiled(ops.matmul)
    np.asarray(product(a, b))[0, 0]
    return 2.0 * size**3 / quickest(lambda: np.asarray(product(a, b)), 20)


def evaluators(
    thing: Any, path: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[tuple[str, ...], Evaluator]]:
    """Every evaluator within an object of this project, with the attributes and keys that lead
    to it.
    """
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Evaluator):
        yield path, thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from evaluators(value, (*path, str(key)), seen)
    elif type(thing).__module__.startswith("dr_lib."):
        for key, value in vars(thing).items():
            yield from evaluators(value, (*path, key), seen)


@contextlib.contextmanager
def metered() -> Iterator[dict[int, dict[str, float]]]:
    """Counts every batch that any evaluator runs meanwhile: seconds, rows, and passes (a
    backward counts one).
    """
    meters: dict[int, dict[str, float]] = {}
    original = Evaluator._run_batch

    def timed(self: Evaluator, arrays: list[np.ndarray], cotangents: np.ndarray | None) -> Any:
        started = time.perf_counter()
        found = original(self, arrays, cotangents)
        meter = meters.setdefault(id(self), {"seconds": 0.0, "rows": 0, "passes": 0})
        meter["seconds"] += time.perf_counter() - started
        meter["rows"] += len(arrays[0])
        meter["passes"] += len(arrays[0]) * (1 if cotangents is None else 1 + cotangents.shape[1])
        return found

    Evaluator._run_batch = timed
    try:
        yield meters
    finally:
        Evaluator._run_batch = original
