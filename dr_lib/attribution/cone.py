"""A layer's single unit computed from its receptive field alone: no layer below works on a position
that the unit can't see.

A window that holds the whole cone is computed whole by every layer; the cone itself narrows from
layer to layer, down to one position, at 0.4 of the operations for Inception V3's stem and 0.6 for
`mixed2`. It needs no padding, so it serves the units whose cone lies within the image; those at its
edge keep their window (`receptive.window_origin`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dr_lib.attribution.receptive import (
    MERGES,
    POINTWISE,
    Span,
    reach,
    receptive_field,
    unit_spans,
)
from dr_lib.network.graph import called, calls

if TYPE_CHECKING:
    import keras

KNOWN = POINTWISE | MERGES | {"Conv2D", "MaxPooling2D", "AveragePooling2D"}


def cone(lower: "keras.Model") -> Callable[[Any], Any] | None:
    """The function (n, size_y, size_x, channel) -> (n, unit channel) from receptive fields to the
    unit that each shows.

    It shares the model's weights. None for a network with a layer that is not known here, and for
    units without a place.
    """
    from keras import ops

    spans = cone_spans(lower)
    if spans is None:
        return None
    steps = [call for call in calls(lower) if call[1]]

    def unit(x: Any) -> Any:
        tensors = {id(lower.inputs[0]): x}
        for layer, sources, outputs in steps:
            seen = []
            for source in sources:
                wanted = reach(layer, source, spans[id(outputs[0])])
                seen.append(_cropped(tensors[id(source)], spans[id(source)], wanted))
            tensors[id(outputs[0])] = _applied(layer, seen)
        return ops.squeeze(tensors[id(lower.outputs[0])], (1, 2))

    return unit


def cone_spans(lower: "keras.Model") -> dict[int, Span] | None:
    """For every tensor of the model, by its id, the places that unit (0, 0) is computed from.
    None where `cone` is.
    """
    layers = [layer for layer, sources, _ in calls(lower) if sources]
    known = all(type(layer).__name__ in KNOWN for layer in layers)
    if not known or any(layer.compute_dtype != "float32" for layer in layers):
        return None
    return None if receptive_field(lower).whole else unit_spans(lower)


def _cropped(tensor: Any, there: Span, wanted: Span) -> Any:
    """The `wanted` places of a tensor that holds the places `there`."""
    rows, columns = (
        slice(first - start, end - start)
        for (first, end), (start, _) in zip(wanted, there, strict=True)
    )
    return tensor[:, rows, columns]


def _applied(layer: Any, inputs: list[Any]) -> Any:
    """The layer without its padding: what would have been padded is there."""
    from keras import ops

    kind = type(layer).__name__
    if kind == "Conv2D":
        answer = ops.conv(
            inputs[0],
            layer.kernel,
            strides=list(layer.strides),
            padding="valid",
            data_format="channels_last",
            dilation_rate=list(layer.dilation_rate),
        )
        return layer.activation(answer + layer.bias if layer.use_bias else answer)
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        pool = ops.max_pool if kind == "MaxPooling2D" else ops.average_pool
        return pool(inputs[0], layer.pool_size, layer.strides, "valid", "channels_last")
    return called(layer, inputs)
