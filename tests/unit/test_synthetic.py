"""The synthetic eyes: reproducible, graded by their lesions, true in their masks, and like
Kaggle's in their frequencies.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import pytest

from dr_lib.drawing.figures import jpeg
from dr_lib.synthetic import (
    KAGGLE_COUNTS,
    MASK_COLOURS,
    EyePlan,
    SynthesisParams,
    draw,
    plan,
    stage_counts,
)
from dr_lib.synthetic.eye import CAMERAS, choose_camera, frame
from dr_lib.synthetic.lesions import SEVERE_PER_QUADRANT
from dr_lib.synthetic.planning import stream
from dr_lib.vocabulary import QUADRANTS

PARAMS = SynthesisParams(
    seed=5, smallest_px=400, largest_px=1200
)  # small cameras: the same drawing, faster tests
EYES = [
    EyePlan(patient, eye, stage)
    for stage in range(5)
    for patient in range(1, 6)
    for eye in ("left", "right")
]


@dataclass(frozen=True)
class Lesion:
    """A lesion in the photograph's pixels, with its quadrant about the fovea."""

    kind: str
    centre_y_px: float
    centre_x_px: float
    radius_px: float
    quadrant: str


@dataclass(frozen=True)
class Drawn:
    """A drawn eye and the truth about it in the photograph's pixels."""

    photo: np.ndarray
    mask: np.ndarray
    stage: int
    lesions: list[Lesion]
    camera: str
    quality: int
    retina_y_px: float
    retina_x_px: float
    retina_diameter_px: float


@cache
def drawn(eye: EyePlan) -> Drawn:
    made = draw(eye, PARAMS)
    shot, marks, lesions = made.shot, made.marks, []

    def placed(x, y):
        """(y, x) in the photograph; cv2.resize aligns pixel edges, hence the halves."""
        return (
            (shot.work_y + shot.patch.radius * y + 0.5) * shot.height / shot.work_height - 0.5,
            (shot.work_x + shot.patch.radius * x + 0.5) * shot.width / shot.work_width - 0.5,
        )

    for spot in made.spots:
        half = "superior" if spot.y < marks.fovea_y else "inferior"
        side = "nasal" if (spot.x - marks.fovea_x) * marks.nasal >= 0 else "temporal"
        radius = spot.radius * shot.patch.radius * shot.scale
        lesions.append(Lesion(spot.kind, *placed(spot.x, spot.y), radius, f"{half}_{side}"))
    return Drawn(
        *(made.photo, made.mask, eye.stage, lesions, shot.camera.name, made.quality),
        *placed(0.0, 0.0),
        2 * shot.patch.radius * shot.scale,
    )


def grade(lesions: Sequence[Lesion]) -> int:
    """The stage, 0 to 4, by the international clinical scale.

    0 no lesion; 1 microaneurysms only; 2 more than that; 3 at least `SEVERE_PER_QUADRANT`
    haemorrhages in each of the four quadrants; 4 new vessels or a preretinal haemorrhage, whatever
    else there is.

    Source: Wilkinson et al., Ophthalmology 110 (2003) 1677–1682.
    """
    kinds = {lesion.kind for lesion in lesions}
    if kinds & {"new_vessels", "preretinal_haemorrhage"}:
        return 4
    by_quadrant = [
        sum(lesion.kind == "haemorrhage" and lesion.quadrant == name for lesion in lesions)
        for name in QUADRANTS
    ]
    if min(by_quadrant) >= SEVERE_PER_QUADRANT:
        return 3
    if kinds - {"microaneurysm"}:
        return 2
    return 1 if kinds else 0


def lesion(kind: str, quadrant: str = "superior_nasal") -> Lesion:
    return Lesion(kind, 10.0, 10.0, 2.0, quadrant)


def haemorrhages(*per_quadrant: int) -> list[Lesion]:
    return [
        lesion("haemorrhage", name)
        for name, n in zip(QUADRANTS, per_quadrant, strict=True)
        for _ in range(n)
    ]


def colours(mask: np.ndarray) -> set[tuple[int, int, int]]:
    packed = np.unique(mask.astype(np.int32) @ (1 << 16, 1 << 8, 1))
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed.tolist()}


def retina_of(eye: Drawn) -> np.ndarray:
    y, x = np.mgrid[: eye.photo.shape[0], : eye.photo.shape[1]]
    return np.hypot(y - eye.retina_y_px, x - eye.retina_x_px) <= eye.retina_diameter_px / 2


# --- the clinical scale ---


@pytest.mark.parametrize(
    ("lesions", "stage"),
    [
        ([], 0),
        ([lesion("microaneurysm")], 1),
        ([lesion("microaneurysm")] * 100, 1),
        ([lesion("haemorrhage")], 2),
        ([lesion("hard_exudate")], 2),
        ([lesion("microaneurysm"), lesion("soft_exudate")], 2),
        (haemorrhages(4, 100, 100, 100), 2),  # many, but not in all four quadrants
        (haemorrhages(5, 5, 5, 5), 3),
        ([lesion("new_vessels")], 4),
        ([lesion("preretinal_haemorrhage")], 4),
        (haemorrhages(9, 9, 9, 9) + [lesion("new_vessels")], 4),
    ],
)
def test_grade_follows_the_international_scale(lesions, stage):
    assert grade(lesions) == stage


@pytest.mark.parametrize("stage", range(5))
def test_every_stages_eyes_carry_lesions_of_that_stage(stage):
    eyes = [drawn(eye) for eye in EYES if eye.stage == stage]
    assert [grade(eye.lesions) for eye in eyes] == [stage] * 10


def test_lesions_of_the_stage_stay_where_preprocessing_keeps_them():
    # METHOD §1.5 crops radius > 0.9·R; placed centres stay within 0.86·R and in the frame.
    for eye in map(drawn, EYES):
        for found in eye.lesions:
            distance = np.hypot(
                found.centre_y_px - eye.retina_y_px, found.centre_x_px - eye.retina_x_px
            )
            # New vessels on the disc may lie further out: they belong to the disc, wherever that
            # is.
            assert distance <= 0.87 * eye.retina_diameter_px / 2 or found.kind == "new_vessels"
            assert 0 <= found.centre_y_px < eye.photo.shape[0]
            assert 0 <= found.centre_x_px < eye.photo.shape[1]


def test_microaneurysms_are_1_to_1_6_percent_of_the_retina_and_3_to_12_in_a_mild_eye():
    for eye in map(drawn, EYES):
        dots = [found for found in eye.lesions if found.kind == "microaneurysm"]
        assert all(0.01 <= 2 * dot.radius_px / eye.retina_diameter_px <= 0.0161 for dot in dots)
        assert eye.stage != 1 or 3 <= len(dots) <= 12


# --- the plan ---


def test_stage_counts_are_kaggles_shares_by_largest_remainders():
    # 480 · (0.73478, 0.06955, 0.15066, 0.02485, 0.02016) = (352.70, 33.38, 72.32, 11.93, 9.67)
    assert stage_counts(480, KAGGLE_COUNTS) == (353, 33, 72, 12, 10)
    assert stage_counts(35126, KAGGLE_COUNTS) == KAGGLE_COUNTS


@pytest.mark.parametrize("count", [1, 2, 5, 40, 41, 480])
@pytest.mark.parametrize("balanced", [False, True])
def test_plan_holds_exactly_the_stage_counts(count, balanced):
    eyes = plan(count, SynthesisParams(seed=3, balanced=balanced))
    found = Counter(eye.stage for eye in eyes)
    expected = stage_counts(count, (1,) * 5 if balanced else KAGGLE_COUNTS)
    assert tuple(found[stage] for stage in range(5)) == expected
    assert count < 40 or min(expected) >= 1


def test_plan_gives_each_patient_from_1_a_left_and_a_right_eye():
    eyes = plan(41, SynthesisParams(seed=1))
    assert [eye.image_id for eye in eyes[:3]] == ["1_left", "1_right", "2_left"]
    assert [(eye.patient, eye.eye) for eye in eyes] == [
        (1 + i // 2, ("left", "right")[i % 2]) for i in range(41)
    ]


@pytest.mark.parametrize("balanced", [False, True])
def test_fellow_eyes_agree_as_in_eyepacs(balanced):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    stages = np.array(
        [eye.stage for eye in plan(2000, SynthesisParams(seed=2, balanced=balanced))]
    ).reshape(-1, 2)
    # Left and right frequencies differ by chance, on which kappa's expected disagreement rests:
    # 0.01 covers it.
    assert sklearn_metrics.cohen_kappa_score(
        stages[:, 0], stages[:, 1], weights="quadratic"
    ) == pytest.approx(0.85, abs=0.01)
    assert np.abs(stages[:, 0] - stages[:, 1]).max() <= 2


def test_plan_follows_the_seed():
    assert plan(60, SynthesisParams(seed=1)) == plan(60, SynthesisParams(seed=1))
    assert plan(60, SynthesisParams(seed=1)) != plan(60, SynthesisParams(seed=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"smallest_px": 50},
        {"smallest_px": 900, "largest_px": 800},
    ],
)
def test_impossible_params_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        SynthesisParams(**wrong)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="at least 1 photograph"):
        plan(0, SynthesisParams())


# --- the photographs ---


def test_same_seed_same_bytes_in_any_order():
    eye = EyePlan(3, "left", 4)
    first = draw(eye, PARAMS)
    draw(EyePlan(4, "right", 2), PARAMS)
    again = draw(eye, PARAMS)
    assert jpeg(first.photo, first.quality) == jpeg(again.photo, again.quality)
    assert np.array_equal(first.mask, again.mask)
    assert first.spots == again.spots


@pytest.mark.parametrize(
    "other",
    [EyePlan(3, "right", 2), EyePlan(4, "left", 2), EyePlan(3, "left", 3)],
    ids=["fellow", "patient", "stage"],
)
def test_another_eye_patient_or_stage_is_another_photograph(other):
    one, two = drawn(EyePlan(3, "left", 2)), drawn(other)
    assert one.photo.shape != two.photo.shape or not np.array_equal(one.photo, two.photo)


def test_another_seed_is_another_photograph():
    one, two = (
        drawn(EyePlan(3, "left", 2)),
        draw(EyePlan(3, "left", 2), dataclasses.replace(PARAMS, seed=6)),
    )
    assert one.photo.shape != two.photo.shape or not np.array_equal(one.photo, two.photo)


def test_fellow_eyes_come_from_one_camera_and_a_data_set_from_all():
    for eye in EYES[::2]:
        assert drawn(eye).camera == drawn(dataclasses.replace(eye, eye="right")).camera
    chosen = [
        choose_camera(stream(0, patient, "both", "patient")).name for patient in range(1, 1001)
    ]
    for camera in CAMERAS:
        # Four standard deviations of a binomial share of 1,000 patients are at most 0.046.
        assert chosen.count(camera.name) / 1000 == pytest.approx(camera.share, abs=0.046)


def test_widths_span_exactly_the_range_asked_for():
    sizes = {eye.photo.shape[1] for eye in map(drawn, EYES)}
    assert min(sizes) >= 400
    assert max(sizes) <= 1200
    by_size = {camera.size for camera in CAMERAS}
    assert {0.0, 1.0} <= by_size  # so the smallest and the largest width do occur
    # Half of the cameras cut the disc at top and bottom.
    assert sum(camera.fill > 1 for camera in CAMERAS) == len(CAMERAS) / 2


def test_default_frames_are_600_to_3000_px_wide_in_their_cameras_shape():
    for camera in CAMERAS:
        shot = frame(camera, SynthesisParams(), np.random.default_rng(0))
        assert 600 <= shot.width <= 3000
        assert abs(shot.width / shot.height - camera.aspect) < 0.01


def test_retina_lies_where_the_truth_says_and_the_border_is_dark_but_not_zero():
    for eye in map(drawn, EYES[::3]):
        y, x = np.mgrid[: eye.photo.shape[0], : eye.photo.shape[1]]
        distance = np.hypot(y - eye.retina_y_px, x - eye.retina_x_px) / (eye.retina_diameter_px / 2)
        outside = eye.photo[distance > 1.12].mean(axis=-1)
        assert 1.0 < outside.mean() < 9.0
        assert outside.std() > 0.2
        brightest = eye.photo.max(axis=-1).astype(float)
        # The edge itself: just inside is several times brighter than just outside.
        assert (
            brightest[(distance > 0.94) & (distance < 0.98)].mean()
            > 2 * brightest[(distance > 1.03) & (distance < 1.06)].mean()
        )


def test_optic_disc_is_on_the_right_in_right_eyes_and_on_the_left_in_left_eyes():
    for eye in EYES[::3]:
        picture = drawn(eye)
        rows, columns = np.nonzero((picture.mask == MASK_COLOURS["optic_disc"]).all(axis=-1))
        assert len(rows) > 0
        assert (columns.mean() > picture.retina_x_px) == (eye.eye == "right")
        # It is the brightest thing of its surroundings in green, as in any fundus photograph.
        green = picture.photo[..., 1].astype(float)
        on_disc = np.zeros(green.shape, np.uint8)
        on_disc[rows, columns] = 1
        around = (
            cv2.dilate(on_disc, np.ones((15, 15), np.uint8)).astype(bool)
            & (on_disc == 0)
            & retina_of(picture)
        )
        assert green[on_disc == 1].mean() > green[around].mean()


# --- the masks ---


def test_masks_hold_exactly_the_palette_and_only_inside_the_retina():
    palette = {(0, 0, 0), *MASK_COLOURS.values()}
    for eye in map(drawn, EYES):
        assert eye.mask.shape == eye.photo.shape
        assert colours(eye.mask) <= palette
        assert not eye.mask[~retina_of(eye)].any()


def test_every_lesion_has_its_colour_in_the_mask_at_its_place():
    for eye in map(drawn, EYES):
        for found in eye.lesions:
            group = found.kind in ("hard_exudate", "new_vessels")  # whose middle may be empty
            reach = max(2, round(found.radius_px * 1.3)) if group else 2
            y, x = round(found.centre_y_px), round(found.centre_x_px)
            near = eye.mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            later = {"soft_exudate", "hard_exudate", "preretinal_haemorrhage", "new_vessels"} - {
                found.kind
            }
            # A large lesion may cover a smaller one.
            assert any(
                (near == MASK_COLOURS[kind]).all(axis=-1).any() for kind in {found.kind, *later}
            ), found


def test_a_stage_0_mask_holds_the_optic_disc_alone():
    for eye in (drawn(one) for one in EYES if one.stage == 0):
        assert colours(eye.mask) == {(0, 0, 0), MASK_COLOURS["optic_disc"]}


def test_blood_is_darker_and_exudate_brighter_than_what_surrounds_it():
    darker, brighter = [], []
    for eye in (drawn(one) for one in EYES if one.stage >= 2):
        green = eye.photo[..., 1].astype(float)
        for kind, differences in (("haemorrhage", darker), ("hard_exudate", brighter)):
            on = (eye.mask == MASK_COLOURS[kind]).all(axis=-1).astype(np.uint8)
            if on.any():
                around = cv2.dilate(on, np.ones((9, 9), np.uint8)).astype(bool) & ~eye.mask.any(
                    axis=-1
                )
                differences.append(green[on == 1].mean() - green[around].mean())
    assert len(darker) > 20
    assert len(brighter) > 10
    assert max(darker) < 0
    assert min(brighter) > 0


def test_jpeg_is_the_photograph_and_png_the_mask():
    eye = drawn(EyePlan(1, "left", 2))
    photo = cv2.imdecode(np.frombuffer(jpeg(eye.photo, 95), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (
        np.abs(photo.astype(int) - eye.photo).mean() < 3.0
    )  # chroma is halved and noise quantised
    assert len(jpeg(eye.photo, 60)) < len(jpeg(eye.photo, 95))
    assert 80 <= eye.quality <= 95
