"""The classifier: a convolutional trunk with named layers, two dense layers, a softmax over five
stages.

Every model built here, whatever its trunk, names its layers alike, because explanations ask for
layers by name: `fundus` (input), `stem`, `mixed0` … `mixedN`, `pooled`, `fc1` … , `stage`. The
names never depend on how many models a process has built before, so that weights, explanations and
tables of two runs always speak of the same layer.

This module must not know where pixels come from, nor how weights are stored beyond one weights-only
file.
"""

import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, assert_never, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.network import backend
from dr_lib.vocabulary import HALF_GRAY, STAGE_COUNT

if TYPE_CHECKING:
    import keras

SMALL_BLOCKS = (24, 32, 48)  # filters of the small trunk's concatenation blocks
# Running statistics remember about ten mini-batches. With keras' 0.99 a third of the trunk's old
# statistics, or of the random start, would still be there after a hundred mini-batches, and the
# graded network would not be the one that was trained.
NORM_MOMENTUM = 0.9
BackboneName = Literal["inception_v3", "small"]


@dataclass(frozen=True)
class ModelParams:
    """The architecture and where the trunk's weights come from.

    `backbone_weights`: "imagenet" (keras downloads them once), "none" (random) or the path of a
    weights-only file of `keras.applications.InceptionV3(include_top=False)`. The small trunk has no
    trained weights anywhere: it accepts "imagenet" and "none" and starts random with either.
    `dropout` stands before the first dense layer: a few thousand balanced examples against half a
    million dense weights overfit without it. `mixed_precision` stores weights in float32 and
    computes in the named type; leave it off on a CPU, and for explanations, whose per-pixel
    gradients of about 1e-6 it would round away.
    """

    backbone: BackboneName = "inception_v3"
    backbone_weights: str = "imagenet"
    dense: tuple[int, ...] = (256, 64)
    input_size: int = 256
    dropout: float = 0.3
    mixed_precision: Literal["off", "bfloat16", "float16"] = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in get_args(BackboneName):
            raise ValueError(
                f"backbone must be one of {', '.join(get_args(BackboneName))}, not"
                f" {self.backbone!r}"
            )
        smallest = backbone(self.backbone).smallest_input
        if self.input_size < smallest:
            raise ValueError(
                f"input_size must be at least {smallest} px for {self.backbone}, not"
                f" {self.input_size}"
            )
        if not self.dense or any(units < 1 for units in self.dense):
            raise ValueError(
                f"dense must name at least one layer, each of at least 1 unit, not {self.dense}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.mixed_precision not in ("off", "bfloat16", "float16"):
            raise ValueError(
                f"mixed_precision must be off, bfloat16 or float16, not {self.mixed_precision!r}"
            )
        if not self.backbone_weights:
            raise ValueError('backbone_weights must be "imagenet", "none" or a path, not empty')


@dataclass(frozen=True)
class Backbone:
    """A trunk, and all that others must know of it.

    title: its name in a sentence of the report. smallest_input: the least side of a fundus in px.
    blocks: how many concatenations it has, `mixed0` and so on. build: makes the Keras tensors
    `fundus` and `pooled` of these parameters, each layer with the given dtype policy, and random
    weights by the generator alone.
    """

    title: str
    smallest_input: int
    blocks: int
    build: Callable[[ModelParams, str, np.random.Generator], tuple[Any, Any]]


def backbone(name: BackboneName) -> Backbone:
    """The trunk of that name. The type checker refuses a `BackboneName` that has no case here."""
    match name:
        case "inception_v3":
            # Below 75 px the last blocks would have no position left (keras.applications' own
            # limit).
            return Backbone("Inception V3", 75, 11, _inception_trunk)
        case "small":
            return Backbone("A small network", 32, len(SMALL_BLOCKS), _small_trunk)
        case _:
            assert_never(name)


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
        *(f"mixed{number}" for number in range(backbone(params.backbone).blocks)),
        "pooled",
        *dense,
    )


def build(params: ModelParams) -> "keras.Model":
    """A new keras.Model from `fundus` (n, size, size, 3) float32 to `stage` (n, 5) probabilities.

    Raises ValueError, in one line, when the trunk's weights can't be had or do not fit.
    """
    backend.name()  # Keras as it has to be, whatever the user's own file or process told it
    import keras

    policy = "float32" if params.mixed_precision == "off" else f"mixed_{params.mixed_precision}"
    # One generator for the whole network: the same parameters give the same initial weights in any
    # process.
    seeds = np.random.default_rng(params.seed)
    inputs, x = backbone(params.backbone).build(params, policy, seeds)
    if params.dropout:
        x = keras.layers.Dropout(params.dropout, seed=params.seed, name="dropout", dtype=policy)(x)
    for number, units in enumerate(params.dense, 1):
        start = keras.initializers.HeNormal(seed=_next_seed(seeds))
        x = keras.layers.Dense(
            units, activation="relu", kernel_initializer=start, name=f"fc{number}", dtype=policy
        )(x)
    start = keras.initializers.GlorotUniform(seed=_next_seed(seeds))
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

    The last batch is padded with half-gray images to the same size, so that the compiled function
    is traced only once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    answers = np.empty((len(pixels), STAGE_COUNT), np.float32)
    batch = np.empty((batch_size, *pixels.shape[1:]), np.float32)
    for start in range(0, len(pixels), batch_size):
        piece = pixels[start : start + batch_size]
        batch[: len(piece)] = scaled(piece)
        batch[len(piece) :] = 0
        answers[start : start + len(piece)] = np.asarray(model.predict_on_batch(batch))[
            : len(piece)
        ]
    return answers


def _next_seed(seeds: np.random.Generator) -> int:
    """A seed of its own for each layer: initialisers that share one would all draw the same
    numbers.
    """
    return int(seeds.integers(2**31))


def _inception_trunk(
    params: ModelParams, policy: str, seeds: np.random.Generator
) -> tuple[Any, Any]:
    """Input and pooled features of Inception V3 without its top, every layer renamed by its
    place.
    """
    import keras

    base = _inception_base(params)
    names = _names_by_place(base)

    def renamed(layer: Any) -> Any:
        config = layer.get_config() | {"name": names[layer.name], "dtype": policy}
        if "momentum" in config:
            config["momentum"] = NORM_MOMENTUM
        if "kernel_initializer" in config:
            config["kernel_initializer"] = keras.initializers.GlorotUniform(seed=_next_seed(seeds))
        return layer.__class__.from_config(config)

    inputs = keras.Input((params.input_size, params.input_size, 3), name="fundus")
    trunk = keras.models.clone_model(base, input_tensors=inputs, clone_function=renamed)
    if params.backbone_weights != "none":
        for layer in base.layers[1:]:
            trunk.get_layer(names[layer.name]).set_weights(layer.get_weights())
    return inputs, keras.layers.GlobalAveragePooling2D(name="pooled", dtype=policy)(
        trunk.outputs[0]
    )


def _inception_base(params: ModelParams) -> Any:
    """Keras' own `InceptionV3(include_top=False)`, filled from its ImageNet file, a weights-only
    file, or random.
    """
    import keras

    source = params.backbone_weights
    shape = (params.input_size, params.input_size, 3)
    if source == "imagenet":
        try:
            return keras.applications.InceptionV3(
                include_top=False, weights="imagenet", input_shape=shape
            )
        except Exception as error:
            raise ValueError(
                f"the ImageNet weights could not be downloaded ({_one_line(error)}): give"
                " backbone_weights a path, or none"
            ) from error
    base = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=shape)
    if source != "none":
        _load_weights(base, source)
    return base


def _names_by_place(base: Any) -> dict[str, str]:
    """Each layer's name in our scheme: its class and its number in the order of creation; `stem` is
    the fifth activation.

    Keras numbers layers by a counter of the whole process, so its own names differ from model to
    model.
    """
    short = {
        "Conv2D": "conv",
        "BatchNormalization": "norm",
        "Activation": "relu",
        "MaxPooling2D": "maxpool",
    }
    short |= {"AveragePooling2D": "avgpool", "Concatenate": "concat", "InputLayer": "fundus"}

    def creation(layer: Any) -> int:
        tail = layer.name.rsplit("_", 1)[-1]
        return int(tail) if tail.isdigit() else 0

    names, counts = {}, dict.fromkeys(short, 0)
    for layer in sorted(base.layers, key=creation):
        kind = type(layer).__name__
        if layer.name.startswith("mixed"):
            names[layer.name] = layer.name
            continue
        counts[kind] += 1
        names[layer.name] = "fundus" if kind == "InputLayer" else f"{short[kind]}{counts[kind]}"
    return {old: "stem" if new == "relu5" else new for old, new in names.items()}


def _load_weights(base: Any, source: str) -> None:
    """Fill a fresh trunk from a weights-only file, or say in one line why it can't be."""
    path = pathlib.Path(source)
    if not path.is_file():
        raise ValueError(
            f"backbone_weights: no file {source} (give imagenet, none, or the path of a .weights.h5"
            " file)"
        )
    if path.suffix != ".h5":
        raise ValueError(f"backbone_weights: {source} is not a weights-only .h5 file")
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that a file leaves out, and they would stay random.
            warnings.simplefilter("error", UserWarning)
            base.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"backbone_weights: {source} does not hold the weights of InceptionV3 without its top"
            f" ({_one_line(error)})"
        ) from error
    if not all(np.isfinite(weight).all() for weight in base.get_weights()):
        raise ValueError(f"backbone_weights: {source} holds numbers that are not finite")


def _one_line(error: Exception) -> str:
    """The first line of an error's message, short enough for one line of a terminal."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _small_trunk(params: ModelParams, policy: str, seeds: np.random.Generator) -> tuple[Any, Any]:
    """Input and pooled features of a light trunk that learns a few hundred eyes in a minute on two
    cores.

    `stem` has stride 4 and sees 15×15 px: the largest lesions fit, and a neuron's region stays
    small. Three concatenation blocks follow, at strides 4·2, 4·4 and 4·8.
    """
    import keras

    def convolution(
        x: Any, filters: int, size: int, strides: int, name: str, relu: str | None = None
    ) -> Any:
        start = keras.initializers.HeNormal(seed=_next_seed(seeds))
        x = keras.layers.Conv2D(
            filters,
            size,
            strides,
            "same",
            use_bias=False,
            kernel_initializer=start,
            name=f"{name}_conv",
            dtype=policy,
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=NORM_MOMENTUM, name=f"{name}_norm", dtype=policy
        )(x)
        return keras.layers.Activation("relu", name=relu or f"{name}_relu", dtype=policy)(x)

    def block(x: Any, filters: int, name: str) -> Any:
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool", dtype=policy)(x)
        one = convolution(x, filters, 1, 1, f"{name}_one")
        three = convolution(x, filters, 3, 1, f"{name}_three")
        five = convolution(
            convolution(x, filters // 2, 1, 1, f"{name}_squeeze"), filters, 5, 1, f"{name}_five"
        )
        return keras.layers.Concatenate(name=name, dtype=policy)([one, three, five])

    inputs = keras.Input((params.input_size, params.input_size, 3), name="fundus")
    x = convolution(inputs, 16, 3, 2, "conv1")
    x = convolution(x, 24, 3, 2, "conv2")
    x = convolution(x, 32, 3, 1, "conv3", relu="stem")
    for number, filters in enumerate(SMALL_BLOCKS):
        x = block(x, filters, f"mixed{number}")
    # A lesion a few pixels wide vanishes in an average over the eye: keep each channel's strongest
    # answer too.
    average = keras.layers.GlobalAveragePooling2D(name="pooled_average", dtype=policy)(x)
    strongest = keras.layers.GlobalMaxPooling2D(name="pooled_max", dtype=policy)(x)
    return inputs, keras.layers.Concatenate(name="pooled", dtype=policy)([average, strongest])
