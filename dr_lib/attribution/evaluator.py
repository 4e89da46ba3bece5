"""Compiled, fixed-shape evaluation of a function at points of many straight lines, in batches that
stay full.

A `Path` is one straight line from a baseline to an input together with a refinement: a coroutine
that requests values or gradients at places on the line and receives scalars only. The refinements
of many paths run side by side; every batch is filled with rows of any of them, so a path that is
done makes room for the next. This module must not know quadrature, images or networks.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dr_lib.network import backend


@dataclass(frozen=True)
class Request:
    """Asks for the function's values at places on the path or, with cotangents, for gradients.

    alphas (rows,): the places, 0 … 1 from baseline to input.

    With `contrast` gradients are added to the path's sums at once and forgotten: `cotangents`
    (rows, basis, output) carry the quadrature weights, and `contrast` (rows,) are the factors with
    which the same gradients enter the second sum. Without it they are kept, numbered row by row and
    within a row in their order, until a `Commit` names them; rows of one request have equally
    many, those of another may have fewer. `targets` (rows, basis) say to which of the path's
    quantities each gradient is added, −1 for none; without them a row has one for each.
    """

    alphas: np.ndarray
    cotangents: np.ndarray | None = None
    contrast: np.ndarray | None = None
    targets: np.ndarray | None = None


@dataclass(frozen=True)
class Commit:
    """Kept gradients, by their numbers `nodes` (node,), to be added to both sums and forgotten;
    weights, contrasts (node, basis): what each counts in the two sums.
    """

    nodes: np.ndarray
    weights: np.ndarray
    contrasts: np.ndarray


@dataclass(frozen=True)
class Values:
    """The answer to a `Request`: outputs (rows, output) and, after gradients, their products with
    input − baseline (rows, basis).
    """

    outputs: np.ndarray
    slopes: np.ndarray  # without gradients: (rows, 0)


# Started, and resumed after a Commit, by `next`: only a Request is answered.
Refinement = Generator[Request | Commit, Values, Any]


@dataclass
class Path:
    """One straight line, its refinement, and after the run: `sum`, `contrast_sum` (basis, …)
    float32 and the refinement's `result`.
    """

    key: Any
    baseline: np.ndarray
    difference: np.ndarray
    refinement: Refinement
    basis: int
    extras: tuple[np.ndarray, ...] = ()
    contrasted: bool = True
    result: Any = None
    sum: np.ndarray = field(init=False)
    contrast_sum: np.ndarray = field(init=False)  # only if `contrasted`
    # Gradients; None where one isn't there yet, or no more.
    _kept: list[Any] = field(default_factory=list, repr=False)
    _request: Request | None = field(default=None, repr=False)
    _values_so_far: Values | None = field(default=None, repr=False)
    _missing: int = field(default=0, repr=False)
    _first: int = field(default=0, repr=False)  # number of the first kept gradient of this request
    _exact_difference: np.ndarray = field(init=False, repr=False)

    def start(self) -> None:
        self.sum = np.zeros((self.basis, *self.difference.shape), np.float32)
        if self.contrasted:
            self.contrast_sum = np.zeros_like(self.sum)
        self._exact_difference = self.difference.ravel().astype(np.float64)
        self._advance(None)

    @property
    def done(self) -> bool:
        return self._request is None

    @property
    def request(self) -> Request:
        """What the refinement waits for, until it has ended."""
        assert self._request is not None
        return self._request

    def point(self, row: int) -> np.ndarray:
        return self.baseline + np.float32(self.request.alphas[row]) * self.difference

    def take(self, row: int, outputs: np.ndarray, gradients: np.ndarray | None) -> None:
        """Takes in one row: its outputs (output,), and its gradients (basis, …), which are added to
        the sums, or kept if their weights are still open.
        """
        request, values = self.request, self._values_so_far
        if values is None:
            rows, basis = len(request.alphas), 0 if gradients is None else len(gradients)
            shapes = ((rows, len(outputs)), (rows, basis))
            values = self._values_so_far = Values(*map(np.zeros, shapes))
        # Infinities become NaN here: one network gone wrong then spoils its own image silently
        # instead of warning on every sum.
        values.outputs[row] = np.where(np.isfinite(outputs), outputs, np.nan)
        if gradients is not None:
            # float64: terms of both signs nearly cancel, and a residual is the small difference of
            # two such sums.
            values.slopes[row] = (
                gradients.reshape(len(gradients), -1).astype(np.float64) @ self._exact_difference
            )
            if request.targets is not None:
                for target, gradient in zip(request.targets[row], gradients, strict=True):
                    if target >= 0:
                        self.sum[target] += gradient
            elif request.contrast is None:
                first = self._first + row * len(gradients)
                # Copies: views of one array would all have to be committed before any of its
                # memory is free.
                self._kept[first : first + len(gradients)] = map(np.copy, gradients)
            else:
                self.sum += gradients
                if self.contrasted and request.contrast[row]:
                    self.contrast_sum += np.float32(request.contrast[row]) * gradients
        self._missing -= 1
        if self._missing == 0:
            self._advance(values)

    def _advance(self, values: Values | None) -> None:
        self._values_so_far = None
        try:
            message = next(self.refinement) if values is None else self.refinement.send(values)
            while isinstance(message, Commit):
                self._commit(message)
                message = next(self.refinement)
            self._request, self._missing = message, len(message.alphas)
            kept = message.contrast is None and message.targets is None
            if message.cotangents is not None and kept:
                self._first = len(self._kept)
                self._kept += [None] * (self._missing * message.cotangents.shape[1])
        except StopIteration as stop:
            self._request, self.result = None, stop.value

    def _commit(self, commit: Commit) -> None:
        for node, weights, contrasts in zip(
            commit.nodes, commit.weights, commit.contrasts, strict=True
        ):
            gradient, self._kept[node] = self._kept[node], None
            for number in np.flatnonzero(weights):
                self.sum[number] += np.float32(weights[number]) * gradient
            for number in np.flatnonzero(contrasts) if self.contrasted else ():
                self.contrast_sum[number] += np.float32(contrasts[number]) * gradient


class Evaluator:
    """Runs paths through one function; keeps its compiled forms, so reuse it for the same function.

    Parameters
    ----------
    function: (n, …) float32 tensor and one (n, …) tensor per extra -> (n,) or (n, output).
    batch_size: rows of one call; halved for good whenever memory runs out.

    `forward_rows` and `gradient_rows` count the rows asked for, `backward_passes` the gradients in
    them, `calls` the batches.
    """

    def __init__(self, function: Callable, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        # Whether the function answers (n,): known after the first call.
        self.squeezed: bool | None = None
        self._outputs: int | None = None
        self.forward_rows = self.gradient_rows = self.backward_passes = self.calls = 0

        def outputs(x: Any, *extras: Any) -> Any:
            answer = function(x, *extras)
            if answer.ndim not in (1, 2):
                raise ValueError(f"the function must answer (n,) or (n, q), not {answer.ndim} axes")
            self.squeezed = answer.ndim == 1
            return answer[:, None] if self.squeezed else answer

        def products(x: Any, cotangents: Any, *extras: Any) -> Any:
            basis = cotangents.shape[1]
            return backend.vjps(
                lambda y: outputs(y, *extras), x, [cotangents[:, b] for b in range(basis)]
            )

        self._values = backend.compiled(outputs)
        self._products = backend.compiled(products)

    def values(self, x: np.ndarray, *extras: np.ndarray) -> np.ndarray:
        """The function's outputs (n, output) at any number of inputs."""
        answers, size = [], self.batch_size
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            answers.append(self._run([x[rows], *[e[rows] for e in extras]], None)[0])
            self.forward_rows += len(x[rows])
        return np.concatenate(answers)

    def outputs_of(self, x: np.ndarray, *extras: np.ndarray) -> int:
        """How many numbers the function answers per row: found by tracing its shapes once, at
        the price of one batch.
        """
        if self._outputs is None:
            self._outputs = self._run([x, *extras], None)[0].shape[1]
        return self._outputs

    def run(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Each path when its refinement has ended; paths are drawn only as batches have room, so
        memory is that of a batch.
        """
        # Rows by how many gradients they request, 0 for a forward pass: each number is a compiled
        # function of its own.
        waiting: dict[int, deque] = {0: deque()}
        source = iter(paths)
        exhausted = False

        def enlist(path: Path) -> Iterator[Path]:
            if path.done:
                yield path
            else:
                width = 0 if path.request.cotangents is None else path.request.cotangents.shape[1]
                waiting.setdefault(width, deque()).extend(
                    (path, row) for row in range(path._missing)
                )

        while True:
            # Gradients first: a short batch of them has room for forwards, not the other way round.
            width = max(
                waiting,
                key=lambda width: (
                    len(waiting[width]) >= self.batch_size,
                    width > 0,
                    len(waiting[width]),
                ),
            )
            if len(waiting[width]) < self.batch_size and not exhausted:
                path = next(source, None)
                if path is None:
                    exhausted = True
                else:
                    path.start()
                    yield from enlist(path)
                continue
            # Only when nothing can fill a batch any more is a short one run.
            width = width if waiting[width] else 0
            if not waiting[width]:
                return
            rows = [
                waiting[width].popleft() for _ in range(min(self.batch_size, len(waiting[width])))
            ]
            rows += [
                waiting[0].popleft()
                for _ in range(min(self.batch_size - len(rows), len(waiting[0])))
            ]
            for path in self._run_rows(rows, width > 0):
                yield from enlist(path)

    def _run_rows(self, rows: list[tuple[Path, int]], with_gradients: bool) -> list[Path]:
        x = np.stack([path.point(row) for path, row in rows])
        extras = [np.stack(parts) for parts in zip(*[path.extras for path, _ in rows], strict=True)]
        cotangents = None
        if with_gradients:
            asked = [path.request.cotangents for path, _ in rows]
            shape = next(c for c in asked if c is not None).shape[1:]
            # A forward row in a gradient batch has cotangent 0: its gradient is 0 and thrown away.
            parts = [
                np.zeros(shape) if c is None else c[row]
                for c, (_, row) in zip(asked, rows, strict=True)
            ]
            cotangents = np.stack(parts).astype(np.float32)
        outputs, gradients = self._run([x, *extras], cotangents)
        advanced = []
        for place, (path, row) in enumerate(rows):
            row_gradients = None
            if path.request.cotangents is not None:
                row_gradients = np.stack([gradient[place] for gradient in gradients])
                self.gradient_rows += 1
                self.backward_passes += len(row_gradients)
            else:
                self.forward_rows += 1
            last = path._missing == 1
            path.take(row, outputs[place], row_gradients)
            if last:
                advanced.append(path)
        return advanced

    def _run(
        self, arrays: list[np.ndarray], cotangents: np.ndarray | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Outputs and gradients of up to `batch_size` rows; if memory runs out, the batch is
        halved from then on.
        """
        rows = len(arrays[0])
        parts = []
        start = 0
        while start < rows:
            stop = min(start + self.batch_size, rows)
            try:
                batch = [array[start:stop] for array in arrays]
                asked = None if cotangents is None else cotangents[start:stop]
                parts.append(self._run_batch(batch, asked))
            except Exception as error:
                if self.batch_size == 1 or not backend.is_out_of_memory(error):
                    raise
                self.batch_size //= 2
                continue
            start = stop
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([part[0] for part in parts]), [
            np.concatenate(g) for g in zip(*(p[1] for p in parts), strict=True)
        ]

    def _run_batch(
        self, arrays: list[np.ndarray], cotangents: np.ndarray | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """One call, padded with copies of the last row so that one compiled shape serves all."""
        self.calls += 1
        rows = len(arrays[0])
        x, *extras = [
            backend.tensor(_padded(np.asarray(array), self.batch_size)) for array in arrays
        ]
        if cotangents is None:
            return np.asarray(self._values(x, *extras))[:rows], []
        padded = backend.tensor(_padded(cotangents, self.batch_size))
        outputs, gradients = self._products(x, padded, *extras)
        return np.asarray(outputs)[:rows], [np.asarray(gradient)[:rows] for gradient in gradients]


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
