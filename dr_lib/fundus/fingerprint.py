"""How a photograph's retina looks, in a few hundred bytes: two files with one look are copies of one
photograph, whatever their sizes, their compression, or how much border they show.

The retina is found, scaled and evened as for the network, at 128 px; its green detail between 5 and
20 px is kept in 24 × 24 cells. Copies are told by the correlation of two such patterns.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from dr_lib.fundus.anatomy import Eye
from dr_lib.fundus.errors import UngradablePhoto
from dr_lib.fundus.normalise import preprocess
from dr_lib.fundus.optic_disc import optic_disc
from dr_lib.fundus.params import PreprocessParams
from dr_lib.fundus.photo import UnreadablePhoto, decode

PARAMS = PreprocessParams(size=128)
CELLS = 24
SHARE = 0.8  # of the retina's diameter: the side of the square that is kept
# Of 38 photographs that IDRiD publishes at two sizes the worst pair correlates by 0.89.
COPIES_CORRELATE = 0.88
BLOCK = 4096  # photographs compared at once with all others


@dataclass(frozen=True)
class Look:
    """fingerprint: empty where no retina was found. side: the eye, by the side of the optic disc;
    None where it is not clear.
    """

    fingerprint: str = ""
    side: Eye | None = None


def look_at(data: bytes) -> Look:
    """The look of a photograph file's bytes; an empty one where it cannot be decoded or shows no
    retina.
    """
    try:
        return look_of(decode(data, diameter_px=2 * PARAMS.size).pixels)
    except UnreadablePhoto:
        return Look()


def look_of(photo: UInt8[np.ndarray, "y x 3"]) -> Look:
    """The look of a photograph, (H, W, 3) uint8 RGB."""
    try:
        fundus = preprocess(photo, PARAMS)
    except UngradablePhoto:
        return Look()
    disc = optic_disc(fundus, crop=PARAMS.crop)
    nasal = None if disc is None else disc.centre_x_px - (PARAMS.size - 1) / 2
    side: Eye | None = None if nasal is None else "right" if nasal > 0 else "left"
    pattern = _pattern(fundus)
    return Look("" if pattern is None else base64.b85encode(pattern.tobytes()).decode(), side)


def _pattern(fundus: UInt8[np.ndarray, "y x 3"]):
    """The fundus in cells, int8; None for one without detail."""
    centre, half = PARAMS.size // 2, int(PARAMS.size * SHARE / 2)
    square = slice(centre - half, centre + half)
    green = fundus[square, square, 1].astype(np.float32)
    cells = cv2.resize(green, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    cells = cells - cv2.GaussianBlur(cells, (0, 0), CELLS / 8)
    cells = cells - cells.mean()
    largest = float(np.abs(cells).max())
    return np.rint(cells * (127 / largest)).astype(np.int8) if largest > 1 else None


def near_copies(
    fingerprints: Sequence[str], new: Bool[np.ndarray, "photo"]
) -> list[tuple[int, int]]:
    """Pairs of photographs (by their places, the smaller first) that are copies of one, at least
    one of each pair being `new`.

    fingerprints: as `look_of` gives them; an empty one is nobody's copy. Compares every new
    photograph with every other: 88,702 of 88,702 are 5e12 products.
    """
    known = np.flatnonzero([bool(text) for text in fingerprints])
    fresh = known[new[known]]
    if not len(fresh):
        return []
    patterns = _unit(fingerprints, known)
    rank = np.zeros(len(fingerprints), np.int64)
    rank[known] = np.arange(len(known))
    pairs = set()
    for start in range(0, len(fresh), BLOCK):
        block = fresh[start : start + BLOCK]
        rows, columns = np.nonzero(patterns[rank[block]] @ patterns.T > COPIES_CORRELATE)
        for one, other in zip(block[rows].tolist(), known[columns].tolist(), strict=True):
            if one != other:
                pairs.add((min(one, other), max(one, other)))
    return sorted(pairs)


def _unit(fingerprints: Sequence[str], known: np.ndarray) -> Float32[np.ndarray, "photo cell"]:
    """The patterns with length 1, so that a product is a correlation."""
    patterns = np.stack(
        [np.frombuffer(base64.b85decode(fingerprints[row]), np.int8) for row in known]
    ).astype(np.float32)
    return patterns / np.linalg.norm(patterns, axis=1, keepdims=True)
