"""The type of a backbone, the convolutional part of the classifier, and what all backbones share.

`dr_lib.network.model.BACKBONES` lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Running statistics remember about ten mini-batches. With keras' 0.99 a third of the backbone's old
# statistics, or of the random start, would still be there after a hundred mini-batches, and the
# graded network would not be the one that was trained.
NORM_MOMENTUM = 0.9


@dataclass(frozen=True)
class Backbone:
    """A backbone, and what the rest of the classifier must know of it.

    title: its name in a sentence of the report.
    smallest_input: the least side of a fundus in px.
    blocks: how many concatenations it has, `mixed0` and so on.
    build: (input_size, weights, policy, seeds) -> the Keras tensors `fundus` and `pooled`.
        input_size: the side of a fundus in px; weights: `ModelParams.backbone_weights`; policy: the
        dtype policy of every layer; seeds: where random weights come from, and from nowhere else.
    """

    title: str
    smallest_input: int
    blocks: int
    build: Callable[[int, str, str, np.random.Generator], tuple[Any, Any]]


def next_seed(seeds: np.random.Generator) -> int:
    """A seed of its own for each layer: initialisers that share one would all draw the same
    numbers.
    """
    return int(seeds.integers(2**31))
