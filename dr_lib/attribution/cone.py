"""A layer's single unit computed from its receptive field alone: no layer below works on a position
that the unit can't see.

A window that holds the whole cone is computed whole by every layer; the cone itself narrows from
layer to layer, down to one position, at 0.4 of the operations for Inception V3's stem and 0.6 for
`mixed2`. It needs no padding, so it serves the units whose cone lies within the image; those at its
edge keep their window (`receptive.window_origin`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dr_lib.attribution.receptive import MERGES, POINTWISE, receptive_field, sliding
from dr_lib.network.graph import called, calls

if TYPE_CHECKING:
    import keras

KNOWN = POINTWISE | MERGES | {"Conv2D", "MaxPooling2D", "AveragePooling2D"}
# (first, end) per axis (y, x), from the place of unit (0, 0).
Span = tuple[tuple[int, int], tuple[int, int]]


def cone(lower: "keras.Model") -> Callable[[Any], Any] | None:
    """The function (n, size_y, size_x, channel) -> (n, unit channel) from receptive fields to the
    one unit each shows.

    It shares the model's weights. None for a network with a layer that is not known here, and for
    units without a place.
    """
    from keras import ops

    known_spans = cone_spans(lower)
    if known_spans is None:
        return None
    spans = known_spans
    steps = [call for call in calls(lower) if call[1]]

    def unit(x: Any) -> Any:
        tensors = {id(lower.inputs[0]): x}
        for layer, sources, outputs in steps:
            span = spans[id(outputs[0])]
            seen = [
                _cropped(tensors[id(source)], spans[id(source)], _reach(layer, source, span))
                for source in sources
            ]
            tensors[id(outputs[0])] = _applied(layer, seen)
        return ops.squeeze(tensors[id(lower.outputs[0])], (1, 2))

    return unit


def cone_spans(lower: "keras.Model") -> dict[int, Span] | None:
    """For every tensor of the model, by its id, the places that unit (0, 0) is computed from.
    None where `cone` is.
    """
    if receptive_field(lower).whole:
        return None
    steps = [call for call in calls(lower) if call[1]]
    if any(
        type(layer).__name__ not in KNOWN or layer.compute_dtype != "float32"
        for layer, _, _ in steps
    ):
        return None
    spans: dict[int, Span] = {id(lower.outputs[0]): ((0, 1), (0, 1))}
    for layer, sources, outputs in reversed(steps):
        for source in sources:
            reach, before = _reach(layer, source, spans[id(outputs[0])]), spans.get(id(source))
            spans[id(source)] = reach if before is None else _hull(before, reach)
    return spans


def _reach(layer: Any, source: Any, span: Span) -> Span:
    """The places of a layer's input that the places of its output in `span` are computed from,
    padding included.
    """
    slides = sliding(layer, source)
    if slides is None:
        return span
    rows, columns = (
        (first * stride - pad, (end - 1) * stride - pad + kernel)
        for (first, end), kernel, stride, pad in zip(span, *slides, strict=True)
    )
    return rows, columns


def _hull(first: Span, second: Span) -> Span:
    rows, columns = ((min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))
    return rows, columns


def _cropped(tensor: Any, there: Span, wanted: Span) -> Any:
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
        how = {"strides": list(layer.strides), "dilation_rate": list(layer.dilation_rate)}
        answer = ops.conv(
            inputs[0], layer.kernel, padding="valid", data_format="channels_last", **how
        )
        return layer.activation(answer + layer.bias if layer.use_bias else answer)
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        pool = ops.max_pool if kind == "MaxPooling2D" else ops.average_pool
        return pool(inputs[0], layer.pool_size, layer.strides, "valid", "channels_last")
    return called(layer, inputs)
