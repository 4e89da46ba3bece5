"""The quality measures say what their names say, and the score agrees with a person's verdict."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from fundus_drawing import Eye

from dr_lib.fundus import Disc, PreprocessParams, normalise
from dr_lib.fundus.quality import MEASURES, quality_of, score
from dr_lib.fundus.scale import scaled

DATA = Path(__file__).parents[3] / "shared" / "data"
DISC = Disc(299.5, 399.5, 520.0)


def measured(
    photo: np.ndarray, params: PreprocessParams = PreprocessParams(), disc: Disc = DISC
) -> dict[str, float]:
    return quality_of(scaled(photo, disc, params), disc, params)


def test_every_measure_is_there_and_finite():
    measures = measured(Eye().draw())
    assert set(measures) == set(MEASURES)
    assert all(np.isfinite(value) for value in measures.values())
    assert 0 <= measures["score"] <= 1


def test_an_even_retina_has_its_own_exposure_and_neither_contrast_nor_detail():
    measures = measured(Eye(texture=0, shade=0, tone=(204.0, 102.0, 51.0)).draw())
    assert measures["exposure"] == pytest.approx(0.4, abs=1e-4)
    assert measures["redness"] == pytest.approx(0.8, abs=1e-4)
    assert measures["haze"] == pytest.approx(0.2, abs=1e-4)
    for name in ("contrast", "sharpness", "weakest", "vessels", "clarity", "saturated"):
        assert measures[name] == pytest.approx(0, abs=1e-3), name
    assert measures["visible"] == 1


def test_visible_is_the_share_of_the_kept_disc_within_the_frame():
    eye = Eye(height=300, centre_y=149.5)
    # A disc of radius 0.9, of which the frame shows |y| < c = 300/520: (2/π)·(asin(t) + t·√(1 −
    # t²)), t = c/0.9
    t = 300 / 520 / 0.9
    expected = 2 / np.pi * (np.arcsin(t) + t * np.sqrt(1 - t * t))
    assert measured(eye.draw(), disc=Disc(149.5, 399.5, 520.0))["visible"] == pytest.approx(
        expected, abs=0.01
    )


def test_blurring_lowers_every_measure_of_sharpness_and_the_score():
    photo = Eye(texture=4.0).draw()  # about as strong as vessels are
    sharp, blurred = measured(photo), measured(cv2.GaussianBlur(photo, (0, 0), 6))
    for name in ("sharpness", "weakest", "vessels", "clarity"):
        assert blurred[name] < 0.8 * sharp[name], name
    assert blurred["score"] < sharp["score"]


def test_a_nearly_black_eye_is_below_the_default_gate():
    assert (
        measured(Eye(tone=(8.0, 5.0, 3.0)).draw())["score"] < PreprocessParams().quality_threshold
    )


def test_an_eye_seen_in_part_scores_in_proportion():
    whole = dict.fromkeys(MEASURES, 0.5) | {"visible": 1.0, "confidence": 1.0}
    assert score(whole | {"visible": 0.3}) == pytest.approx(score(whole) / 2)
    assert score(whole | {"confidence": 0.3}) == pytest.approx(score(whole) / 2)


@pytest.mark.parametrize("size", [128, 512])
def test_measures_hardly_depend_on_the_outputs_size(size):
    photo = Eye(1200, 1600, 599.5, 799.5, 1040).draw()
    disc = Disc(599.5, 799.5, 1040.0)
    here, there = measured(photo, disc=disc), measured(photo, PreprocessParams(size=size), disc)
    for name in ("exposure", "redness", "haze", "contrast", "visible", "structure"):
        assert there[name] == pytest.approx(here[name], rel=0.05, abs=0.01), name


def test_a_photograph_without_retina_in_its_disc_has_no_measures_and_scores_zero():
    measures = measured(np.zeros((600, 800, 3), np.uint8))
    assert measures["score"] == 0
    assert measures["visible"] == 0


@pytest.mark.skipif(
    not (DATA / "labels" / "quality.csv").exists(),
    reason="the EyePACS photographs are not on this machine",
)
def test_the_default_gate_passes_nearly_all_of_the_eyes_that_a_person_called_gradable():
    lines = [line.split(",") for line in (DATA / "labels" / "quality.csv").read_text().split()[1:]]
    scores = {True: [], False: []}
    for image, gradable, _ in lines[::8]:
        fundus = normalise((DATA / "kaggle" / "train" / f"{image}.jpeg").read_bytes())
        scores[gradable == "1"].append(fundus.quality["score"])
    good, bad = np.array(scores[True]), np.array(scores[False])
    assert (
        good >= PreprocessParams().quality_threshold
    ).mean() > 0.93  # 97 % of all 519; this is every eighth
    assert (good[:, None] > bad).mean() > 0.75  # AUC; 0.85 on all
