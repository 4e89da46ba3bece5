"""Copies of one photograph look alike whatever their size and compression; other eyes do not."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from dr_lib.fundus.fingerprint import look_at, look_of, near_copies
from dr_lib.synthetic import SynthesisParams, draw, plan

IDRID = Path(__file__).parents[3] / "shared" / "data" / "idrid"


@pytest.fixture(scope="module")
def photographs():
    """Twelve drawn eyes of six patients, with which eye each is."""
    params = SynthesisParams(seed=5, balanced=True, largest_px=900)
    eyes = plan(12, params)
    return [(eye.image_id, draw(eye, params).photo) for eye in eyes]


def resized(photo: np.ndarray, width: int) -> np.ndarray:
    height = round(width * photo.shape[0] / photo.shape[1])
    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)


def jpeg(photo: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def test_a_resized_and_recompressed_photograph_is_a_copy_and_another_eye_is_none(photographs):
    prints = [look_of(photo).fingerprint for _, photo in photographs]
    copies = [look_at(jpeg(resized(photo, 400), 60)).fingerprint for _, photo in photographs]
    found = near_copies([*prints, *copies], np.array([False] * 12 + [True] * 12))
    assert found == [(number, number + 12) for number in range(12)]


def test_only_pairs_with_a_new_photograph_are_given(photographs):
    prints = [look_of(photographs[0][1]).fingerprint] * 3
    assert near_copies(prints, np.array([False, False, False])) == []
    assert near_copies(prints, np.array([False, False, True])) == [(0, 2), (1, 2)]


def test_what_shows_no_retina_has_no_fingerprint_and_is_nobodys_copy():
    blank = np.zeros((300, 300, 3), np.uint8)
    assert look_of(blank).fingerprint == ""
    assert look_at(b"no photograph").side is None
    assert near_copies(["", ""], np.array([True, True])) == []


def test_the_side_of_the_optic_disc_tells_the_eye(photographs):
    told = [(look_of(photo).side, name.rpartition("_")[2]) for name, photo in photographs]
    known = [pair for pair in told if pair[0] is not None]
    assert len(known) >= 9
    assert all(found == eye for found, eye in known)


@pytest.mark.skipif(not IDRID.is_dir(), reason="needs IDRiD, which is not shipped")
def test_what_idrid_publishes_at_two_sizes_is_found_and_its_other_photographs_are_not():
    with (IDRID / "same_photograph.csv").open() as table:
        same = [(row["segmentation_image"], row["grading_image"]) for row in csv.DictReader(table)]
    large = IDRID / "A. Segmentation" / "1. Original Images" / "a. Training Set"
    small = IDRID / "B. Disease Grading" / "images"
    prints = [look_at((large / f"{one}.jpg").read_bytes()).fingerprint for one, _ in same]
    prints += [look_at((small / f"{other}.jpg").read_bytes()).fingerprint for _, other in same]
    found = near_copies(prints, np.ones(len(prints), bool))
    assert found == [(number, number + len(same)) for number in range(len(same))]
