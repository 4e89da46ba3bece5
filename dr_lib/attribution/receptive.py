"""Which input pixels a layer's unit depends on, and the smallest window of the image that shows it
the same world.

A unit of an early layer sees a few dozen pixels. Run on a window that contains its whole cone,
starts at a multiple of the layer's total stride, and ends at the image's edge wherever the cone
does, the layers below compute that unit from the same numbers in the same places, padding included.
The window's side differs from the image's by a multiple of the stride, so that every layer's "same"
padding, which depends on a size modulo a stride, is split as in the whole image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

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


@dataclass(frozen=True)
class ReceptiveField:
    """Unit (i, j) sees pixels from `offset + i · stride`, `size` of them, per axis (y, x), before
    clipping to the image.

    `whole` is True where a unit sees the whole image because no position is left (global pooling,
    dense layers), and for an input that is no image, such as a vector: `size` then is the input's
    own.
    """

    size: tuple[int, ...]
    stride: tuple[int, int]
    offset: tuple[int, int]
    whole: bool = False

    def pixels(self, unit: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns that a unit (y, x) sees; they may begin before the image and end
        after it.
        """
        starts = [
            offset + place * stride
            for offset, place, stride in zip(self.offset, unit, self.stride, strict=True)
        ]
        rows, columns = (
            slice(start, start + size) for start, size in zip(starts, self.size, strict=True)
        )
        return rows, columns


def receptive_field(lower: "keras.Model") -> ReceptiveField:
    """The receptive field of the model's output units, derived from its layers.

    A layer whose reach is unknown counts as seeing everything: never wrong, only slow.
    Raises ValueError where branches of different strides meet.
    """
    everything = ReceptiveField(tuple(lower.inputs[0].shape[1:3]), (1, 1), (0, 0), whole=True)
    if len(lower.inputs[0].shape) != 4:
        return everything
    fields: dict[int, ReceptiveField] = {}
    for layer, sources, outputs in calls(lower):
        if not sources:
            fields[id(outputs[0])] = ReceptiveField((1, 1), (1, 1), (0, 0))
            continue
        seen = [fields[id(source)] for source in sources]
        fields[id(outputs[0])] = _through(layer, seen, sources[0]) or everything
    return fields[id(lower.outputs[0])]


def window_side(lower: "keras.Model", input_size: int) -> int:
    """The side of the square window on which every output unit is computed exactly; `input_size`
    for the whole image.
    """
    field = receptive_field(lower)
    if field.whole:
        return input_size
    # Whatever the unit, its cone starts `offset mod stride` after the last multiple of the stride.
    needed = max(
        offset % stride + size
        for offset, stride, size in zip(field.offset, field.stride, field.size, strict=True)
    )
    stride = max(field.stride)
    if field.stride[0] != field.stride[1]:
        return input_size
    side = needed + (input_size - needed) % stride
    return min(side, input_size)


def window_origin(
    field: ReceptiveField, side: int, input_size: int, unit: tuple[int, int]
) -> tuple[int, int]:
    """The window's upper left pixel for a unit (y, x): the last aligned start before its cone,
    clamped to the image.
    """

    firsts = [
        seen.start - seen.start % stride
        for seen, stride in zip(field.pixels(unit), field.stride, strict=True)
    ]
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
    (stride_y, stride_x), (offset_y, offset_x), (size_y, size_x) = (
        field.stride,
        field.offset,
        field.size,
    )
    inverse = [
        [1 / stride_x, 0, -(offset_x + (size_x - 1) / 2) / stride_x],
        [0, 1 / stride_y, -(offset_y + (size_y - 1) / 2) / stride_y],
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = (input_size, input_size)
    return cv2.warpAffine(
        values, np.array(inverse), square, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def _through(layer: Any, seen: list[ReceptiveField], source: Any) -> ReceptiveField | None:
    """The field after one layer; None for a layer that sees everything, or that is unknown here."""
    if any(field.whole for field in seen):
        return None
    kind = type(layer).__name__
    if kind in POINTWISE:
        return seen[0]
    if kind == "BatchNormalization" and layer.axis not in (-1, 3):
        return None
    if kind in MERGES:
        return _union(seen) if kind != "Concatenate" or layer.axis in (-1, 3) else None
    if kind == "ZeroPadding2D":
        (top, _), (left, _) = layer.padding
        return _slid(seen[0], (1, 1), (1, 1), (top, left))
    slides = sliding(layer, source)
    return slides and _slid(seen[0], *slides)


def sliding(
    layer: Any, source: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
    """Kernel (its holes included), strides and padding before the first position of a layer that
    slides over `source`, per axis.
    """
    kind = type(layer).__name__
    if kind in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D"):
        ky, kx = (
            (k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)
        )
    elif kind in ("MaxPooling2D", "AveragePooling2D"):
        ky, kx = layer.pool_size
    else:
        return None
    if layer.data_format != "channels_last":
        return None
    (height, width), (sy, sx) = source.shape[1:3], layer.strides
    pads = (
        (_same_padding(height, ky, sy), _same_padding(width, kx, sx))
        if layer.padding == "same"
        else (0, 0)
    )
    return (ky, kx), (sy, sx), pads


def _same_padding(size: int, kernel: int, stride: int) -> int:
    """Zeros before the first pixel under "same" padding: the smaller half of what is missing."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2


def _slid(field: ReceptiveField, kernel: tuple, strides: tuple, pads: tuple) -> ReceptiveField:
    def each(function: Any) -> tuple[int, int]:
        return function(0), function(1)

    return ReceptiveField(
        size=each(lambda axis: field.size[axis] + (kernel[axis] - 1) * field.stride[axis]),
        stride=each(lambda axis: field.stride[axis] * strides[axis]),
        offset=each(lambda axis: field.offset[axis] - pads[axis] * field.stride[axis]),
    )


def _union(fields: list[ReceptiveField]) -> ReceptiveField:
    if len({field.stride for field in fields}) > 1:
        raise ValueError(
            "branches of different strides meet in one layer: its units see no regular grid of"
            " windows"
        )
    top, left = (min(field.offset[axis] for field in fields) for axis in (0, 1))
    bottom, right = (
        max(field.offset[axis] + field.size[axis] for field in fields) for axis in (0, 1)
    )
    return ReceptiveField((bottom - top, right - left), fields[0].stride, (top, left))
