"""A classifier as functions of scaled images: the stages' probabilities, the gradient of a stage's
log-probability, and the features behind them.

Each runs one compiled function of a fixed shape, the last batch padded, so that searches which
shrink their set of eyes step by step never compile again. The log-probability is taken from the
logits: where softmax has saturated, the probability itself has no gradient left.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from dr_lib.network import backend, memory
from dr_lib.network.layers import logits_model, split_at

if TYPE_CHECKING:
    import keras


class Batches:
    """Runs functions over any number of images in batches of one shape; if memory runs out, batches
    are halved from then on.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def answers(
        self,
        function: Callable[[Any], Any],
        images: np.ndarray,
        prepare: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> np.ndarray:
        """The function's answer for every image; `prepare` makes float32 of a batch at a time."""
        answers, start = [], 0
        # A batch at least, also without images: it knows the shape of an answer.
        while start < len(images) or not answers:
            piece = images[start : start + self.batch_size]
            batch = np.zeros((self.batch_size, *images.shape[1:]), np.float32)
            batch[: len(piece)] = prepare(piece)
            try:
                answers.append(np.asarray(function(backend.tensor(batch)))[: len(piece)])
            except Exception as error:
                self.batch_size = memory.halved(self.batch_size, error)
            else:
                start += len(piece)
        return np.concatenate(answers)


class ClassifierOutputs(Batches):
    """`predict(images)`, `gradient(images, stage)` and `features(images)` of a classifier of
    five stages.
    """

    def __init__(self, model: "keras.Model", batch_size: int = 8):
        from keras import ops

        super().__init__(batch_size)
        self._model, self._stages = model, int(model.outputs[0].shape[-1])
        logits = logits_model(model)

        def log_probabilities(x: object) -> object:
            return ops.log_softmax(logits(x, training=False), axis=-1)

        self._values = backend.compiled(log_probabilities)
        self._slopes = backend.compiled(
            lambda x, cotangent: backend.vjp(log_probabilities, x, cotangent)[1]
        )

    def predict(
        self, images: Float[np.ndarray, "image y x 3"]
    ) -> Float32[np.ndarray, "image stage"]:
        """The stages' probabilities of scaled images."""
        return np.exp(self.answers(self._values, images))

    def gradient(
        self, images: Float[np.ndarray, "image y x 3"], stage: int
    ) -> Float32[np.ndarray, "image y x 3"]:
        """The gradient of log P(stage) by the scaled pixels."""
        cotangent = np.eye(self._stages, dtype=np.float32)[[stage]]
        return self.answers(
            lambda x: self._slopes(x, backend.tensor(np.repeat(cotangent, len(x), axis=0))), images
        )

    def features(
        self, images: Float[np.ndarray, "image y x 3"]
    ) -> Float32[np.ndarray, "image feature"]:
        """The activations of the layer `pooled`: the space in which the model tells images
        apart.
        """
        return self.answers(self._below_pooled, images)

    @functools.cached_property
    def _below_pooled(self) -> Callable[[Any], Any]:
        below, _ = split_at(self._model, "pooled")
        return backend.compiled(lambda x: below(x, training=False))
