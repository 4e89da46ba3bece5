"""The normalised fundus of a photograph, from pixels or from a file's bytes (METHOD §1)."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from dr_lib.fundus.disc import Disc, retina_disc
from dr_lib.fundus.params import PreprocessParams
from dr_lib.fundus.photo import UngradablePhoto, decode, reduction_to
from dr_lib.fundus.quality import quality_of
from dr_lib.fundus.scale import scaled
from dr_lib.fundus.tone import evened


@dataclass(frozen=True)
class Fundus:
    """A normalised fundus.

    `pixels` (size, size, 3) uint8; `disc` in pixels of the original, upright photograph, whatever
    its decoder's `reduction` (1, 2, 4, 8); `quality`: the measures of `dr_lib.fundus.quality` by
    name, `score` among them.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    disc: Disc
    reduction: int
    quality: dict[str, float]


def preprocess(
    photo: UInt8[np.ndarray, "y x 3"],
    params: PreprocessParams = PreprocessParams(),
) -> UInt8[np.ndarray, "size size 3"]:
    """The normalised fundus (size, size, 3) uint8 of a photograph (H, W, 3) uint8 RGB; half-gray
    128 outside the retina.

    Raises UngradablePhoto with a reason where the retina cannot be located. Source: METHOD §1,
    after B. Graham.
    """
    return evened(scaled(photo, _trusted(retina_disc(photo), params), params), params)


def normalise(data: bytes, params: PreprocessParams = PreprocessParams()) -> Fundus:
    """The normalised fundus of a photograph file's bytes, decoded no larger than twice the output's
    scale where that is possible.

    Raises dr_lib.fundus.photo.UnreadablePhoto or UngradablePhoto, each with a reason.
    """
    decoded = functools.partial(
        decode,
        data,
        diameter_px=2 * params.size,
        max_megapixels=params.max_megapixels,
        min_side_px=params.min_side_px,
    )
    photo = decoded()
    disc = retina_disc(photo.pixels)
    if (
        photo.reduction > 1 and disc.narrowest < 1.98 * params.size
    ):  # the retina fills less of the frame than is usual
        narrowest = disc.narrowest * photo.reduction
        less = reduction_to(1.98 * params.size, narrowest, photo.reduction)
        photo = decoded(max_reduction=less)
        disc = retina_disc(photo.pixels)
    disc = _trusted(disc, params)
    small = scaled(photo.pixels, disc, params, photo.reduction)
    quality = quality_of(small, disc, params)
    return Fundus(evened(small, params), disc.scaled(photo.reduction), photo.reduction, quality)


def _trusted(disc, params):
    if disc.confidence < params.min_confidence:
        seen = f"only {100 * disc.confidence:.0f} % of a rim was seen"
        raise UngradablePhoto("no_retina", f"no round retina on a darker border was found ({seen})")
    return disc
