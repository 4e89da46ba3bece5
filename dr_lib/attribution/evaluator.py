"""Compiled, fixed-shape evaluation of a function at points of many straight lines, in batches that
stay full.

A `Path` is a straight line from a baseline to an input together with a refinement: a coroutine that
requests values or gradients at points on the line and receives scalars only. The refinements of
many paths run side by side; every batch is filled with rows of any of them, so a path that is done
makes room for the next. This module must not know quadrature, images or networks.

The way of a row: a refinement yields a `Request`; `Evaluator.run` queues its rows; `_batch` starts
a batch, whose points are formed on the device; `Path.take` hands the scalars to the refinement and
the gradients, which stay on the device, to the path's sums.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dr_lib.attribution.sums import Commit, GradientSums
from dr_lib.network import backend, memory


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
class Values:
    """The answer to a `Request`.

    outputs: (row, output) what the function answers. slopes: (row, basis) the gradients' products
    with input − baseline; (row, 0) without gradients.
    """

    outputs: np.ndarray
    slopes: np.ndarray


# Started, and resumed after a Commit, by `next`: only a Request is answered.
Refinement = Generator[Request | Commit, Values, Any]


class Path:
    """A straight line and its refinement.

    After the run `sum` and, if contrasted, `contrast_sum` (basis, …) float32 are the sums of
    gradients, and `result` what the refinement returned. Until then `request` is what the
    refinement waits for, and `missing_rows` counts the rows that are open: 0 when it has ended.

    Parameters
    ----------
    key: tells the caller which path this is.
    baseline, difference: (…) float32: the line's start, and input − baseline.
    basis: how many gradients are summed side by side.
    extras: further arguments of the evaluator's function, the same at every point.
    contrasted: whether `contrast_sum` is wanted.
    """

    def __init__(
        self,
        key: Any,
        baseline: np.ndarray,
        difference: np.ndarray,
        refinement: Refinement,
        basis: int,
        extras: tuple[np.ndarray, ...] = (),
        contrasted: bool = True,
    ) -> None:
        self.key, self.difference, self._refinement = key, difference, refinement
        line = np.stack([baseline, difference]).astype(np.float32)
        # On the device: baseline and difference (2, …), and the extras.
        self.tensors = [backend.tensor(array) for array in (line, *extras)]
        self.missing_rows = 0
        self._sums = GradientSums(basis, difference.shape, contrasted)
        self._asked = 0  # gradients to be kept so far
        self._advance(None)

    @property
    def width(self) -> int:
        """How many gradients each row of the request asks for; 0 for a forward pass."""
        return 0 if self.request.cotangents is None else self.request.cotangents.shape[1]

    def take(
        self, row: int, outputs: np.ndarray, slopes: np.ndarray, gradients: Sequence[Any]
    ) -> None:
        """Takes in a row: its outputs (output,), its slopes (basis,), and its gradients, which are
        added to the sums, or kept if their weights are still open.
        """
        if self._answer is None:
            rows = len(self.request.alphas)
            self._answer = Values(np.zeros((rows, len(outputs))), np.zeros((rows, self.width)))
        # Infinities become NaN here: a network gone wrong then spoils its own image silently
        # instead of warning on every sum.
        self._answer.outputs[row] = np.where(np.isfinite(outputs), outputs, np.nan)
        if self.width:
            self._answer.slopes[row] = slopes
            self._add(row, gradients)
        self.missing_rows -= 1
        if not self.missing_rows:
            self._advance(self._answer)

    def _add(self, row: int, gradients: Sequence[Any]) -> None:
        """Adds a row's gradients to the sums, or keeps them for a `Commit`."""
        request = self.request
        if request.contrast is None and request.targets is None:
            first = self._asked - (len(request.alphas) - row) * self.width
            for node, gradient in enumerate(gradients, start=first):
                self._sums.keep(node, gradient)
            return
        targets = range(self.width) if request.targets is None else request.targets[row].tolist()
        contrast = 0.0 if request.contrast is None else float(request.contrast[row])
        for target, gradient in zip(targets, gradients, strict=True):
            if target >= 0:
                self._sums.add(target, gradient, contrast)

    def _advance(self, values: Values | None) -> None:
        """Hands the refinement the answer to its request, and takes in its next request."""
        self._answer: Values | None = None
        try:
            message = next(self._refinement) if values is None else self._refinement.send(values)
            while isinstance(message, Commit):
                self._sums.commit(message)
                message = next(self._refinement)
        except StopIteration as stop:
            self.result: Any = stop.value
            self.sum, self.contrast_sum = self._sums.fetched()
            return
        self.request, self.missing_rows = message, len(message.alphas)
        if message.contrast is None and message.targets is None:
            self._asked += self.missing_rows * self.width


@dataclass(frozen=True)
class _Batch:
    """Rows whose computation has been started.

    width: gradients of each. outputs (row, output), slopes (row, width): on the device; gradients:
    of each row, as many tensors.
    """

    rows: list[tuple[Path, int]]
    width: int
    outputs: Any
    slopes: Any
    gradients: Sequence[Sequence[Any]]


class Evaluator:
    """Runs paths through one function; keeps its compiled forms, so reuse it for the same function.

    Parameters
    ----------
    function: (n, …) float32 tensor and one (n, …) tensor per extra -> (n,) or (n, output).
    batch_size: rows of one call; halved for good whenever memory runs out.
    """

    def __init__(self, function: Callable, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.function, self.batch_size = function, batch_size
        # Whether the function answers (n,): known after the first call.
        self.squeezed: bool | None = None

        def outputs(x: Any, *extras: Any) -> Any:
            answer = function(x, *extras)
            if answer.ndim not in (1, 2):
                raise ValueError(f"the function must answer (n,) or (n, q), not {answer.ndim} axes")
            self.squeezed = answer.ndim == 1
            return answer[:, None] if self.squeezed else answer

        def values(alphas: Any, lines: Any, *extras: Any) -> Any:
            return outputs(_points(alphas, lines), *extras)

        def products(cotangents: Any, alphas: Any, lines: Any, *extras: Any) -> Any:
            from keras import ops

            rows, basis = cotangents.shape[:2]
            found, gradients = backend.vjps(
                lambda x: outputs(x, *extras),
                _points(alphas, lines),
                [cotangents[:, b] for b in range(basis)],
            )
            # float64: terms of both signs nearly cancel, and a residual is the small difference of
            # two such sums.
            slopes = backend.inner_products(gradients, lines[:, 1])
            # Copies: a view of the whole batch would keep all of its memory.
            each = [[ops.take(one, row, axis=0) for one in gradients] for row in range(rows)]
            return found, slopes, each

        self._values = backend.compiled(values)
        self._products = backend.compiled(products)

    def values(self, x: np.ndarray) -> np.ndarray:
        """The function's outputs (n, output) at any number of inputs."""

        def value() -> Refinement:
            return (yield Request(np.zeros(1))).outputs[0].astype(np.float32)

        paths = (
            Path(place, row, np.zeros_like(row), value(), 0, contrasted=False)
            for place, row in enumerate(x)
        )
        found = sorted(self.run(paths), key=lambda path: path.key)
        return np.stack([path.result for path in found])

    def run(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Each path when its refinement has ended; paths are drawn only as batches have room, so
        memory is that of a few batches.

        A second batch is started before the first is looked at: where the device works by itself,
        it does so while the refinements decide.
        """
        # Rows by how many gradients they request, 0 for a forward pass: each number is a compiled
        # function of its own.
        waiting: dict[int, deque[tuple[Path, int]]] = {0: deque()}
        running: deque[_Batch] = deque()
        source: Iterator[Path] | None = iter(paths)

        def enlist(path: Path) -> Iterator[Path]:
            if path.missing_rows:
                rows = waiting.setdefault(path.width, deque())
                rows.extend((path, row) for row in range(path.missing_rows))
            else:
                yield path

        def urgency(width: int) -> tuple[bool, bool, int]:
            # Gradients first: a short batch of them has room for forwards, not the other way round.
            return len(waiting[width]) >= self.batch_size, width > 0, len(waiting[width])

        while True:
            width = max(waiting, key=urgency)
            full = len(waiting[width]) >= self.batch_size
            if len(running) > 1 or (running and not full and source is None):
                for path in self._finished(running.popleft()):
                    yield from enlist(path)
                continue
            if not full and source is not None:
                path = next(source, None)
                if path is None:
                    source = None
                else:
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
            running.extend(self._started(rows, width))

    def _started(self, rows: list[tuple[Path, int]], width: int) -> list[_Batch]:
        """Starts rows of any paths, `width` gradients each (0: outputs alone); if memory runs out,
        batches are halved from then on.
        """
        batches, start = [], 0
        while start < len(rows):
            part = rows[start : start + self.batch_size]
            try:
                batches.append(self._batch(part, width))
            except Exception as error:
                self.batch_size = memory.halved(self.batch_size, error)
            else:
                start += len(part)
        return batches

    def _finished(self, batch: _Batch) -> list[Path]:
        """Hands a batch's answers to its paths; the paths whose request is answered."""
        try:
            outputs, slopes = map(backend.fetched, (batch.outputs, batch.slopes))
        except Exception as error:  # a device that works by itself says so only now
            self.batch_size = memory.halved(self.batch_size, error)
            parts = self._started(batch.rows, batch.width)
            return [path for part in parts for path in self._finished(part)]
        answered = []
        for place, (path, row) in enumerate(batch.rows):
            if path.missing_rows == 1:
                answered.append(path)
            path.take(row, outputs[place], slopes[place], batch.gradients[place])
        return answered

    def _batch(self, rows: list[tuple[Path, int]], width: int) -> _Batch:
        """One call, padded with copies of the last row so that one compiled shape serves all."""
        padded = rows + rows[-1:] * (self.batch_size - len(rows))
        alphas = np.array([path.request.alphas[row] for path, row in padded], np.float32)
        tensors = [
            backend.stack(parts) for parts in zip(*[p.tensors for p, _ in padded], strict=True)
        ]
        tensors = [backend.tensor(alphas), *tensors]
        if not width:
            return _Batch(
                rows, 0, self._values(*tensors), np.zeros((len(rows), 0)), [()] * len(rows)
            )
        asked = [(path.request.cotangents, row) for path, row in padded]
        shape = next(c.shape[1:] for c, _ in asked if c is not None)
        # A forward row in a gradient batch has cotangent 0: its gradient is 0 and thrown away.
        parts = [np.zeros(shape) if c is None else c[row] for c, row in asked]
        cotangents = backend.tensor(np.stack(parts).astype(np.float32))
        return _Batch(rows, width, *self._products(cotangents, *tensors))


def _points(alphas: Any, lines: Any) -> Any:
    """The places (n, …) on lines (n, 2, …): baseline + alpha · difference."""
    from keras import ops

    alphas = ops.reshape(alphas, (-1, *[1] * (len(lines.shape) - 2)))
    return lines[:, 0] + alphas * lines[:, 1]
