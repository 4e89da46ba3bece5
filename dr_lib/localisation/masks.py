"""Which pixels of a normalised fundus are lesions: a photograph's colour mask in the fundus' own
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
from dr_lib.synthetic import MASK_COLOURS
from dr_lib.vocabulary import HALF_GRAY

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
    mask: UInt8[np.ndarray, "h w 3"],
    disc: Disc,
    photo_shape: tuple[int, int],
    fundus: UInt8[np.ndarray, "y x 3"],
    params: PreprocessParams = PreprocessParams(),
) -> LesionMasks:
    """A photograph's mask (RGB, a colour a lesion type) in the geometry of its fundus.

    `disc`: of the photograph, as preprocessing found it; `photo_shape`: the photograph's height and
    width. A mask of another size is scaled, if evenly. Raises UnusableMask ("mask_size") for one of
    another shape.
    """
    height, width = mask.shape[:2]
    scale_y, scale_x = height / photo_shape[0], width / photo_shape[1]
    if abs(scale_y / scale_x - 1) > ASPECT:
        raise UnusableMask(
            "mask_size",
            f"a mask of {width} × {height} px does not fit a photograph of {photo_shape[1]} ×"
            f" {photo_shape[0]} px",
        )
    inside = retina_seen(fundus, crop=params.crop)
    own = disc if (scale_y, scale_x) == (1, 1) else disc.scaled((scale_y * scale_x) ** 0.5)
    kinds = {}
    for kind, share in lesion_shares(mask, own, params).items():
        found = _lesions(share, SPECK_PX * (params.size / 256) ** 2) & inside
        if kind not in NO_LESION and found.any():
            kinds[kind] = found
    return LesionMasks(kinds, inside)


def lesion_shares(
    mask: UInt8[np.ndarray, "h w 3"],
    disc: Disc,
    params: PreprocessParams = PreprocessParams(),
) -> dict[str, Float32[np.ndarray, "size size"]]:
    """For each kind that the mask shows: which share of each fundus pixel it covers, 0 to 1, the
    whole frame.

    Colours off the palette are snapped to the nearest of it. The mask is sampled in its own
    resolution or finer and averaged over each fundus pixel.
    """
    labels = snapped(mask)
    finer = max(1, int(np.ceil(disc.diameter / params.size)))
    fine = params.size * finer
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(labels, matrix(disc, fine), (fine, fine), flags=flags)
    present = np.flatnonzero(np.bincount(warped.ravel(), minlength=len(MASK_COLOURS) + 1)[1:]) + 1
    shares = {}
    for label in present:
        blocks = (warped == label).reshape(params.size, finer, params.size, finer)
        shares[list(MASK_COLOURS)[label - 1]] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return shares


def snapped(mask: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """0 for background, 1 + the place in `MASK_COLOURS` of the nearest colour otherwise.

    >>> snapped(np.array([[[0, 0, 0], [255, 255, 254], [250, 3, 0]]], np.uint8))
    array([[0, 1, 2]], dtype=uint8)
    """
    # The palette is the corners of the colour cube: the nearest one is found channel by channel.
    code = {
        tuple(level > 127 for level in colour): place
        for place, colour in enumerate(MASK_COLOURS.values(), 1)
    }
    table = np.array(
        [code.get((bool(n & 4), bool(n & 2), bool(n & 1)), 0) for n in range(8)], np.uint8
    )
    high = (mask > 127).astype(np.uint8)
    return table[4 * high[..., 0] + 2 * high[..., 1] + high[..., 2]]


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
