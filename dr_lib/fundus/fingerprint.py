"""How a photograph's retina looks, in 256 bytes: two files with one look are copies of one
photograph, or of one eye, whatever their sizes, their compression, or how much border they show.

The retina is found, scaled and evened as for the network, at 128 px. Its green detail, each place
relative to the contrast around it, is kept in 32 × 32 cells of four levels. Copies are told by the
correlation of two such patterns. Measured on 7,290 photographs (EyePACS, IDRiD, Messidor-2, APTOS):
all 38 photographs that IDRiD publishes at two sizes are found, 98 % of 161 EyePACS photographs that
were resized and compressed anew, 97 % of those cut to their middle square, and 75 % of 394 whose
colours another publisher equalised. Of 20 million other pairs 26 are found, and looked at: all show
one eye, published or photographed twice. The nearest eyes of two patients correlate by 0.54.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from dr_lib.fundus.anatomy import Eye
from dr_lib.fundus.normalise import preprocess
from dr_lib.fundus.optic_disc import optic_disc
from dr_lib.fundus.params import PreprocessParams
from dr_lib.fundus.photo import UngradablePhoto, UnreadablePhoto, decode
from dr_lib.vocabulary import HALF_GRAY

PARAMS = PreprocessParams(size=128)
CELLS = 32
SHARE = 0.86  # of the retina's diameter: the side of the square that is kept
DETAIL_CELLS, CONTRAST_CELLS = CELLS / 10, CELLS / 8  # sigmas of what is subtracted, divided by
SEEN = 0.6  # of the square has to show retina: of less the rest would be alike in all
LEVELS = np.array([-1.5, -0.5, 0.5, 1.5], np.float32)  # in standard deviations, about
COPIES_CORRELATE = 0.57
SHIFTS = np.array([0, 2, 4, 6], np.uint8)
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


def _pattern(fundus: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "byte"] | None:
    """The fundus in cells, four to a byte; None where too little of it is seen."""
    centre, half = PARAMS.size // 2, int(PARAMS.size * SHARE / 2)
    square = slice(centre - half, centre + half)
    green = fundus[square, square, 1]
    if (green != HALF_GRAY).mean() < SEEN:
        return None
    cells = cv2.resize(green.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    detail = np.asarray(cells - cv2.GaussianBlur(cells, (0, 0), DETAIL_CELLS))
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), CONTRAST_CELLS))
    relative = detail / (contrast + 1)  # of grey levels: less is noise
    relative = (relative - relative.mean()).ravel()
    codes = np.digitize(relative, np.array([-1, 0, 1]) * relative.std()).astype(np.uint8)
    return (codes.reshape(-1, 4) << SHIFTS).sum(axis=1, dtype=np.uint8)


def near_copies(
    fingerprints: Sequence[str], new: Bool[np.ndarray, "photo"]
) -> list[tuple[int, int]]:
    """Pairs of photographs (by their places, the smaller first) that are copies of one, at least
    one of each pair being `new`.

    fingerprints: as `look_of` gives them; an empty one is nobody's copy. Compares every new
    photograph with every other, in blocks: 88,702 with 88,702 are 8e12 products.
    """
    known = np.flatnonzero([bool(text) for text in fingerprints])
    fresh = known[new[known]]
    if not len(fresh):
        return []
    packed = np.stack(
        [np.frombuffer(base64.b85decode(fingerprints[row]), np.uint8) for row in known]
    )
    patterns = LEVELS[(packed[..., None] >> SHIFTS & 3).reshape(len(known), -1)]
    patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)  # a product is a correlation
    pairs = set()
    for start in range(0, len(fresh), BLOCK):
        block = fresh[start : start + BLOCK]
        here = patterns[np.searchsorted(known, block)]
        rows, columns = np.nonzero(here @ patterns.T > COPIES_CORRELATE)
        alike = zip(block[rows].tolist(), known[columns].tolist(), strict=True)
        pairs |= {(min(pair), max(pair)) for pair in alike if pair[0] != pair[1]}
    return sorted(pairs)
