"""Compiled, fixed-shape evaluation of a function at points of many straight lines, in batches that
stay full.

A `Path` is a straight line from a baseline to an input together with a refinement: a coroutine that
requests values or gradients at points on the line and receives scalars only. The refinements of
many paths run side by side; every batch is filled with rows of any of them, so a path that is done
makes room for the next. This module must not know quadrature, images or networks.

The way of a row: a refinement yields a `Request`; `Evaluator.run` queues its rows; `_run_rows`
forms their points and runs a batch; `Path.take` hands the scalars to the refinement and the
gradients to the path's sums.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dr_lib.network import backend


@dataclass(frozen=True)
class Request:
    """Asks for the function's values at points of the path or, with cotangents, for gradients.

    Gradients with `contrast` or `targets` are added to the path's sums at once and forgotten;
    `cotangents` then carry the quadrature weights. Others are kept, numbered row by row and within
    a row in their order, until a `Commit` names them.

    Parameters
    ----------
    alphas: (row,) the points, 0 … 1 from baseline to input.
    cotangents: (row, basis, output). Rows of a request have equally many gradients, those of
        another may have fewer.
    contrast: (row,) factors with which the gradients enter the second sum.
    targets: (row, basis) the number of the sum to which each gradient is added, −1 for none;
        without them a row has a gradient for each sum.
    """

    alphas: np.ndarray
    cotangents: np.ndarray | None = None
    contrast: np.ndarray | None = None
    targets: np.ndarray | None = None


@dataclass(frozen=True)
class Commit:
    """Kept gradients that are to be added to both sums and forgotten.

    nodes: (node,) their numbers. weights, contrasts: (node, basis) what each counts in the two
    sums.
    """

    nodes: np.ndarray
    weights: np.ndarray
    contrasts: np.ndarray


@dataclass(frozen=True)
class Values:
    """The answer to a `Request`.

    outputs: (row, output) what the function answers. slopes: (row, basis) the gradients' products
    with input − baseline; (row, 0) without gradients.
    """

    outputs: np.ndarray
    slopes: np.ndarray


# Started, and resumed after a Commit, by `next`: only a Request is answered.
Refinement = Generator[Request | Commit, Values, Any]


@dataclass
class Path:
    """A straight line and its refinement; after the run also `sum`, `contrast_sum` (basis, …)
    float32 and the refinement's `result`.

    Parameters
    ----------
    key: tells the caller which path this is.
    baseline, difference: (…) float32: the line's start, and input − baseline.
    basis: how many gradients are summed side by side.
    extras: further arguments of the evaluator's function, the same at every point.
    contrasted: whether `contrast_sum` is wanted.
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
    missing_rows: int = field(default=0, init=False)  # of the present request
    # Gradients; None where a gradient isn't there yet, or no more.
    _kept: list[Any] = field(default_factory=list, init=False, repr=False)
    _first: int = field(default=0, init=False, repr=False)  # number of the request's first gradient
    _request: Request | None = field(default=None, init=False, repr=False)
    _answer: Values | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Makes room for the sums and lets the refinement ask for the first time."""
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

    @property
    def width(self) -> int:
        """How many gradients each row of the request asks for; 0 for a forward pass."""
        return 0 if self.request.cotangents is None else self.request.cotangents.shape[1]

    def point(self, row: int) -> np.ndarray:
        """The place on the line at which a row of the request is to be computed."""
        return self.baseline + np.float32(self.request.alphas[row]) * self.difference

    def take(self, row: int, outputs: np.ndarray, gradients: np.ndarray) -> None:
        """Takes in a row: its outputs (output,), and its gradients (basis, …), which are added to
        the sums, or kept if their weights are still open.
        """
        if self._answer is None:
            rows = len(self.request.alphas)
            self._answer = Values(np.zeros((rows, len(outputs))), np.zeros((rows, self.width)))
        # Infinities become NaN here: a network gone wrong then spoils its own image silently
        # instead of warning on every sum.
        self._answer.outputs[row] = np.where(np.isfinite(outputs), outputs, np.nan)
        if self.width:
            # float64: terms of both signs nearly cancel, and a residual is the small difference of
            # two such sums.
            flat = gradients.reshape(len(gradients), -1).astype(np.float64)
            self._answer.slopes[row] = flat @ self._exact_difference
            self._add(row, gradients)
        self.missing_rows -= 1
        if not self.missing_rows:
            self._advance(self._answer)

    def _add(self, row: int, gradients: np.ndarray) -> None:
        """Adds a row's gradients (basis, …) to the sums, or keeps them for a `Commit`."""
        request = self.request
        if request.targets is not None:
            for target, gradient in zip(request.targets[row], gradients, strict=True):
                if target >= 0:
                    self.sum[target] += gradient
        elif request.contrast is None:
            first = self._first + row * len(gradients)
            # Copies: views of one array would all have to be committed before any of its memory is
            # free.
            self._kept[first : first + len(gradients)] = map(np.copy, gradients)
        else:
            self.sum += gradients
            if self.contrasted and request.contrast[row]:
                self.contrast_sum += np.float32(request.contrast[row]) * gradients

    def _advance(self, values: Values | None) -> None:
        """Hands the refinement the answer to its request, and takes in its next request."""
        self._answer = None
        try:
            message = next(self.refinement) if values is None else self.refinement.send(values)
            while isinstance(message, Commit):
                self._commit(message)
                message = next(self.refinement)
        except StopIteration as stop:
            self._request, self.result = None, stop.value
            return
        self._request, self.missing_rows = message, len(message.alphas)
        if message.contrast is None and message.targets is None:
            self._first = len(self._kept)
            self._kept += [None] * (self.missing_rows * self.width)

    def _commit(self, commit: Commit) -> None:
        """Adds kept gradients to the sums with the weights they were given, and forgets them."""
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
        self.forward_rows += len(x)
        return self._run([x, *extras], None)[0]

    def outputs_of(self, x: np.ndarray) -> int:
        """How many numbers the function answers per row; at first it takes a batch to know."""
        if self._outputs is None:
            self._outputs = self._run([x], None)[0].shape[1]
        return self._outputs

    def run(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Each path when its refinement has ended; paths are drawn only as batches have room, so
        memory is that of a batch.
        """
        # Rows by how many gradients they request, 0 for a forward pass: each number is a compiled
        # function of its own.
        waiting: dict[int, deque[tuple[Path, int]]] = {0: deque()}
        source: Iterator[Path] | None = iter(paths)

        def enlist(path: Path) -> Iterator[Path]:
            if path.done:
                yield path
            else:
                rows = waiting.setdefault(path.width, deque())
                rows.extend((path, row) for row in range(path.missing_rows))

        def urgency(width: int) -> tuple[bool, bool, int]:
            # Gradients first: a short batch of them has room for forwards, not the other way round.
            return len(waiting[width]) >= self.batch_size, width > 0, len(waiting[width])

        while True:
            width = max(waiting, key=urgency)
            if len(waiting[width]) < self.batch_size and source is not None:
                path = next(source, None)
                if path is None:
                    source = None
                else:
                    path.start()
                    yield from enlist(path)
                continue
            # Only when nothing can fill a batch any more is a short batch run.
            width = width if waiting[width] else 0
            if not waiting[width]:
                return
            rows: list[tuple[Path, int]] = []
            for queue in (waiting[width], waiting[0]):
                while queue and len(rows) < self.batch_size:
                    rows.append(queue.popleft())
            for path in self._run_rows(rows, width):
                yield from enlist(path)

    def _run_rows(self, rows: list[tuple[Path, int]], width: int) -> list[Path]:
        """Runs rows of any paths, `width` gradients each (0: outputs alone); the paths whose
        request is answered.
        """
        x = np.stack([path.point(row) for path, row in rows])
        extras = [np.stack(parts) for parts in zip(*[path.extras for path, _ in rows], strict=True)]
        cotangents = None
        if width:
            asked = [(path.request.cotangents, row) for path, row in rows]
            shape = next(c.shape[1:] for c, _ in asked if c is not None)
            # A forward row in a gradient batch has cotangent 0: its gradient is 0 and thrown away.
            parts = [np.zeros(shape) if c is None else c[row] for c, row in asked]
            cotangents = np.stack(parts).astype(np.float32)
        outputs, gradients = self._run([x, *extras], cotangents)
        answered = []
        for place, (path, row) in enumerate(rows):
            self.gradient_rows += path.width > 0
            self.forward_rows += path.width == 0
            self.backward_passes += path.width
            if path.missing_rows == 1:
                answered.append(path)
            path.take(row, outputs[place], gradients[place])
        return answered

    def _run(
        self, arrays: list[np.ndarray], cotangents: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (row, output) and gradients (row, basis, …) of any number of rows; if memory runs
        out, batches are halved from then on.
        """
        parts, start = [], 0
        while start < len(arrays[0]):
            rows = slice(start, start + self.batch_size)
            asked = None if cotangents is None else cotangents[rows]
            try:
                parts.append(self._run_batch([array[rows] for array in arrays], asked))
            except Exception as error:
                if self.batch_size == 1 or not backend.is_out_of_memory(error):
                    raise
                self.batch_size //= 2
            else:
                start = rows.stop
        if len(parts) == 1:
            return parts[0]
        outputs, gradients = zip(*parts, strict=True)
        return np.concatenate(outputs), np.concatenate(gradients)

    def _run_batch(
        self, arrays: list[np.ndarray], cotangents: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One call, padded with copies of the last row so that one compiled shape serves all."""
        self.calls += 1
        rows = len(arrays[0])
        x, *extras = [backend.tensor(_padded(array, self.batch_size)) for array in arrays]
        if cotangents is None:
            return np.asarray(self._values(x, *extras))[:rows], np.zeros((rows, 0))
        padded = backend.tensor(_padded(cotangents, self.batch_size))
        outputs, gradients = self._products(x, padded, *extras)
        return np.asarray(outputs)[:rows], np.stack(gradients, axis=1)[:rows]


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
