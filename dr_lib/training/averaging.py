"""The mean of the weights along a run: steadier than those of any one mini-batch (Polyak
averaging).

With sixteen eyes a mini-batch, of which one or two are mild, the raw weights' grades jump from one
validation to the next, and the best of them on a few validation eyes are lucky rather than good.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

# Every mini-batch would cost 5 % of an Inception V3's step on two cores; neighbours differ by far
# less than the mean smooths.
AVERAGE_EVERY = 5


class AveragedWeights:
    """The exponentially weighted mean of a model's weights after mini-batches 1, 6, 11, …; the
    start has no part in it.

    Weights of k mini-batches ago count `decay^k` times as much as the newest. The running
    statistics of normalisation are averaged along: those of the raw weights would not fit the mean
    ones. (Keras' own `use_ema` leaves them out, starts from the random head, and does not work
    behind a scaled loss.) A pure function of the weights and the step, so that `arrays` is all that
    a checkpoint needs. With decay 0 there is no mean, and `arrays` is empty.
    """

    def __init__(self, model: "keras.Model", decay: float) -> None:
        self._decay = decay**AVERAGE_EVERY
        weights = model.get_weights() if decay else []
        self.arrays: list[np.ndarray] = [np.array(weight) for weight in weights]

    def follow(self, model: "keras.Model", step: int) -> None:
        """Take in the weights after mini-batch `step`, counted from 1."""
        if (step - 1) % AVERAGE_EVERY or not self.arrays:
            return
        seen = (step - 1) // AVERAGE_EVERY + 1
        # What makes the shares decay^k and their sum 1 from the first on: 1, then 1/(1 + d), …,
        # towards 1 − d.
        share = (1 - self._decay) / (1 - self._decay**seen)
        for mean, weight in zip(self.arrays, model.get_weights(), strict=True):
            mean += np.asarray(share * (weight - mean), mean.dtype)
