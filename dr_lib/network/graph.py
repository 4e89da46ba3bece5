"""Reading a functional Keras model as a graph of layers: who feeds whom. The one place that
knows how Keras keeps it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


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
    seen, order = set(), []
    for output in model.outputs:
        stack = [(output, False)]
        while stack:
            tensor, expanded = stack.pop()
            layer, index, _ = tensor._keras_history
            if expanded:
                order.append((layer, index))
                continue
            if (id(layer), index) in seen:
                continue
            seen.add((id(layer), index))
            stack.append((tensor, True))
            if not any(tensor is source for source in model.inputs):
                stack.extend(
                    (source, False) for source in layer._inbound_nodes[index].input_tensors
                )
    done = set()
    for layer, index in order:
        if (id(layer), index) not in done:
            done.add((id(layer), index))
            node = layer._inbound_nodes[index]
            is_input = any(
                tensor is source for source in model.inputs for tensor in node.output_tensors
            )
            yield layer, [] if is_input else list(node.input_tensors), list(node.output_tensors)


def rectified(model: "keras.Model") -> bool:
    """Whether the gradient of every output unit is 0 wherever the unit is 0: it comes from
    rectifiers, joined or pooled.
    """
    import keras

    layers = keras.layers
    passing = (
        layers.AveragePooling2D,
        layers.Concatenate,
        layers.Dropout,
        layers.Flatten,
        layers.GlobalAveragePooling2D,
        layers.GlobalMaxPooling2D,
        layers.Identity,
        layers.MaxPooling2D,
        layers.Reshape,
    )
    rectified_tensors: dict[int, bool] = {}
    for layer, sources, outputs in calls(model):
        if isinstance(layer, layers.ReLU):
            dead = not layer.negative_slope and not layer.threshold
        else:
            dead = getattr(layer, "activation", None) is keras.activations.relu
            dead |= (
                isinstance(layer, passing)
                and bool(sources)
                and all(rectified_tensors[id(source)] for source in sources)
            )
        rectified_tensors |= dict.fromkeys(map(id, outputs), dead)
    return rectified_tensors[id(model.outputs[0])]


def rebuilt(model: "keras.Model", size: int) -> "keras.Model":
    """The same layers, sharing their weights, on a square input of another size."""
    import keras

    source = model.inputs[0]
    inputs = keras.Input((size, size, source.shape[-1]), name="window", dtype=source.dtype)
    tensors = {id(source): inputs}
    for layer, sources, outputs in calls(model):
        if not sources:
            continue
        tensors[id(outputs[0])] = called(layer, [tensors[id(tensor)] for tensor in sources])
    return keras.Model(inputs, tensors[id(model.outputs[0])], name=f"{model.name}_window{size}")


def called(layer: Any, inputs: list[Any]) -> Any:
    """The layer's answer in inference mode."""
    flags = {"training": False} if getattr(layer, "_call_has_training_arg", False) else {}
    return layer(inputs[0] if len(inputs) == 1 else inputs, **flags)
