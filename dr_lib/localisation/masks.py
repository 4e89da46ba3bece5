"""Which pixels of a normalised fundus are lesions: what a mask's pixels mean, whatever form they
came in, and a photograph's masks in the fundus' own geometry.

A plane a lesion type, as large as its file. Types may overlap: a pixel belongs to as many as claim
it. Palettes, transparency, one bit or sixteen are read by Pillow; what counts in a plane is what is
not black.

A microaneurysm is two pixels wide in a fundus of 256 px and fifty times as large in the mask.
Sampling one mask pixel for each of the fundus would lose it or not by luck, so every mask pixel
counts: a fundus pixel knows which share of it a lesion covers. What a mask means is decided here;
what a map makes of it is not.
"""

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dr_lib.formatting import percent
from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.fundus.photo import UNDECODABLE, UnusablePhoto
from dr_lib.fundus.scale import matrix
from dr_lib.synthetic import MASK_COLOURS
from dr_lib.vocabulary import HALF_GRAY

if TYPE_CHECKING:
    from PIL import Image


# The pixels of each lesion type (and of the optic disc), each plane as large as its file.
Planes = Mapping[str, Bool[np.ndarray, "_ _"]]
ANY = "any"  # the lesion type that stands for all of them together
NO_LESION = ("optic_disc",)
COVERED = 0.25  # of a fundus pixel: from here on it counts as lesion
# In fundi of 256 px, as shares of one pixel. Ten mask pixels of IDRiD's, stray or of two colours,
# make 0.06; its smallest microaneurysms 0.5.
SPECK_PX = 0.15
ASPECT = 0.01  # so much may the aspect ratios of mask and photograph differ


class UnusableMask(UnusablePhoto):
    """A photograph's mask cannot be laid on it; `detail` says what was found."""


@dataclass(frozen=True)
class LesionMasks:
    """Lesions of one fundus: `kinds` maps each lesion type that is there to its pixels, within
    `inside` alone.

    `inside` is where the fundus shows retina; only there is a map judged.
    """

    kinds: Mapping[str, Bool[np.ndarray, "y x"]]
    inside: Bool[np.ndarray, "y x"]

    @property
    def any(self) -> Bool[np.ndarray, "y x"]:
        """The pixels of all lesions."""
        return np.logical_or.reduce([np.zeros_like(self.inside), *self.kinds.values()])

    def targets(self) -> dict[str, np.ndarray]:
        """Each lesion type's pixels by its name, and all lesions' as "any"; empty for an eye
        without lesions.
        """
        return {ANY: self.any, **self.kinds} if self.kinds else {}


def retina_seen(fundus: UInt8[np.ndarray, "y x 3"], *, crop: float) -> Bool[np.ndarray, "y x"]:
    """True where a normalised fundus shows retina: within the visible disc, and not half-gray up to
    its edge.

    Where a camera cuts the disc, preprocessing leaves exact half-gray. Counted as retina without a
    lesion, it would flatter every map.
    """
    from scipy.ndimage import binary_propagation

    inside = visible_disc(len(fundus), crop=crop)
    blank = (fundus == HALF_GRAY).all(axis=2).astype(np.uint8)
    blank = cv2.morphologyEx(blank, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    return inside & ~binary_propagation(blank & ~inside, mask=blank)


def lesion_masks(
    planes: Planes,
    disc: Disc,
    photo_shape: tuple[int, int],
    fundus: UInt8[np.ndarray, "y x 3"],
    params: PreprocessParams,
) -> LesionMasks:
    """A photograph's masks in the geometry of its fundus.

    Parameters
    ----------
    planes
        The pixels (h, w) of each type; types may overlap. One of another size than the photograph
        is scaled, if evenly.
    disc
        Of the photograph, as preprocessing found it.
    photo_shape
        The photograph's height and width.

    Raises
    ------
    UnusableMask
        mask_size: a plane of another shape than the photograph.
    """
    inside = retina_seen(fundus, crop=params.crop)
    speck_px = SPECK_PX * (params.size / 256) ** 2
    kinds = {}
    for kind, plane in planes.items():
        share = lesion_share(plane, _own_disc(disc, plane.shape, photo_shape), params)
        found = _lesions(share, speck_px) & inside
        if kind not in NO_LESION and found.any():
            kinds[kind] = found
    return LesionMasks(kinds, inside)


def lesion_share(
    plane: Bool[np.ndarray, "h w"], disc: Disc, params: PreprocessParams
) -> Float32[np.ndarray, "size size"]:
    """Which share of each fundus pixel a lesion type covers, 0 to 1, the whole frame.

    The plane, in which `disc` lies, is sampled in its own resolution or finer and averaged over
    each fundus pixel.
    """
    finer = max(1, int(np.ceil(max(disc.diameter, disc.height) / params.size)))
    fine = params.size * finer
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    pixels = np.ascontiguousarray(plane).view(np.uint8)
    warped = cv2.warpAffine(pixels, matrix(disc, fine), (fine, fine), flags=flags)
    blocks = warped.reshape(params.size, finer, params.size, finer)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _own_disc(disc: Disc, shape: tuple[int, ...], photo_shape: tuple[int, int]) -> Disc:
    """The disc in a plane's own pixels."""
    (height, width), (photo_height, photo_width) = shape, photo_shape
    scale_y, scale_x = height / photo_height, width / photo_width
    if abs(scale_y / scale_x - 1) > ASPECT:
        raise UnusableMask(
            "mask_size",
            f"a mask of {width} × {height} px does not fit a photograph of {photo_width} ×"
            f" {photo_height} px",
        )
    return disc if (scale_y, scale_x) == (1, 1) else disc.scaled((scale_y * scale_x) ** 0.5)


def _lesions(share: np.ndarray, speck_px: float) -> np.ndarray:
    """Pixels covered enough; of a lesion that covers none enough, its most covered pixel, unless
    it is a mere speck.
    """
    labels = np.asarray(
        cv2.connectedComponents((share > 0).astype(np.uint8), connectivity=8)[1], np.int32
    )
    areas = np.bincount(labels.ravel(), weights=share.ravel())
    peaks = np.zeros(len(areas), np.float32)
    np.maximum.at(peaks, labels.ravel(), share.ravel())
    needed = np.minimum(COVERED, peaks)
    return (share > 0) & (share >= needed[labels]) & (areas[labels] >= speck_px)


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
        with warnings.catch_warnings(action="ignore"):  # of large images and odd tags
            image = Image.open(io.BytesIO(content))
            image.load()
            return image
    except (*UNDECODABLE, Image.DecompressionBombError):
        raise UnusableMask("unreadable", "the file is no image that can be decoded") from None
