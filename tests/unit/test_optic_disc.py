"""The optic disc is found where it was drawn, and not where there is none."""

import numpy as np
import pytest

from dr_lib.drawing.figures import jpeg
from dr_lib.fundus import PreprocessParams, normalise
from dr_lib.fundus import optic_disc as module
from dr_lib.fundus.optic_disc import OpticDisc, optic_disc
from dr_lib.localisation import lesion_share
from dr_lib.maps import image_rows
from dr_lib.synthetic import MASK_COLOURS, EyePlan, SynthesisParams, draw


@pytest.mark.parametrize(
    "plan", [EyePlan(1, "left", 0), EyePlan(2, "right", 3)], ids=["left", "right"]
)
def test_the_disc_of_a_drawn_eye_is_found_within_half_its_radius(plan):
    eye = draw(plan, SynthesisParams(seed=3, smallest_px=500, largest_px=600))
    fundus = normalise(jpeg(eye.photo, 90))
    drawn = lesion_share(
        (eye.mask == MASK_COLOURS["optic_disc"]).all(axis=2), fundus.disc, PreprocessParams()
    )
    y, x = (values.mean() for values in np.nonzero(drawn > 0.5))
    found = optic_disc(fundus.pixels, crop=0.1)
    assert np.hypot(found.centre_y_px - y, found.centre_x_px - x) < found.radius_px / 2
    assert found.radius_px == 0.15 * 128
    maps = {("pixels", "stage4"): found.mask(256).astype(np.float32)}
    (region,), (stats,) = image_rows(
        "1_left", plan.eye, fundus.pixels, maps, converged={("pixels", "stage4"): False}, crop=0.1
    )
    assert region["optic_disc_distance_px"] < 0.5, "the region is the disc"
    assert stats["share_optic_disc"] == 1
    assert (stats["optic_disc_y_px"], stats["optic_disc_x_px"]) == (
        found.centre_y_px,
        found.centre_x_px,
    )
    assert region["converged"] is stats["converged"] is False, "kept, and marked"


def test_no_disc_is_found_in_a_blank_image_and_its_numbers_are_undefined():
    blank = np.full((128, 128, 3), 128, np.uint8)
    assert optic_disc(blank, crop=0.1) is None
    values = np.zeros((128, 128), np.float32)
    values[60:64, 60:64] = 1.0
    (region,), (stats,) = image_rows(
        "1_left", "left", blank, {("pixels", "stage0"): values}, crop=0.1
    )
    assert np.isnan(
        [region["optic_disc_distance_px"], stats["share_optic_disc"], stats["optic_disc_y_px"]]
    ).all()
    assert region["converged"] is None, "nobody said"


def test_two_equal_places_lead_by_nothing(monkeypatch):
    """Two patches of the same detail, mirrored: neither leads."""
    y, x = np.mgrid[:128, :128] - 63.5
    fundus = np.full((128, 128, 3), 128, np.uint8)
    fundus[(np.hypot(y, np.abs(x) - 39) < 9) & ((y // 2 + x // 2) % 2 == 0)] = 200
    fundus = np.maximum(fundus, fundus[:, ::-1])
    assert optic_disc(fundus, crop=0.1) is None
    monkeypatch.setattr(module, "LEAST_LEAD", 0.01)
    assert optic_disc(fundus, crop=0.1) is None
    monkeypatch.setattr(module, "LEAST_LEAD", 0.0)
    assert optic_disc(fundus, crop=0.1) is not None


def test_the_disc_s_mask_is_a_circle():
    mask = OpticDisc(20.0, 30.0, 5.0).mask(64)
    assert mask.sum() == sum(dy * dy + dx * dx <= 25 for dy in range(-5, 6) for dx in range(-5, 6))
    assert mask[20, 35]
    assert not mask[20, 36]
