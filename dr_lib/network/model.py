"""The classifier: a convolutional backbone with named layers, two dense layers, a softmax over five
stages.

Every model built here, whatever its backbone, names its layers alike, because explanations ask for
layers by name: `fundus` (input), `stem`, `mixed0` … `mixedN`, `pooled`, `fc1` … , `stage`. The
names never depend on how many models a process has built before, so that weights, explanations and
tables of two runs always speak of the same layer.

This module must not know where pixels come from, nor how weights are stored beyond one weights-only
file.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.network import backend
from dr_lib.network.backbone import Backbone, next_seed
from dr_lib.network.classifier_outputs import Batches
from dr_lib.network.inception import INCEPTION_V3
from dr_lib.network.small import SMALL
from dr_lib.settings import PositiveInt, Settings, ShareBelow1
from dr_lib.vocabulary import HALF_GRAY, STAGE_COUNT

if TYPE_CHECKING:
    import keras

Precision = Literal["off", "bfloat16", "float16"]
# Adding a backbone is an entry here and a module of its own.
BACKBONES: dict[str, Backbone] = {"inception_v3": INCEPTION_V3, "small": SMALL}


@dataclass(frozen=True)
class ModelParams(Settings):
    """The architecture and where the backbone's weights come from.

    backbone: an entry of `BACKBONES`.
    backbone_weights: "imagenet" (Keras downloads them once), "none" (random) or the path of a
        weights-only file of `keras.applications.InceptionV3(include_top=False)`. The small backbone
        has no trained weights anywhere: it starts random with either word.
    dense: units of each dense layer.
    input_size: the side of a fundus in px.
    dropout: before the first dense layer: a few thousand balanced examples against half a million
        dense weights overfit without it.
    mixed_precision: training stores weights in float32 and computes in the named type, which takes
        0.6 of the time at 384 px on a CPU with bfloat16 instructions; leave it off on one without.
        Grades and explanations are always computed in float32: per-pixel gradients of about 1e-6
        would be rounded away.
    seed: of the random weights and of the dropout.
    """

    backbone: str = "inception_v3"
    backbone_weights: str = "imagenet"
    dense: tuple[Annotated[PositiveInt, "units of a layer"], ...] = (256, 64)
    input_size: int = 256
    dropout: ShareBelow1 = 0.3
    mixed_precision: Precision = "off"
    seed: int = 0

    @property
    def explained(self) -> "ModelParams":
        """The same architecture as grades and explanations are computed with it: in float32, and
        without the trunk's starting weights.
        """
        return replace(self, backbone_weights="none", mixed_precision="off")

    def check(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"backbone must be one of {', '.join(BACKBONES)}, not {self.backbone!r}"
            )
        smallest = BACKBONES[self.backbone].smallest_input
        if self.input_size < smallest:
            raise ValueError(
                f"input_size must be at least {smallest} px for {self.backbone}, not"
                f" {self.input_size}"
            )
        if not self.dense:
            raise ValueError("dense must name at least one layer, such as [64]")
        if not self.backbone_weights:
            raise ValueError('backbone_weights must be "imagenet", "none" or a path, not empty')


def scaled(pixels: UInt8[np.ndarray, "*image"]) -> Float32[np.ndarray, "*image"]:
    """(pixel − 128) / 128 as float32: half-gray is exactly 0, so that the baseline is all zeros
    (METHOD §2).

    >>> scaled(np.array([0, 128, 255], np.uint8))
    array([-1.       ,  0.       ,  0.9921875], dtype=float32)
    """
    return (pixels.astype(np.float32) - HALF_GRAY) / HALF_GRAY


def layer_names(params: ModelParams) -> tuple[str, ...]:
    """The layers of the model at which it can be cut, from the image up, known without building it.

    >>> layer_names(ModelParams(backbone="small"))
    ('stem', 'mixed0', 'mixed1', 'mixed2', 'pooled', 'fc1', 'fc2')
    """
    dense = (f"fc{number}" for number, _ in enumerate(params.dense, 1))
    return (
        "stem",
        *(f"mixed{number}" for number in range(BACKBONES[params.backbone].blocks)),
        "pooled",
        *dense,
    )


def build(params: ModelParams) -> "keras.Model":
    """A new classifier: backbone, dense layers, softmax over the five stages.

    Parameters
    ----------
    params: the same parameters give the same initial weights in any process.

    Returns
    -------
    keras.Model: from `fundus` (n, size, size, 3) float32, as `scaled` makes it, to `stage` (n, 5)
        float32 probabilities.

    Raises
    ------
    ValueError: in one line, when the backbone's weights can't be had or do not fit.
    """
    backend.name()  # Keras as it has to be, whatever the user's own file or process told it
    import keras

    policy = "float32" if params.mixed_precision == "off" else f"mixed_{params.mixed_precision}"
    seeds = np.random.default_rng(params.seed)
    inputs, x = BACKBONES[params.backbone].build(
        params.input_size, params.backbone_weights, policy, seeds
    )
    if params.dropout:
        x = keras.layers.Dropout(params.dropout, seed=params.seed, name="dropout", dtype=policy)(x)
    for number, units in enumerate(params.dense, 1):
        start = keras.initializers.HeNormal(seed=next_seed(seeds))
        x = keras.layers.Dense(
            units, activation="relu", kernel_initializer=start, name=f"fc{number}", dtype=policy
        )(x)
    start = keras.initializers.GlorotUniform(seed=next_seed(seeds))
    # Always float32: in half precision a softmax saturates to exact 0 and 1 and the loss becomes
    # infinite.
    stage = keras.layers.Dense(
        STAGE_COUNT, activation="softmax", kernel_initializer=start, name="stage", dtype="float32"
    )(x)
    return keras.Model(inputs, stage, name=params.backbone)


def probabilities(
    model: "keras.Model", pixels: UInt8[np.ndarray, "image y x 3"], batch_size: int = 16
) -> Float32[np.ndarray, "image 5"]:
    """The five stages' probabilities of each fundus, computed in inference mode (no dropout, fixed
    normalisation).

    Parameters
    ----------
    pixels: (n, size, size, 3) fundi.
    batch_size: the last batch is padded with half-gray images to the same size, so that the
        compiled function is traced only once.

    Returns
    -------
    (n, 5) float32, each row adding up to 1.
    """
    return Batches(batch_size).answers(model.predict_on_batch, pixels, scaled)
