"""Measures of localisation on maps and masks whose scores are known in closed form; masks warped
by known geometry.
"""

import numpy as np
import pytest

from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.localisation import (
    Judge,
    LesionMasks,
    LocalisationParams,
    Score,
    UnusableMask,
    lesion_masks,
    lesion_share,
    retina_seen,
    score_rows,
)
from dr_lib.localisation.scores import FALSE_POSITIVES, chance_precision, interval, peaks

SIZE = 64
EXACT = LocalisationParams(tolerance_px=0.0, regions=4)
ALL = np.ones((SIZE, SIZE), bool)


def map_scores(values, masks, params=EXACT):
    return Judge(masks, params).scores(values)


def eye(*spots, inside=ALL):
    """Lesions of one type, each a rectangle (top, left, height, width)."""
    lesion = np.zeros((SIZE, SIZE), bool)
    for top, left, height, width in spots:
        lesion[top : top + height, left : left + width] = True
    return LesionMasks({"haemorrhage": lesion}, inside)


# --- measures
# ------------------------------------------------------------------------------------------------------


def test_the_mask_itself_as_a_map_is_perfect():
    masks = eye((10, 10, 1, 1), (40, 20, 1, 1), (30, 50, 1, 1))
    scores = map_scores(masks.any.astype(float), masks, EXACT)
    for name in (
        "pixel_auc",
        "average_precision",
        "pointing_game",
        "precision",
        "recall",
        "froc",
        "energy",
    ):
        assert scores["any", name].value == 1.0, name
    assert scores["any", "pixel_auc"].chance == 0.5
    for name in ("pointing_game", "precision", "energy"):
        assert scores["any", name].chance == pytest.approx(3 / SIZE**2, rel=1e-12), name


def test_auc_and_energy_are_those_of_counting_pairs():
    """100 lesion pixels, half of them at 2, half at 0; healthy ones at 1: a lesion pixel wins
    half of its pairs.
    """
    masks = eye((10, 10, 10, 10))
    values = np.where(masks.any, 0.0, 1.0)
    values[10:15, 10:20] = 2.0
    scores = map_scores(values, masks, EXACT)
    assert scores["any", "pixel_auc"].value == pytest.approx(0.5, abs=1e-12)
    assert scores["any", "energy"].value == pytest.approx(100 / (100 + SIZE**2 - 100), rel=1e-12)
    # The first 50 pixels are right, the other 50 come last, after all healthy ones.
    last = (50 * 1.0 + 50 * 100 / SIZE**2) / 100
    assert scores["any", "average_precision"].value == pytest.approx(last, rel=1e-9)


def test_another_types_lesions_are_neither_credited_nor_blamed():
    masks = eye((10, 10, 6, 6))
    exudate = np.zeros((SIZE, SIZE), bool)
    exudate[30:40, 30:40] = True
    both = LesionMasks({**masks.kinds, "hard_exudate": exudate}, ALL)
    values = 2.0 * exudate + 1.0 * masks.any  # the exudate outshines the haemorrhage
    scores = map_scores(values, both, EXACT)
    assert scores["haemorrhage", "pixel_auc"].value == 1.0
    assert scores["any", "pixel_auc"].value == 1.0
    assert scores["haemorrhage", "pointing_game"].value == 0.0
    assert scores["hard_exudate", "pointing_game"].value == 1.0


def test_the_pointing_game_forgives_within_the_tolerance_and_shares_ties():
    masks = eye((20, 20, 1, 1))
    values = np.zeros((SIZE, SIZE))
    values[20, 23] = 1.0
    assert (
        map_scores(values, masks, LocalisationParams(tolerance_px=3.0))[
            "any", "pointing_game"
        ].value
        == 1.0
    )
    assert (
        map_scores(values, masks, LocalisationParams(tolerance_px=2.0))[
            "any", "pointing_game"
        ].value
        == 0.0
    )
    values[50, 50] = 1.0
    assert (
        map_scores(values, masks, LocalisationParams(tolerance_px=3.0))[
            "any", "pointing_game"
        ].value
        == 0.5
    )
    # A disc of radius 3 on the grid holds 29 pixels.
    assert (
        map_scores(values, masks, LocalisationParams(tolerance_px=3.0))[
            "any", "pointing_game"
        ].chance
        == 29 / SIZE**2
    )


def test_precision_recall_and_froc_follow_the_order_of_the_peaks():
    """Peaks in order: wrong, right, wrong, wrong, right; three lesions, of which two have a
    peak.
    """
    masks = eye((10, 10, 1, 1), (50, 50, 1, 1), (30, 5, 1, 1))
    values = np.zeros((SIZE, SIZE))
    for height, place in zip(
        (5, 4, 3, 2, 1), ((20, 40), (10, 10), (40, 20), (5, 55), (50, 50)), strict=True
    ):
        values[place] = height
    scores = map_scores(values, masks, EXACT)
    assert scores["any", "precision"].value == 0.25  # of the first four
    assert scores["any", "recall"].value == pytest.approx(1 / 3)
    curve = [scores["any", f"sensitivity_fp{allowed}"].value for allowed in FALSE_POSITIVES]
    assert curve == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert scores["any", "froc"].value == pytest.approx(np.mean(curve))


def test_chance_is_what_random_maps_get():
    """Means over 80 rankings stay within four standard errors of the closed forms."""
    rng = np.random.default_rng(0)
    masks = eye((10, 10, 6, 6), (40, 30, 8, 3), (25, 50, 2, 2))
    judge = Judge(masks, LocalisationParams(tolerance_px=0.0, regions=5))
    found = []
    for _ in range(80):
        # A peak's neighbours are lower, so isolated pixels are the peaks: one for each cell of a
        # coarse grid, anywhere in it.
        values = np.zeros(SIZE**2)
        values[rng.permutation(SIZE**2)[:300]] = rng.random(300) + 1e-3
        found.append(judge.scores(values.reshape(SIZE, SIZE)))
    for name in ("pixel_auc", "energy", "pointing_game"):
        drawn = np.array([one["any", name].value for one in found])
        error = drawn.std() / np.sqrt(len(drawn))
        assert abs(drawn.mean() - found[0]["any", name].chance) < 4 * error, name


def test_chance_of_peaks_is_that_of_points_thrown_at_the_retina():
    rng = np.random.default_rng(1)
    masks = eye((10, 10, 6, 6), (40, 30, 8, 3), (25, 50, 2, 2))
    scores = map_scores(
        rng.random((SIZE, SIZE)), masks, LocalisationParams(tolerance_px=0.0, regions=5)
    )
    labels = np.zeros((SIZE, SIZE), int)
    for number, (top, left, height, width) in enumerate(
        ((10, 10, 6, 6), (40, 30, 8, 3), (25, 50, 2, 2)), 1
    ):
        labels[top : top + height, left : left + width] = number
    recalls, sensitivities = [], []
    for _ in range(4000):
        thrown = labels.ravel()[rng.integers(0, SIZE**2, 2000)]
        recalls.append(len(np.unique(thrown[:5][thrown[:5] > 0])) / 3)
        kept = thrown[np.cumsum(thrown == 0) <= 16]
        sensitivities.append(len(np.unique(kept[kept > 0])) / 3)
    for drawn, name in ((recalls, "recall"), (sensitivities, "sensitivity_fp16")):
        error = np.std(drawn) / np.sqrt(len(drawn))
        assert abs(np.mean(drawn) - scores["any", name].chance) < 4 * error, name


def test_chance_precision_is_the_mean_over_all_rankings():
    """All 10 orders of 2 lesion pixels among 5."""
    from itertools import combinations

    precisions = []
    for first, second in combinations(range(1, 6), 2):
        precisions.append((1 / first + 2 / second) / 2)
    assert chance_precision(5, 2) == pytest.approx(np.mean(precisions), rel=1e-12)


def test_a_map_of_zeros_knows_nothing_and_says_so():
    scores = map_scores(np.zeros((SIZE, SIZE)), eye((10, 10, 5, 5)), EXACT)
    assert scores["any", "pixel_auc"].value == 0.5
    assert scores["any", "recall"].value == scores["any", "froc"].value == 0.0
    for name in ("pointing_game", "precision", "energy"):
        assert np.isnan(scores["any", name].value), name


def test_bad_maps_are_refused_and_eyes_without_lesions_have_no_scores():
    masks = eye((10, 10, 5, 5))
    with pytest.raises(IndexError):
        map_scores(np.zeros((SIZE, SIZE + 1)), masks)
    with pytest.raises(ValueError, match="not finite"):
        map_scores(np.full((SIZE, SIZE), np.nan), masks)
    assert map_scores(np.zeros((SIZE, SIZE)), LesionMasks({}, ALL)) == {}
    # What lies outside the retina is not looked at.
    inside = ALL.copy()
    inside[:, :5] = False
    values = masks.any.astype(float)
    values[:, :5] = np.nan
    assert map_scores(values, LesionMasks(masks.kinds, inside))["any", "pixel_auc"].value == 1.0


def test_an_eye_that_is_all_lesion_leaves_the_ranking_undefined():
    scores = map_scores(
        np.random.default_rng(0).random((SIZE, SIZE)), eye((0, 0, SIZE, SIZE)), EXACT
    )
    assert np.isnan(scores["any", "pixel_auc"].value)
    assert scores["any", "pointing_game"] == Score(1.0, 1.0)


def test_peaks_come_highest_first_and_apart():
    values = np.zeros((SIZE, SIZE))
    values[10, 10], values[10, 12], values[30, 30], values[50, 5] = 3.0, 2.0, 4.0, -1.0
    assert peaks(values, ALL, 3.0).tolist() == [[30, 30], [10, 10]]
    assert peaks(values, ALL, 1.0).tolist() == [[30, 30], [10, 10], [10, 12]]
    assert peaks(np.zeros((SIZE, SIZE)), ALL, 3.0).shape == (0, 2)


# --- many eyes
# -----------------------------------------------------------------------------------------------------


def test_rows_are_means_over_the_eyes_that_have_the_lesion():
    scores = [
        {("any", "pixel_auc"): Score(0.6, 0.5), ("any", "energy"): Score(np.nan, 0.1)},
        {("any", "pixel_auc"): Score(0.8, 0.5), ("any", "energy"): Score(0.3, 0.2)},
        {},
    ]
    rows = score_rows(scores, ["a", "b", "c"], LocalisationParams())
    assert [(row["metric"], row["images"]) for row in rows] == [("pixel_auc", 2), ("energy", 1)]
    assert rows[0]["value"] == pytest.approx(0.7)
    assert (rows[0]["low"], rows[0]["high"]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert rows[1]["chance"] == 0.2
    assert np.isnan(rows[1]["low"])
    assert score_rows([], [], LocalisationParams()) == []
    with pytest.raises(ValueError, match="shorter"):
        score_rows(scores, ["a"], LocalisationParams())


def test_the_interval_resamples_patients_not_eyes():
    """Two patients of 50 like eyes each: the mean of a resample is 0, 1/2 or 1 with chances 1/4,
    1/2, 1/4.
    """
    values = np.repeat([0.0, 1.0], 50)
    assert interval(values, ["a"] * 50 + ["b"] * 50, 1000, 0) == (0.0, 1.0)
    low, high = interval(values, [str(n) for n in range(100)], 4000, 0)
    assert (low, high) == (
        pytest.approx(0.5 - 1.96 * 0.05, abs=0.011),
        pytest.approx(0.5 + 1.96 * 0.05, abs=0.011),
    )


# --- masks
# ---------------------------------------------------------------------------------------------------------

PARAMS = PreprocessParams(size=64)
GRAY = np.full((64, 64, 3), 128, np.uint8)


def textured():
    fundus = np.random.default_rng(0).integers(0, 120, (64, 64, 3)).astype(np.uint8)
    fundus[~visible_disc(64, crop=0.1)] = 128
    return fundus


def painted(shape, kind, rows, columns):
    plane = np.zeros(shape, bool)
    plane[rows, columns] = True
    return {kind: plane}


def test_a_masks_area_and_place_survive_the_warp():
    """Eight mask pixels to one of the fundus: a square of 80 px at the disc's centre becomes one
    of 10 px.
    """
    disc = Disc(300.5, 400.5, 512.0)
    mask = painted((700, 800), "hard_exudate", slice(261, 341), slice(361, 441))
    share = lesion_share(mask["hard_exudate"], disc, PARAMS)
    assert share.sum() == pytest.approx(100.0, abs=1e-4)
    assert (share[27:37, 27:37] == 1).all()


def test_a_lesion_smaller_than_a_pixel_is_kept_where_it_lies_and_a_speck_is_not():
    disc = Disc(319.5, 319.5, 640.0)  # ten mask pixels to one
    mask = painted((640, 640), "microaneurysm", slice(204, 207), slice(303, 306))  # 9 of 100
    mask |= painted((640, 640), "haemorrhage", 400, 400)
    found = lesion_masks(mask, disc, (640, 640), textured(), PreprocessParams(size=64))
    assert list(found.kinds) == [
        "microaneurysm",
        "haemorrhage",
    ]  # at 64 px the limit is 0.15 / 16 of a pixel
    assert np.argwhere(found.kinds["microaneurysm"]).tolist() == [[20, 30]]
    mask = painted((2560, 2560), "microaneurysm", slice(1000, 1010), slice(1000, 1010))
    stray = slice(1400, 1403)  # where two colours met
    mask |= painted((2560, 2560), "new_vessels", stray, stray)
    fundus = np.random.default_rng(0).integers(0, 120, (256, 256, 3)).astype(np.uint8)
    found = lesion_masks(
        mask, Disc(1279.5, 1279.5, 2560.0), (2560, 2560), fundus, PreprocessParams()
    )
    assert list(found.kinds) == ["microaneurysm"]
    assert np.argwhere(found.any).tolist() == [[100, 100]]


def test_the_optic_disc_is_no_lesion_and_lesions_outside_the_retina_do_not_count():
    mask = painted((64, 64), "optic_disc", slice(20, 30), slice(20, 30))
    mask |= painted((64, 64), "haemorrhage", slice(0, 4), slice(0, 4))
    found = lesion_masks(mask, Disc(31.5, 31.5, 64.0), (64, 64), textured(), PARAMS)
    assert found.kinds == {}
    assert found.targets() == {}


def test_a_mask_of_another_size_is_scaled_and_one_of_another_shape_refused():
    disc = Disc(319.5, 319.5, 640.0)
    small = painted((320, 320), "haemorrhage", slice(100, 140), slice(60, 100))
    large = {"haemorrhage": small["haemorrhage"].repeat(2, axis=0).repeat(2, axis=1)}
    there, here = (
        lesion_masks(mask, disc, (640, 640), textured(), PARAMS) for mask in (large, small)
    )
    assert np.array_equal(there.any, here.any)
    with pytest.raises(
        UnusableMask,
        match=r"mask_size: a mask of 320 × 300 px does not fit a photograph of 640 × 640 px",
    ):
        lesion_masks(
            {"haemorrhage": small["haemorrhage"][:300]}, disc, (640, 640), textured(), PARAMS
        )


def test_lesions_of_two_types_at_one_place_are_both_kept_and_a_type_less_does_not_move_the_others():
    disc = Disc(319.5, 319.5, 640.0)
    here = (slice(300, 340), slice(300, 340))
    both = painted((640, 640), "haemorrhage", *here) | painted((640, 640), "hard_exudate", *here)
    found = lesion_masks(both, disc, (640, 640), textured(), PARAMS)
    assert np.array_equal(found.kinds["haemorrhage"], found.kinds["hard_exudate"])
    assert found.any.sum() == found.kinds["haemorrhage"].sum() == 16


def test_a_squeezed_photographs_mask_is_made_round_with_it():
    """The mask is 1.5 times as high as wide, as its photograph is; in the fundus it is a square."""
    disc = Disc(479.5, 319.5, 640.0, aspect=1.5)
    mask = painted((960, 640), "haemorrhage", slice(450, 510), slice(300, 340))
    found = lesion_masks(mask, disc, (960, 640), textured(), PARAMS)
    rows, columns = np.nonzero(found.any)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (4, 4)
    assert (rows.mean(), columns.mean()) == (31.5, 31.5)


def test_a_cut_disc_is_not_retina():
    """A camera cut the upper rows: they are half-gray up to the edge. A gray spot amid the
    retina stays retina.
    """
    fundus = textured()
    fundus[:14] = 128
    fundus[30:36, 30:36] = 128
    seen = retina_seen(fundus, crop=0.1)
    assert not seen[:14].any()
    assert np.array_equal(seen[14:], visible_disc(64, crop=0.1)[14:])
    assert not retina_seen(GRAY, crop=0.1).any()


def test_masks_are_judged_within_the_disc_that_the_fundi_show():
    params = PreprocessParams(size=64, crop=0.4)
    fundus = textured()
    fundus[~visible_disc(64, crop=0.4)] = 128
    mask = painted((640, 640), "haemorrhage", slice(None), slice(None))
    found = lesion_masks(mask, Disc(319.5, 319.5, 640.0), (640, 640), fundus, params)
    assert np.array_equal(found.inside, visible_disc(64, crop=0.4))
    assert np.array_equal(found.any, found.inside)
