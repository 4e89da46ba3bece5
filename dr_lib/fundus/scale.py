"""The photograph at the output's scale: retina centred, low-passed against noise before
shrinking (METHOD §1.2, §1.3).
"""

import functools
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dr_lib.fundus.disc import Disc, brightest, halved, quantile
from dr_lib.fundus.params import PreprocessParams

MARGIN_PX = 8  # of the photograph, kept around the disc for the low-pass
DARK = 0.04  # of the way from the border's tone to the retina's: darker is no retina
CUT_SLOPE = 0.012  # of the retina's tone per row: where a cut edge begins to fade
RIM = 0.97  # of the radius: the retina reaches to here for sure


class Scaled(NamedTuple):
    """A photograph at the output's scale: `pixels` float32 in 0…255, and where they show retina
    (`seen`).

    `top`, `bottom`, `left`, `right`: the straight edges between which the photograph shows it (the
    last two exclusive).
    """

    pixels: Float32[np.ndarray, "size size 3"]
    seen: Bool[np.ndarray, "size size"]
    top: int
    bottom: int
    left: int
    right: int


@functools.cache
def across(size: int) -> Float32[np.ndarray, "size size"]:
    """Each output pixel's distance from the centre, as a fraction of the retina's radius;
    read-only, as it is kept.
    """
    line = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size / 2)
    distance = np.sqrt(line[:, None] ** 2 + line**2)
    distance.flags.writeable = False
    return distance


def matrix(disc: Disc, size: int) -> np.ndarray:
    """The affine map output pixel → photograph pixel: the disc's centre lands on the output's
    centre, its width and its height on `size`.
    """
    scale_x, scale_y = disc.diameter / size, disc.height / size
    middle = (size - 1) / 2
    return np.array(
        [
            [scale_x, 0, disc.centre_x - scale_x * middle],
            [0, scale_y, disc.centre_y - scale_y * middle],
        ],
        np.float64,
    )


def scaled(
    photo: UInt8[np.ndarray, "y x 3"], disc: Disc, params: PreprocessParams, reduction: int = 1
) -> Scaled:
    """The photograph around its disc, low-passed and shrunk until the retina is `params.size`
    pixels across, and made round.

    `reduction` is what the decoder already shrank. Every shrinking step (the decoder's, halving,
    the final sampling) blurs a little; the Gaussian adds what is missing to the variance that
    `params.low_pass_sigma` asks for.
    """
    size = params.size
    height, width = photo.shape[:2]
    reach_y, reach_x = disc.height / 2 + MARGIN_PX, disc.diameter / 2 + MARGIN_PX
    top, left = max(0, int(disc.centre_y - reach_y)), max(0, int(disc.centre_x - reach_x))
    bottom, right = (
        min(height, int(disc.centre_y + reach_y) + 2),
        min(width, int(disc.centre_x + reach_x) + 2),
    )
    part = photo[top:bottom, left:right]
    here = replace(disc, centre_y=disc.centre_y - top, centre_x=disc.centre_x - left)
    variance = (
        1 - reduction**-2
    ) / 12  # of a box of `reduction` original pixels, in pixels of `part`
    while (
        here.narrowest >= 3.6 * size and min(part.shape[:2]) >= 4
    ):  # a halved copy then has 1.8 pixels for each of the output
        part, here = halved(part), here.scaled(0.5)
        variance = variance / 4 + 1 / 16
    # The Gaussian σ that each axis still lacks, in pixels of the picture, of which `scale` make one
    # of the output. 1/6: bilinear sampling's own.
    scales = (here.diameter / size, here.height / size)
    missing = [
        (params.low_pass_sigma * scale) ** 2 - variance - (1 / 6 if scale > 1 else 0)
        for scale in scales
    ]
    sigmas = np.sqrt(np.maximum(missing, 0.0)).tolist()
    part = cv2.sepFilter2D(
        part, cv2.CV_32F, *(_kernel(s) for s in sigmas), borderType=cv2.BORDER_REPLICATE
    )
    affine = matrix(here, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(
        part, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    rows, columns = part.shape[:2]
    return _seen(
        pixels,
        _covered(affine[1, 2], affine[1, 1], rows, size),
        _covered(affine[0, 2], affine[0, 0], columns, size),
    )


def _kernel(sigma):
    if sigma <= 0.2:
        return np.ones((1, 1), np.float32)
    taps = 2 * int(np.ceil(2 * sigma)) + 1
    # so short it would lose a twelfth of its variance
    return cv2.getGaussianKernel(taps, 1.04 * sigma, cv2.CV_32F)


def _covered(offset, scale, length, size):
    """The first output pixel that the photograph covers along one axis, and the first that it no
    longer covers.
    """
    first = int(np.ceil((-0.5 - offset) / scale))
    last = int(np.floor((length - 0.5 - offset) / scale))
    return min(max(first, 0), size), max(min(last + 1, size), 0)


def _seen(pixels, rows, columns):
    """Which pixels show retina: within the photograph, within cut edges, and not part of a black
    region that reaches the rim.
    """
    size = len(pixels)
    distance = across(size)
    tone = brightest(pixels)
    frame = np.zeros((size, size), bool)
    frame[rows[0] : rows[1], columns[0] : columns[1]] = True
    inside = frame & (distance < RIM)
    sparse = (slice(1, None, 3), slice(1, None, 3))  # enough for a median
    outside = tone[sparse][(frame & (distance > 1.04))[sparse]]
    dark = quantile(outside, 0.5) if outside.size > size / 4 else 0.0
    bright = quantile(tone[sparse][inside[sparse]], 0.5) if inside[sparse].any() else 0.0
    level = tone - dark
    middle = slice(int(0.33 * size), int(0.67 * size))
    top, bottom = _uncut(level[:, middle].mean(axis=1), *rows, size)
    left, right = _uncut(level[middle].mean(axis=0), *columns, size)
    seen = np.zeros((size, size), bool)
    seen[top:bottom, left:right] = True
    seen &= distance < RIM
    black = inside & (level <= max(1.0, DARK * (bright - dark)))
    if black.sum() > 0.005 * inside.sum():
        count, labels = cv2.connectedComponents(black.view(np.uint8), connectivity=8)
        at_rim = np.zeros(count, bool)
        at_rim[labels[inside & (distance > RIM - 0.03)]] = True
        sizes = np.bincount(labels.ravel(), minlength=count)
        at_rim &= sizes > 0.005 * inside.sum()
        at_rim[0] = False
        if at_rim.any():
            fringe = 2 * max(1, round(size / 128)) + 1
            seen &= (
                cv2.dilate(at_rim[labels].astype(np.uint8), np.ones((fringe, fringe), np.uint8))
                == 0
            )
    return Scaled(pixels, seen, top, bottom, left, right)


def _uncut(profile, first, last, size):
    """The range of rows that a straight cut leaves, given each row's mean tone; a cut often fades
    over a tenth of the radius.

    A cut that fades within the frame would stay as a bright and a dark band after the local tone's
    subtraction.
    """
    bounds = []
    for line, frame in ((profile, first), (profile[::-1], size - last)):
        start = max(frame, round(0.05 * size))  # beyond 0.9 of the radius nothing is kept anyway
        begin = start
        inner = line[start : start + round(0.3 * size)]
        if inner.size > 4:
            plateau = float(np.median(inner[len(inner) // 2 :]))
            if plateau > 2 and inner[0] < 0.35 * plateau:
                limit = start + len(inner) - 3
                while begin < limit and (
                    line[begin] < 0.5 * plateau
                    or line[begin + 2] - line[begin] > 2 * CUT_SLOPE * plateau
                ):
                    begin += 1
                begin = (
                    start if begin == limit else begin + 1
                )  # no straight cut: a dark quarter or a splice
        bounds.append(begin if begin > start else frame)
    return bounds[0], size - bounds[1]
