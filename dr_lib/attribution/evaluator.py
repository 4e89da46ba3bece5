"""Compiled, fixed-shape evaluation of a function at points of many straight lines, in batches that
stay full.

A `Line` is one straight line from a baseline to an input together with a plan: a coroutine that
asks for values or gradients at places on the line and is told scalars only. Plans of many lines run
side by side; whenever a batch is to be run it is filled with rows of any of them, so a line that is
done makes room for the next. This module must not know quadrature, images or networks.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dr_lib.network import backend


@dataclass(frozen=True)
class Ask:
    """Places on a line. Without cotangents: the function's values there. With: gradients.

    With `contrast` gradients are added to the line's sums at once and forgotten: `cotangents`
    (rows, basis, output) carry the quadrature weights, and `contrast` (rows,) are the factors with
    which the same gradients enter the second sum. Without it they are kept, numbered row by row and
    within a row in their order, until a `Settle` names them; rows of one ask have equally many,
    those of another may have fewer. `targets` (rows, basis) say to which of the line's quantities
    each gradient is added, −1 for none; without them a row has one for each.
    """

    alphas: np.ndarray
    cotangents: np.ndarray | None = None
    contrast: np.ndarray | None = None
    targets: np.ndarray | None = None


@dataclass(frozen=True)
class Settle:
    """Kept gradients to be added to both sums and forgotten: what each counts in them, (node,
    basis).
    """

    nodes: np.ndarray
    weights: np.ndarray
    contrasts: np.ndarray


@dataclass(frozen=True)
class Told:
    """What a plan learns: outputs (rows, output) and, after gradients, their products with input
    − baseline (rows, basis).
    """

    outputs: np.ndarray
    slopes: np.ndarray  # without gradients: (rows, 0)


# Started, and resumed after a Settle, by `next`: only an Ask is answered.
Plan = Generator[Ask | Settle, Told, Any]


@dataclass
class Line:
    """One straight line, its plan, and after the run: `sum`, `contrast_sum` (basis, …) float32
    and the plan's `result`.
    """

    key: Any
    baseline: np.ndarray
    difference: np.ndarray
    plan: Plan
    basis: int
    extras: tuple[np.ndarray, ...] = ()
    contrasted: bool = True
    result: Any = None
    sum: np.ndarray = field(init=False)
    contrast_sum: np.ndarray = field(init=False)  # only if `contrasted`
    _kept: list[Any] = field(
        default_factory=list, repr=False
    )  # gradients; None where one isn't there yet, or no more
    _ask: Ask | None = field(default=None, repr=False)
    _told: Told | None = field(default=None, repr=False)
    _missing: int = field(default=0, repr=False)
    _first: int = field(default=0, repr=False)  # number of the first kept gradient of this ask
    _exact_difference: np.ndarray = field(init=False, repr=False)

    def start(self) -> None:
        self.sum = np.zeros((self.basis, *self.difference.shape), np.float32)
        if self.contrasted:
            self.contrast_sum = np.zeros_like(self.sum)
        self._exact_difference = self.difference.ravel().astype(np.float64)
        self._advance(None)

    @property
    def done(self) -> bool:
        return self._ask is None

    @property
    def ask(self) -> Ask:
        """What the plan waits for, until it has ended."""
        assert self._ask is not None
        return self._ask

    def point(self, row: int) -> np.ndarray:
        return self.baseline + np.float32(self.ask.alphas[row]) * self.difference

    def take(self, row: int, outputs: np.ndarray, gradients: np.ndarray | None) -> None:
        """Note one row's outcome; `gradients` (basis, …) are added to the sums, or kept if their
        weights are still open.
        """
        ask, told = self.ask, self._told
        if told is None:
            shapes = (
                (len(ask.alphas), len(outputs)),
                (
                    len(ask.alphas),
                    0 if gradients is None else len(gradients),
                ),
            )
            told = self._told = Told(*(np.zeros(shape, np.float64) for shape in shapes))
        # Infinities become NaN here: one network gone wrong then spoils its own image silently
        # instead of warning on every sum.
        told.outputs[row] = np.where(np.isfinite(outputs), outputs, np.nan)
        if gradients is not None:
            # float64: terms of both signs nearly cancel, and a residual is the small difference of
            # two such sums.
            told.slopes[row] = (
                gradients.reshape(len(gradients), -1).astype(np.float64) @ self._exact_difference
            )
            if ask.targets is not None:
                for target, gradient in zip(ask.targets[row], gradients, strict=True):
                    if target >= 0:
                        self.sum[target] += gradient
            elif ask.contrast is None:
                first = self._first + row * len(gradients)
                # Copies: views of one array would all have to be settled before any of its memory
                # is free.
                self._kept[first : first + len(gradients)] = [
                    gradient.copy() for gradient in gradients
                ]
            else:
                self.sum += gradients
                if self.contrasted and ask.contrast[row]:
                    self.contrast_sum += np.float32(ask.contrast[row]) * gradients
        self._missing -= 1
        if self._missing == 0:
            self._advance(told)

    def _advance(self, told: Told | None) -> None:
        self._told = None
        try:
            message = next(self.plan) if told is None else self.plan.send(told)
            while isinstance(message, Settle):
                self._settle(message)
                message = next(self.plan)
            self._ask, self._missing = message, len(message.alphas)
            if (
                message.cotangents is not None
                and message.contrast is None
                and message.targets is None
            ):
                self._first = len(self._kept)
                self._kept += [None] * (self._missing * message.cotangents.shape[1])
        except StopIteration as stop:
            self._ask, self.result = None, stop.value

    def _settle(self, settle: Settle) -> None:
        for node, weights, contrasts in zip(
            settle.nodes, settle.weights, settle.contrasts, strict=True
        ):
            gradient, self._kept[node] = self._kept[node], None
            for number in np.flatnonzero(weights):
                self.sum[number] += np.float32(weights[number]) * gradient
            for number in np.flatnonzero(contrasts) if self.contrasted else ():
                self.contrast_sum[number] += np.float32(contrasts[number]) * gradient


class Evaluator:
    """Runs lines through one function; keeps its compiled forms, so reuse it for the same function.

    function: (n, …) float32 tensor and one (n, …) tensor per extra -> (n,) or (n, output).
    `forward_rows` and `gradient_rows` count the rows asked for, `backward_passes` the gradients in
    them, `calls` the batches.
    """

    def __init__(self, function: Callable, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.squeezed: bool | None = (
            None  # whether the function answers (n,): known after the first call
        )
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

    def run(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Each line when its plan has ended; lines are drawn only as batches have room, so
        memory is that of a batch.
        """
        # Rows by how many gradients they ask for, 0 for a forward pass: each number is a compiled
        # function of its own.
        waiting: dict[int, deque] = {0: deque()}
        source = iter(lines)
        exhausted = False

        def enlist(line: Line) -> Iterator[Line]:
            if line.done:
                yield line
            else:
                width = 0 if line.ask.cotangents is None else line.ask.cotangents.shape[1]
                waiting.setdefault(width, deque()).extend(
                    (line, row) for row in range(line._missing)
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
                line = next(source, None)
                if line is None:
                    exhausted = True
                else:
                    line.start()
                    yield from enlist(line)
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
            for line in self._run_rows(rows, width > 0):
                yield from enlist(line)

    def _run_rows(self, rows: list[tuple[Line, int]], with_gradients: bool) -> list[Line]:
        x = np.stack([line.point(row) for line, row in rows])
        extras = [np.stack(parts) for parts in zip(*[line.extras for line, _ in rows], strict=True)]
        cotangents = None
        if with_gradients:
            asked = [line.ask.cotangents for line, _ in rows]
            shape = next(c for c in asked if c is not None).shape[1:]
            # A forward row in a gradient batch has cotangent 0: its gradient is 0 and thrown away.
            parts = [
                np.zeros(shape) if c is None else c[row]
                for c, (_, row) in zip(asked, rows, strict=True)
            ]
            cotangents = np.stack(parts).astype(np.float32)
        outputs, gradients = self._run([x, *extras], cotangents)
        advanced = []
        for place, (line, row) in enumerate(rows):
            own = (
                [g[place] for g in gradients]
                if with_gradients and line.ask.cotangents is not None
                else None
            )
            self.gradient_rows += own is not None
            self.backward_passes += len(own or ())
            self.forward_rows += own is None
            last = line._missing == 1
            line.take(row, outputs[place], None if own is None else np.stack(own))
            if last:
                advanced.append(line)
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
                own = None if cotangents is None else cotangents[start:stop]
                parts.append(self._run_batch([array[start:stop] for array in arrays], own))
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
        x, *extras = [_padded(np.asarray(array), self.batch_size) for array in arrays]
        if cotangents is None:
            return (
                np.asarray(self._values(backend.tensor(x), *map(backend.tensor, extras)))[:rows],
                [],
            )
        tensors = [
            backend.tensor(array) for array in (x, _padded(cotangents, self.batch_size), *extras)
        ]
        outputs, gradients = self._products(*tensors)
        return np.asarray(outputs)[:rows], [np.asarray(gradient)[:rows] for gradient in gradients]


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
