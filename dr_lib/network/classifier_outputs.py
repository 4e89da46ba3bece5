"""A model's stages as functions of scaled images: their probabilities, the gradient of a stage's
log-probability, and the features behind them.

Each runs one compiled function of a fixed shape, the last batch padded, so that searches which
shrink their set of eyes step by step never compile again. The log-probability is taken from the
logits: where softmax has saturated, the probability itself has no gradient left.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from dr_lib.network import backend
from dr_lib.network.layers import logits_model, split_at

if TYPE_CHECKING:
    import keras


class ClassifierOutputs:
    """`predict(images)`, `gradient(images, stage)` and `features(images)` of a classifier of
    five stages.
    """

    def __init__(self, model: "keras.Model", batch_size: int = 8):
        from keras import ops

        self.batch_size = batch_size
        self._stages = int(model.outputs[0].shape[-1])
        logits = logits_model(model)

        def log_probabilities(x: object) -> object:
            return ops.log_softmax(logits(x, training=False), axis=-1)

        self._values = backend.compiled(log_probabilities)
        self._slopes = backend.compiled(
            lambda x, cotangent: backend.vjp(log_probabilities, x, cotangent)[1]
        )
        self._model, self._features = model, None

    def predict(
        self, images: Float[np.ndarray, "image y x 3"]
    ) -> Float32[np.ndarray, "image stage"]:
        """The stages' probabilities of scaled images."""
        found = [
            np.asarray(self._values(backend.tensor(batch)))[:count]
            for batch, count in self._batches(images)
        ]
        return np.exp(np.concatenate(found)) if found else np.empty((0, self._stages), np.float32)

    def gradient(
        self, images: Float[np.ndarray, "image y x 3"], stage: int
    ) -> Float32[np.ndarray, "image y x 3"]:
        """The gradient of log P(stage) by the scaled pixels."""
        cotangent = np.zeros((self.batch_size, self._stages), np.float32)
        cotangent[:, stage] = 1
        towards = backend.tensor(cotangent)
        found = [
            np.asarray(self._slopes(backend.tensor(batch), towards))[:count]
            for batch, count in self._batches(images)
        ]
        return np.concatenate(found) if found else np.empty(images.shape, np.float32)

    def features(
        self, images: Float[np.ndarray, "image y x 3"]
    ) -> Float32[np.ndarray, "image feature"]:
        """The activations of the layer `pooled`: the space in which the model tells images
        apart.
        """
        if self._features is None:
            below, _ = split_at(self._model, "pooled")
            self._features = backend.compiled(lambda x: below(x, training=False))
            self._width = int(below.outputs[0].shape[-1])
        found = [
            np.asarray(self._features(backend.tensor(batch)))[:count]
            for batch, count in self._batches(images)
        ]
        return np.concatenate(found) if found else np.empty((0, self._width), np.float32)

    def _batches(self, images: np.ndarray):
        for start in range(0, len(images), self.batch_size):
            piece = images[start : start + self.batch_size].astype(np.float32)
            batch = np.zeros((self.batch_size, *images.shape[1:]), np.float32)
            batch[: len(piece)] = piece
            yield batch, len(piece)
