"""A plane a lesion type, as large as its file: what a mask's pixels mean, whatever form they came
in.

Types may overlap: a pixel belongs to as many as claim it. Palettes, transparency, one bit or
sixteen are read by Pillow; what counts in a plane is what is not black.
"""

import io
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

from dr_lib.formatting import percent
from dr_lib.fundus.photo import UNDECODABLE
from dr_lib.localisation.masks import Planes, UnusableMask
from dr_lib.synthetic import MASK_COLOURS

if TYPE_CHECKING:
    from PIL import Image

MOST_COVERED = 0.5  # of a picture: no lesion type covers more, but an inverted mask does
MOST_STRANGE = 0.5  # of the coloured pixels: in a photograph nearly all are of no mask's colour


def type_plane(content: bytes) -> Bool[np.ndarray, "h w"]:
    """The pixels that are not black in a picture of one lesion type.

    Raises
    ------
    UnusableMask
        unreadable: no image that can be decoded; inverted: more than half of it is lesion.
    """
    plane = _lit(_opened(content))
    if plane.mean() > MOST_COVERED:
        raise UnusableMask(
            "inverted", f"{percent(plane.mean())} of it is lesion; black must be what is not"
        )
    return plane


def colour_planes(content: bytes) -> Planes:
    """The planes of a picture in which each lesion type has a colour (`MASK_COLOURS`); colours off
    the palette are snapped to the nearest of it.

    Raises
    ------
    UnusableMask
        unreadable: no image that can be decoded; not_a_mask: its colours are those of a
        photograph, or numbers of types instead of colours.
    """
    pixels = np.asarray(_opened(content).convert("RGB"))
    high = pixels.max(axis=2)
    coloured = high > 0
    between = ((pixels > 63) & (pixels < 192)).any(axis=2)
    strange = coloured & (between | (high < 64))
    if strange.sum() > MOST_STRANGE * coloured.sum() and strange.sum() > 100:
        raise UnusableMask(
            "not_a_mask",
            "most of its pixels have no mask's colour; give the colours of dr synthesise, or a"
            " picture a lesion type",
        )
    labels = snapped(pixels)
    planes = {kind: labels == label for label, kind in enumerate(MASK_COLOURS, 1)}
    return {kind: plane for kind, plane in planes.items() if plane.any()}


def snapped(mask: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """0 for background, 1 + the place in `MASK_COLOURS` of the nearest colour otherwise.

    >>> snapped(np.array([[[0, 0, 0], [255, 255, 254], [250, 3, 0]]], np.uint8))
    array([[0, 1, 2]], dtype=uint8)
    """
    # The palette is the corners of the colour cube: the nearest one is found channel by channel.
    labels = np.zeros((2, 2, 2), np.uint8)
    for label, colour in enumerate(MASK_COLOURS.values(), 1):
        labels[tuple(level // 255 for level in colour)] = label
    red, green, blue = np.moveaxis(mask >> 7, -1, 0)
    return labels[red, green, blue]


def annotated_planes(annotations: Iterable[Mapping[str, Any]], shape: tuple[int, int]) -> Planes:
    """The planes of COCO annotations that carry a `lesion`, on an image of a shape (height, width).

    Each `segmentation` is a list of polygons (x, y, x, y, … in pixels from the top left corner) or
    a run-length encoding, compressed or not.

    Raises
    ------
    UnusableMask
        no_outline: an annotation without a segmentation; a box says too little.
    """
    planes: dict[str, np.ndarray] = {}
    for one in annotations:
        segmentation = one.get("segmentation")
        if not segmentation:
            raise UnusableMask("no_outline", f"annotation {one.get('id')} has no segmentation")
        plane = planes.setdefault(one["lesion"], np.zeros(shape, bool))
        if isinstance(segmentation, Mapping):
            plane |= _runs(segmentation, shape)
        else:
            for polygon in segmentation:
                _fill(plane, np.asarray(polygon, np.float64).reshape(-1, 2))
    return planes


def _fill(plane: np.ndarray, corners: np.ndarray) -> None:
    """Marks the pixels whose centre lies in a polygon of (x, y); of one that holds none, the pixel
    in its middle.
    """
    from skimage.draw import polygon

    y, x = polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5, plane.shape)
    if not len(y):
        place = np.floor(corners.mean(axis=0)).astype(int)
        x, y = np.clip(place, 0, np.array(plane.shape[::-1]) - 1)
    plane[y, x] = True


def _runs(segmentation: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """A run-length encoding as pixels: columns one after the other, runs of 0 and 1 in turn."""
    counts = segmentation["counts"]
    lengths = counts if isinstance(counts, list) else _uncompressed(counts)
    height, width = segmentation["size"]
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    if (height, width) != tuple(shape) or len(flat) != height * width:
        raise UnusableMask(
            "mask_size",
            f"a run-length encoding of {len(flat)} px in {width} × {height} does not fit an image"
            f" of {shape[1]} × {shape[0]} px",
        )
    return flat.reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """The runs in COCO's compressed text: numbers of 5 bits a character, the lowest first, each
    from the third on as the difference to the last but one.

    >>> _uncompressed("52")
    [5, 2]
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text.encode():
        code = character - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last character of this number
            if code & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def merged(parts: Iterable[Planes]) -> Planes:
    """The planes of several files of one photograph; a type that two of them show is their union.

    Raises
    ------
    UnusableMask
        mask_size: two planes of one type differ in size.
    """
    planes: dict[str, np.ndarray] = {}
    for part in parts:
        for kind, plane in part.items():
            known = planes.get(kind, plane)
            if known.shape != plane.shape:
                raise UnusableMask("mask_size", f"two masks of {kind} differ in size")
            planes[kind] = known | plane
    return planes


def _lit(image: "Image.Image") -> Bool[np.ndarray, "h w"]:
    """Where any colour of a picture is not black; its transparency has no say."""
    values = np.asarray(image)
    if image.mode == "P":  # of a large mask the palette is looked up far sooner than converted
        lit = np.zeros(256, bool)
        colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
        lit[: len(colours)] = colours.any(axis=1)
        return lit[values]
    above = 127 if image.format == "JPEG" else 0  # what a JPEG made of black is not quite black
    bands = [number for number, band in enumerate(image.getbands()) if band != "A"]
    colours = np.atleast_3d(values)
    return np.logical_or.reduce([colours[..., number] > above for number in bands])


def _opened(content: bytes) -> "Image.Image":
    """A picture, decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd tags
            image = Image.open(io.BytesIO(content))
            image.load()
            return image
    except (*UNDECODABLE, Image.DecompressionBombError):
        raise UnusableMask("unreadable", "the file is no image that can be decoded") from None
