"""Which eyes make up each mini-batch: the exact composition of METHOD §3, without a memory of
earlier steps.
"""

import numpy as np
from jaxtyping import Int64, Integer, Shaped

from dr_lib.training.params import SIXTEEN, TrainingParams

MOST_CARDS = 8


class BalancedBatches:
    """Mini-batches of indices with an exact number of eyes of each stage.

    Each stage is a deck of cards: all its eyes are dealt once in a random order before any is dealt
    again, then the deck is shuffled anew. Batch `step` is a pure function of (stages, seed, step),
    so that a restarted run needs no memory of the decks, and any batch can be asked for by itself.

    Parameters
    ----------
    stages: (n,) integers 0 … 4, the stage of each eye.
    sources: (n,) the source of each eye, for `params.balance_sources`; left out, all are of one.

    Raises
    ------
    ValueError: naming the stages that the composition asks for and of which there is no eye.

    >>> batches = BalancedBatches(
    ...     np.repeat(np.arange(5), 20), TrainingParams(schedule=((3, 1e-3),))
    ... )
    >>> np.bincount(np.repeat(np.arange(5), 20)[batches.batch(2)])
    array([8, 1, 2, 1, 4])
    """

    def __init__(
        self,
        stages: Integer[np.ndarray, "eye"],
        params: TrainingParams,
        sources: Shaped[np.ndarray, "eye"] | None = None,
    ) -> None:
        repeats = params.batch_size // SIXTEEN
        self.counts = tuple(repeats * count for count in params.composition)
        self._seed = params.seed
        members = [np.flatnonzero(stages == stage) for stage in range(len(self.counts))]
        if sources is not None and params.balance_sources:
            members = [_balanced(eyes, sources[eyes], params.balance_sources) for eyes in members]
        self._members = members
        missing = [
            str(stage)
            for stage, count in enumerate(self.counts)
            if count and not len(self._members[stage])
        ]
        if missing:
            raise ValueError(
                f"no training eye of stage {', '.join(missing)}, but every mini-batch needs some: "
                "add photographs or change composition"
            )

    def batch(self, step: int) -> Int64[np.ndarray, "batch"]:
        """The indices of mini-batch `step` (from 0), in an order that mixes the stages."""
        dealt = [
            self._deal(stage, step * count, count)
            for stage, count in enumerate(self.counts)
            if count
        ]
        order = np.random.default_rng((self._seed, 5, step))
        return order.permutation(np.concatenate(dealt))

    def _deal(self, stage: int, first: int, count: int) -> Int64[np.ndarray, "dealt"]:
        """Cards `first` … `first + count − 1` of a stage's endless sequence of shuffled decks."""
        members = self._members[stage]
        first_deck, start = divmod(first, len(members))
        shuffled = [
            np.random.default_rng((self._seed, stage, deck)).permutation(members)
            for deck in range(first_deck, (first + count - 1) // len(members) + 1)
        ]
        return np.concatenate(shuffled)[start : start + count]


def _balanced(
    eyes: Int64[np.ndarray, "member"], sources: Shaped[np.ndarray, "member"], balance: float
) -> Int64[np.ndarray, "card"]:
    """The eyes of one stage, those of smaller sources on several cards each."""
    _, of, count = np.unique(sources, return_inverse=True, return_counts=True)
    # To the nearest whole card, at most MOST_CARDS: a source of two eyes would be learnt by heart.
    cards = np.rint((count.max(initial=1) / count) ** balance).clip(1, MOST_CARDS).astype(np.int64)
    return np.repeat(eyes, cards[of])
