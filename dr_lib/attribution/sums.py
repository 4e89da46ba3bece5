"""Sums of gradients that stay where the gradients are: on the framework's device.

The host says which gradient counts how much and reads the sums once, when a path has ended. This
module must not know why a gradient gets its weight.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dr_lib.network import backend

# Kept gradients that one call adds: a fixed number, so that it is compiled once.
TOGETHER = 16


@dataclass(frozen=True)
class Commit:
    """Kept gradients that are to be added to both sums and forgotten.

    nodes: (node,) their numbers. weights, contrasts: (node, basis) what each counts in the two
    sums.
    """

    nodes: np.ndarray
    weights: np.ndarray
    contrasts: np.ndarray


class GradientSums:
    """`count` sums of gradients of one shape, as many contrasts where they are wanted, and the
    gradients that wait for their weights.
    """

    def __init__(self, count: int, shape: tuple[int, ...], contrasted: bool) -> None:
        self.count, self.contrasted = count, contrasted
        from keras import ops

        self._sums = [ops.zeros(shape, "float32")] * (count * (1 + contrasted))
        self._kept: dict[int, Any] = {}

    def add(self, number: int, gradient: Any, contrast: float = 0.0) -> None:
        """Adds a gradient to one of the sums and, times `contrast`, to its contrast."""
        self._sums[number] = self._sums[number] + gradient
        if self.contrasted and contrast:
            number += self.count
            self._sums[number] = self._sums[number] + contrast * gradient

    def keep(self, node: int, gradient: Any) -> None:
        """Keeps a gradient under its number until a `Commit` names it."""
        self._kept[node] = gradient

    def commit(self, commit: Commit) -> None:
        """Adds kept gradients with the weights they were given, and forgets them."""
        weights = [commit.weights, commit.contrasts][: 1 + self.contrasted]
        weights = np.concatenate(weights, axis=1).astype(np.float32)
        for start in range(0, len(weights), TOGETHER):
            part = weights[start : start + TOGETHER]
            gradients = [self._kept.pop(node) for node in commit.nodes[start : start + TOGETHER]]
            missing = TOGETHER - len(gradients)
            padded = backend.tensor(np.pad(part, ((0, missing), (0, 0))))
            gradients += gradients[-1:] * missing
            self._sums = list(_weighing()(padded, self._sums, gradients))

    def fetched(self) -> tuple[np.ndarray, np.ndarray]:
        """The sums, and their contrasts or none: (count, …) float32 each, on the host."""
        sums = np.array([backend.fetched(tensor) for tensor in self._sums], np.float32)
        return sums[: self.count], sums[self.count :]


@functools.cache
def _weighing() -> Callable[..., Sequence[Any]]:
    """Weights (node, sum), sums and gradients -> the sums with the weighted gradients added."""

    def weigh(weights: Any, sums: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
        from keras import ops

        added = ops.tensordot(ops.transpose(weights), ops.stack(gradients), axes=1)
        return [total + added[number] for number, total in enumerate(sums)]

    return backend.compiled(weigh)
