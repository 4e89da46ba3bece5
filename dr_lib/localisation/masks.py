"""Which pixels of a normalised fundus are lesions: a photograph's masks in the fundus' own
geometry.

A microaneurysm is two pixels wide in a fundus of 256 px and fifty times as large in the mask.
Sampling one mask pixel for each of the fundus would lose it or not by luck, so every mask pixel
counts: a fundus pixel knows which share of it a lesion covers. What a mask means is decided here;
what a map makes of it is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.fundus.scale import matrix
from dr_lib.vocabulary import HALF_GRAY

Planes = Mapping[str, Bool[np.ndarray, "_ _"]]
"""The pixels of each lesion type (and of the optic disc), each plane as large as its file."""
ANY = "any"  # the lesion type that stands for all of them together
NO_LESION = ("optic_disc",)
COVERED = 0.25  # of a fundus pixel: from here on it counts as lesion
# In fundi of 256 px, as shares of one pixel. Ten mask pixels of IDRiD's, stray or of two colours,
# make 0.06; its smallest microaneurysms 0.5.
SPECK_PX = 0.15
ASPECT = 0.01  # so much may the aspect ratios of mask and photograph differ


class UnusableMask(ValueError):
    """A mask cannot be laid on its photograph; `reason` is a short code, `detail` says what was
    found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


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
    inside = visible_disc(len(fundus), crop=crop)
    blank = (fundus == HALF_GRAY).all(axis=2).astype(np.uint8)
    blank = cv2.morphologyEx(blank, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels = cv2.connectedComponents(blank, connectivity=4)
    outside = np.unique(labels[~inside & (blank > 0)])
    return inside & ~(np.isin(labels, outside) & (blank > 0))


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
