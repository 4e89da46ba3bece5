"""The optimiser, which weights learn in which phase of a run, and the loss: cross-entropy, to
which the ordinal loss adds how far off the stage is.
"""

from typing import TYPE_CHECKING, Any

from dr_lib.network.layers import split_at
from dr_lib.training.params import TrainingParams

if TYPE_CHECKING:
    import keras


# Layers above the backbone, by how their names begin.
HEAD = ("pooled", "dropout", "fc", "stage")


def optimizer_of(model: "keras.Model", params: TrainingParams, rate: float) -> Any:
    """An optimiser that knows every weight, also those that a first phase leaves alone."""
    import keras

    clip = params.clip_norm or None
    optimizer: Any
    if params.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip)
    elif params.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(
            rate, weight_decay=params.weight_decay, global_clipnorm=clip
        )
        # Offsets and normalisation set a level, not a complexity: pulled to 0 they would only shift
        # what layers see.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=clip)
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        # float16 gradients below 6e-8 would vanish: they are scaled up before and down after.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    _set_trainable(model, params, "all")
    optimizer.build(model.trainable_variables)
    return optimizer


def compile_phase(model: "keras.Model", optimizer: Any, params: TrainingParams, phase: str) -> None:
    """Compiles the model for a phase: "head", in which only the dense layers learn, or "all"."""
    import keras

    _set_trainable(model, params, phase)
    # Measured on CPU: TensorFlow's XLA takes half as long again as its plain kernels. Other
    # backends need compilation.
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(optimizer, loss_of(params), jit_compile=jit, auto_scale_loss=False)


def _set_trainable(model: "keras.Model", params: TrainingParams, phase: str) -> None:
    """Which weights learn. With "adapt" normalisation takes each batch's own statistics also
    where no weight learns.
    """
    import keras

    kept = set(split_at(model, params.freeze_below)[0].layers) if params.freeze_below else set()
    for layer in model.layers:
        learns = layer not in kept and (phase == "all" or layer.name.startswith(HEAD))
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras ties the statistics to `layer.trainable`: scale and offset are held one by one,
            # or released again.
            layer.trainable = params.batch_norm == "adapt"
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    variable.trainable = layer.trainable and learns
        else:
            layer.trainable = learns


def loss_of(params: TrainingParams) -> Any:
    """The Keras loss of (target, predicted) probabilities, (n, 5) each, its mean over the
    mini-batch.

    "crossentropy" charges a stage 0 called 4 as much as one called 1. "ordinal" adds
    `ordinal_weight` times the squared earth mover's distance `Σ_k (Σ_{s≤k} predicted_s −
    target_s)²`: for certain stages the number of stages between the two. It stands beside
    cross-entropy, not in its place, since by itself its gradient vanishes where a softmax is
    certain and wrong (L. Hou, C.-P. Yu, D. Samaras: Squared earth mover's distance-based loss for
    training deep neural networks, 2016). Both have their minimum at predicted = target.
    """
    import keras

    if params.loss == "crossentropy":
        return keras.losses.CategoricalCrossentropy()

    def ordinal(target: Any, predicted: Any) -> Any:
        apart = keras.ops.cumsum(predicted - target, axis=-1)
        distance = keras.ops.sum(keras.ops.square(apart), axis=-1)
        return (
            keras.losses.categorical_crossentropy(target, predicted)
            + params.ordinal_weight * distance
        )

    return ordinal
