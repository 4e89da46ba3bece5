"""Which eyes make up each mini-batch: the exact composition of METHOD §3, without a memory of
earlier steps; and changes of a fundus that leave its stage as it is: a disc may be turned,
mirrored, and slightly zoomed and toned.
"""

import cv2
import numpy as np
from jaxtyping import Int64, Integer, UInt8

from dr_lib.training.params import SIXTEEN, TrainingParams
from dr_lib.vocabulary import HALF_GRAY


class BalancedBatches:
    """Mini-batches of indices with an exact number of eyes of each stage.

    Each stage is a deck of cards: all its eyes are dealt once in a random order before any is dealt
    again, then the deck is shuffled anew. Batch `step` is a pure function of (stages, seed, step),
    so that a restarted run needs no memory of the decks, and any batch can be asked for by itself.

    Parameters
    ----------
    stages: (n,) integers 0 … 4, the stage of each eye.

    Raises
    ------
    ValueError: naming the stages that the composition asks for and of which there is no eye.

    >>> batches = BalancedBatches(
    ...     np.repeat(np.arange(5), 20), TrainingParams(schedule=((3, 1e-3),))
    ... )
    >>> np.bincount(np.repeat(np.arange(5), 20)[batches.batch(2)])
    array([8, 1, 2, 1, 4])
    """

    def __init__(self, stages: Integer[np.ndarray, "eye"], params: TrainingParams) -> None:
        repeats = params.batch_size // SIXTEEN
        self.counts = tuple(repeats * count for count in params.composition)
        self._seed = params.seed
        self._members = [np.flatnonzero(stages == stage) for stage in range(len(self.counts))]
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


DEGREES = 360
# Factors from 1 / (1 + a) to 1 + a, `TONE` of each colour by itself. All are small: the retina's
# diameter is already the image's, and the local tone already removed.
ZOOM = 0.08
CONTRAST = 0.15
TONE = 0.05
LEVELS = np.arange(256) - HALF_GRAY


def augmented(
    pixels: UInt8[np.ndarray, "image y x 3"], seed: tuple[int, ...]
) -> UInt8[np.ndarray, "image y x 3"]:
    """Each fundus turned by any angle, mirrored at random, slightly zoomed and toned; new corners
    are half-gray.

    A pure function of the pixels and `seed`. Contrast and tone stretch the distance from half-gray,
    so that half-gray, the baseline's value, stays exactly what it is; there is no change of
    brightness, which would move it.
    """
    draws = np.random.default_rng(seed)
    result = np.empty_like(pixels)
    size_y, size_x = pixels.shape[1:3]
    for number, image in enumerate(pixels):
        angle = draws.uniform(0, DEGREES)
        mirrored = draws.integers(2)
        zoom = (1 + ZOOM) ** draws.uniform(-1, 1)
        contrast = (1 + CONTRAST) ** draws.uniform(-1, 1)
        contrast = contrast * (1 + TONE) ** draws.uniform(-1, 1, 3)
        turn = cv2.getRotationMatrix2D(((size_x - 1) / 2, (size_y - 1) / 2), angle, zoom)
        if mirrored:
            # Mirror first: x → (width − 1) − x. With any angle, this mirror alone gives every
            # mirrored pose.
            turn = turn @ np.array([[-1, 0, size_x - 1], [0, 1, 0], [0, 0, 1.0]])
        warped = cv2.warpAffine(
            image, turn, (size_x, size_y), flags=cv2.INTER_LINEAR, borderValue=(HALF_GRAY,) * 3
        )
        table = np.rint(HALF_GRAY + LEVELS[:, np.newaxis] * contrast)
        result[number] = cv2.LUT(warped, np.clip(table, 0, 255).astype(np.uint8)[np.newaxis])
    return result
