"""Which input pixels a layer's unit depends on, and how to compute the unit from few of them.

A unit of an early layer sees a few dozen pixels, its cone. The smallest window on which the unit
has the same value contains the whole cone, starts at a multiple of the layer's total stride, and
ends at the image's edge wherever the cone does. Run on the window, the layers below compute the
unit from the same numbers in the same places, padding included. The window's side differs from the
image's by a multiple of the stride, so that every layer's "same" padding, which depends on a size
modulo a stride, is split as in the whole image.

A window is computed whole by every layer; the cone itself narrows from layer to layer, down to one
position, at 0.4 of the operations for Inception V3's stem and 0.6 for `mixed2`. It needs no
padding, so it serves the units whose cone lies within the image; those at its edge keep their
window (`window_origin`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int

from dr_lib.network.graph import calls

if TYPE_CHECKING:
    import keras


# Layers that work on each position by itself.
POINTWISE = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "BatchNormalization",
        "Dropout",
        "ELU",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
        "LeakyReLU",
        "PReLU",
        "ReLU",
        "Rescaling",
        "SpatialDropout2D",
    }
)
MERGES = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"})


# Something for each axis, (y, x).
Axes = tuple[int, ...]
# The first place and the end, of each axis.
Span = Int[np.ndarray, "axis 2"]
# A unit so far from the first that branches of different strides no longer overlap on its way.
FAR = 1 << 20


@dataclass(frozen=True)
class ReceptiveField:
    """Unit (i, j) sees pixels from `offset + i · stride`, `size` of them, per axis (y, x), before
    clipping to the image.

    `whole` is True where a unit sees the whole image because no position is left (global pooling,
    dense layers), and for an input that is no image, such as a vector: `size` then is the input's
    own.
    """

    size: Axes
    stride: tuple[int, int]
    offset: Axes
    whole: bool = False

    @property
    def centre(self) -> tuple[float, ...]:
        """The middle (y, x) of what unit (0, 0) sees."""
        axes = zip(self.offset, self.size, strict=True)
        return tuple(offset + (size - 1) / 2 for offset, size in axes)

    def pixels(self, unit: Axes) -> tuple[slice, ...]:
        """Rows and columns that a unit (y, x) sees; they may begin before the image and end
        after it.
        """
        axes = zip(self.offset, unit, self.stride, self.size, strict=True)
        starts = ((offset + place * stride, size) for offset, place, stride, size in axes)
        return tuple(slice(start, start + size) for start, size in starts)


def receptive_field(lower: "keras.Model") -> ReceptiveField:
    """The receptive field of the model's output units, derived from its layers.

    A layer whose reach is unknown counts as seeing everything: never wrong, only slow.

    Raises
    ------
    ValueError: where branches of different strides meet.
    """
    source = lower.inputs[0]
    unknown = (sliding(layer, seen[0]) is None for layer, seen, _ in calls(lower) if seen)
    if len(source.shape) != 4 or any(unknown):
        return ReceptiveField(tuple(source.shape[1:3]), (1, 1), (0, 0), whole=True)
    first, far = (unit_spans(lower, place)[id(source)] for place in (0, FAR))
    size = np.diff(first)
    if (size != np.diff(far)).any():
        raise ValueError(
            "branches of different strides meet in one layer: its units see no regular grid of"
            " windows"
        )
    offset, (stride_y, stride_x) = first[:, 0], ((far - first)[:, 0] // FAR).tolist()
    return ReceptiveField(tuple(size[:, 0].tolist()), (stride_y, stride_x), tuple(offset.tolist()))


def unit_spans(lower: "keras.Model", place: int = 0) -> dict[int, Span]:
    """For every tensor of a model whose layers are all known here, by the tensor's id: the places
    that unit (place, place) is computed from, padding included.
    """
    spans: dict[int, Span] = {id(lower.outputs[0]): np.array([[place, place + 1]] * 2)}
    for layer, sources, outputs in reversed(list(calls(lower))):
        for source in sources:
            seen = reach(layer, source, spans[id(outputs[0])])
            # Another layer may look at the same tensor: the places of both.
            (first, end), (other, last) = spans.get(id(source), seen).T, seen.T
            both = np.minimum(first, other), np.maximum(end, last)
            spans[id(source)] = np.stack(both, axis=1)
    return spans


def reach(layer: Any, source: Any, span: Span) -> Span:
    """The places of a layer's input that the places of its output in `span` are computed from,
    padding included.
    """
    (kernel, stride, pad), (first, end) = np.array(sliding(layer, source)), span.T
    return np.stack([first * stride, (end - 1) * stride + kernel], axis=1) - pad[:, np.newaxis]


def window_side(lower: "keras.Model", input_size: int) -> int:
    """The side of the square window on which every output unit is computed exactly; `input_size`
    for the whole image. Both in px.
    """
    field = receptive_field(lower)
    if field.whole or len(set(field.stride)) > 1:
        return input_size
    # Whatever the unit, its cone starts `offset mod stride` after the last multiple of the stride.
    axes = zip(field.offset, field.stride, field.size, strict=True)
    needed = max(offset % stride + size for offset, stride, size in axes)
    return min(needed + (input_size - needed) % field.stride[0], input_size)


def window_origin(field: ReceptiveField, side: int, input_size: int, unit: Axes) -> tuple[int, int]:
    """The window's upper left pixel for a unit (y, x): the last aligned start before its cone,
    clamped to the image.
    """
    firsts = (
        seen.start - seen.start % stride
        for seen, stride in zip(field.pixels(unit), field.stride, strict=True)
    )
    top, left = (min(max(first, 0), input_size - side) for first in firsts)
    return top, left


def enlarged(
    values: Float32[np.ndarray, "rows columns"], field: ReceptiveField, input_size: int
) -> Float32[np.ndarray, "y x"]:
    """A layer's map laid on the image: each position at the centre of its receptive field, bilinear
    between them.

    Stretching the map over the whole image instead would move it by up to 9 px at the edges
    (Inception V3 at 256 px), more than a lesion's size. Beyond the outermost centres the nearest
    position's value goes on.
    """
    import cv2

    # Rows of the inverse map, image → layer: (x, y) order, as OpenCV wants it.
    (stride_y, stride_x), (centre_y, centre_x) = field.stride, field.centre
    inverse = [
        [1 / stride_x, 0, -centre_x / stride_x],
        [0, 1 / stride_y, -centre_y / stride_y],
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = (input_size, input_size)
    return cv2.warpAffine(
        values, np.array(inverse), square, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def sliding(layer: Any, source: Any) -> tuple[Axes, Axes, Axes] | None:
    """Kernel (its holes included), strides and padding before the first position, per axis, of a
    layer that slides over `source`; None for a layer that sees everything, or that is unknown here.
    """
    kind = type(layer).__name__
    if kind in POINTWISE | MERGES:
        by_channel = getattr(layer, "axis", -1) in (-1, 3)
        return ((1, 1), (1, 1), (0, 0)) if by_channel else None
    if kind == "ZeroPadding2D":
        (top, _), (left, _) = layer.padding
        return (1, 1), (1, 1), (top, left)
    if kind in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D"):
        holes = zip(layer.kernel_size, layer.dilation_rate, strict=True)
        kernel = tuple((size - 1) * dilation + 1 for size, dilation in holes)
    elif kind in ("MaxPooling2D", "AveragePooling2D"):
        kernel = tuple(layer.pool_size)
    else:
        return None
    if layer.data_format != "channels_last":
        return None
    strides, pads = tuple(layer.strides), (0, 0)
    if layer.padding == "same":
        # Zeros before the first pixel: the smaller half of what is missing.
        axes = zip(source.shape[1:3], kernel, strides, strict=True)
        missing = ((-(-size // step) - 1) * step + width - size for size, width, step in axes)
        pads = tuple(max(count, 0) // 2 for count in missing)
    return kernel, strides, pads


# Layers that `cone` computes without their padding.
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
                places = wanted - spans[id(source)][:, :1]
                rows, columns = (slice(*axis) for axis in places.tolist())
                seen.append(tensors[id(source)][:, rows, columns])
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
    flags = {"training": False} if getattr(layer, "_call_has_training_arg", False) else {}
    return layer(inputs[0] if len(inputs) == 1 else inputs, **flags)
