"""Reading a functional Keras model as a graph of layers: which layer feeds which. No other module
knows how Keras keeps the graph.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

# Layers whose units are 0, and without a gradient, wherever all that they see is.
PASSING = frozenset(
    {
        "AveragePooling2D",
        "Concatenate",
        "Dropout",
        "Flatten",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "Identity",
        "MaxPooling2D",
        "Reshape",
    }
)


def calls(model: "keras.Model") -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Every layer call between the model's input and output, in an order in which inputs come
    first.

    Each is (layer, its input tensors, its output tensors); tensors are symbolic and compared by
    identity. Raises ValueError for a model without a graph (a subclass of keras.Model with its own
    `call`).
    """
    if not hasattr(model, "operations"):
        raise ValueError(
            f"{model.name} has no graph of layers: only functional (or Sequential) Keras models can"
            " be taken apart"
        )
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            yield node.operation, list(node.input_tensors), list(node.outputs)


def rectified(model: "keras.Model") -> bool:
    """Whether the gradient of every output unit is 0 wherever the unit is 0: it comes from
    rectifiers, joined or pooled.
    """
    import keras

    relu = keras.activations.relu
    dead: dict[int, bool] = {}
    for layer, sources, outputs in calls(model):
        if isinstance(layer, keras.layers.ReLU):
            is_dead = not layer.negative_slope and not layer.threshold
        elif getattr(layer, "activation", None) is relu:
            is_dead = True
        else:
            passes = type(layer).__name__ in PASSING and bool(sources)
            is_dead = passes and all(dead[id(source)] for source in sources)
        dead |= dict.fromkeys(map(id, outputs), is_dead)
    return dead[id(model.outputs[0])]


def rebuilt(model: "keras.Model", size: int) -> "keras.Model":
    """The same layers, sharing their weights, on a square input of another size in px."""
    import keras

    source = model.inputs[0]
    inputs = keras.Input((size, size, source.shape[-1]), name="window", dtype=source.dtype)
    return keras.models.clone_model(model, inputs, clone_function=lambda layer: layer)
