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
    """Counts every batch that any evaluator runs meanwhile, one after the other: seconds, rows, and
    passes (a backward counts one).
    """
    meters: dict[int, dict[str, float]] = {}
    original = Evaluator._batch

    def timed(self: Evaluator, rows: list, width: int) -> Any:
        started = time.perf_counter()
        batch = original(self, rows, width)
        backend.fetched(batch.outputs)
        meter = meters.setdefault(id(self), {"seconds": 0.0, "rows": 0, "passes": 0})
        meter["seconds"] += time.perf_counter() - started
        meter["rows"] += len(rows)
        meter["passes"] += len(rows) * (1 + width)
        return batch

    Evaluator._batch = timed
    try:
        yield meters
    finally:
        Evaluator._batch = original


@contextlib.contextmanager
def counted() -> Iterator[dict[int, dict[int, list[Any]]]]:
    """By evaluator and by how many gradients a row has: how many rows any evaluator computes
    meanwhile, and a path and a cotangent (output,) of such a row. Takes no time of its own.
    """
    rows: dict[int, dict[int, list[Any]]] = {}
    original = Evaluator._batch

    def noted(self: Evaluator, part: list, width: int) -> Any:
        path = max((path for path, _ in part), key=lambda path: path.width)
        cotangent = path.request.cotangents[0, 0] if width else None
        own = rows.setdefault(id(self), {}).setdefault(width, [0, path.tensors, cotangent])
        own[0] += len(part)
        return original(self, part, width)

    Evaluator._batch = noted
    try:
        yield rows
    finally:
        Evaluator._batch = original


def bare_seconds(
    evaluator: Evaluator, width: int, tensors: list[Any], cotangent: np.ndarray | None
) -> float:
    """Seconds a row of the evaluator's function, compiled by itself: full batches of data that are
    on the device already, `width` gradients each; nothing comes back but one number.
    """
    from keras import ops

    line, *extras = ([tensor] * evaluator.batch_size for tensor in tensors)
    x = backend.stack(line)[:, 0] + 0.5 * backend.stack(line)[:, 1]
    extras = [backend.stack(parts) for parts in extras]

    def work(x: Any, cotangents: Any, *extras: Any) -> Any:
        def function(y: Any) -> Any:
            return evaluator.function(y, *extras)

        if not width:
            return ops.sum(function(x))
        parts = [cotangents[number] for number in range(width)]
        return sum(ops.sum(g) for g in backend.vjps(function, x, parts)[1])

    outputs = () if evaluator.squeezed or cotangent is None else cotangent.shape
    cotangents = backend.tensor(np.ones((width, evaluator.batch_size, *outputs), np.float32))
    compiled = backend.compiled(work)

    def run() -> None:
        for _ in range(3):
            last = compiled(x, cotangents, *extras)
        backend.fetched(last)

    run()
    return quickest(run) / 3 / evaluator.batch_size
