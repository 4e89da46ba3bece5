"""Heat-map statistics on maps whose regions, shares and profiles are known by construction."""

import numpy as np
import pytest

from dr_lib.fundus.anatomy import anatomy
from dr_lib.maps import (
    GroupHeatmaps,
    HeatmapParams,
    find_regions,
    group_names,
    image_rows,
    region_measures,
    symmetry,
)
from dr_lib.maps.stats import entropy_bit, gini, top_share
from dr_lib.vocabulary import SIGNS

SIZE = 128
CENTRE = 63.5
DEFAULT = HeatmapParams()
PLAIN = HeatmapParams(smoothing_px=0.0, fraction=0.5, min_area_px=1)
GRAY = np.full((SIZE, SIZE, 3), 128, np.uint8)
NAMES = {"image_id": "10_right", "source": "pixels", "quantity": "stage4", "eye": "right"}

REGION_COLUMNS = [
    *(
        "image_id",
        "source",
        "quantity",
        "sign",
        "region",
        "area_px",
        "disc_share",
        "centroid_y_px",
        "centroid_x_px",
    ),
    *(
        "radius_share",
        "angle_deg",
        "quadrant",
        "ring",
        "bbox_top_px",
        "bbox_left_px",
        "bbox_bottom_px",
        "bbox_right_px",
    ),
    *(
        "attribution_sum",
        "attribution_mean",
        "attribution_peak",
        "image_share",
        "eccentricity",
        "solidity",
        "contrast",
    ),
    *("optic_disc_distance_px", "converged"),
]
STAT_COLUMNS = [
    *(
        "image_id",
        "source",
        "quantity",
        "positive_total",
        "negative_total",
        "top1_share",
        "entropy",
        "gini",
    ),
    *(
        "share_superior_temporal",
        "share_superior_nasal",
        "share_inferior_temporal",
        "share_inferior_nasal",
    ),
    *(
        "share_ring0",
        "share_ring1",
        "share_ring2",
        "regions_positive",
        "regions_negative",
        "symmetry_stage0_stage4",
    ),
    *("share_optic_disc", "share_border", "optic_disc_y_px", "optic_disc_x_px", "converged"),
]


def blank():
    return np.zeros((SIZE, SIZE), np.float32)


def region_rows(
    values, fundus, *, image_id, source, quantity, eye, crop, params=DEFAULT, signs=SIGNS
):
    """The rows of one map's regions of some signs."""
    rows, _ = image_rows(image_id, eye, fundus, {(source, quantity): values}, params, crop=crop)
    return [row for row in rows if row["sign"] in signs]


def stat_row(values, *, image_id, source, quantity, eye, crop, params=PLAIN):
    _, (row,) = image_rows(image_id, eye, GRAY, {(source, quantity): values}, params, crop=crop)
    return row


# --- regions
# -------------------------------------------------------------------------------------------------------


def test_a_known_rectangle_is_measured_exactly():
    """4 rows × 6 columns of 2 in the upper right of a right eye: superior nasal. One pixel of 8
    is its peak.
    """
    values = blank()
    values[30:34, 80:86] = 2.0
    values[31, 82] = 8.0
    values[90, 40] = 0.5  # below half of the maximum: no region, but part of the positive total
    values[34, 80] = -1.0  # a neighbour of the other sign
    fundus = GRAY.copy()
    fundus[30:34, 80:86, 1] = 88
    params = HeatmapParams(smoothing_px=0.0, fraction=0.2, min_area_px=1, max_regions=5)
    rows = region_rows(values, fundus, **NAMES, params=params, signs=("positive",), crop=0.1)
    (row,) = rows
    assert list(row) == REGION_COLUMNS
    total = 23 * 2 + 8
    dy, dx = CENTRE - 31.5, 82.5 - CENTRE
    expected = {
        "sign": "positive",
        "region": 0,
        "area_px": 24.0,
        "disc_share": 24 / anatomy(SIZE, "right", crop=0.1).area_px,
        "centroid_y_px": 31.5,
        "centroid_x_px": 82.5,
        "radius_share": np.hypot(dy, dx) / (0.9 * 64),
        "angle_deg": np.degrees(np.arctan2(dy, dx)),
        "quadrant": "superior_nasal",
        "ring": 1,
        "bbox_top_px": 30,
        "bbox_left_px": 80,
        "bbox_bottom_px": 34,
        "bbox_right_px": 86,
        "attribution_sum": float(total),
        "attribution_mean": total / 24,
        "attribution_peak": 8.0,
        "image_share": total / (total + 0.5),
        # Second moments of a × b pixel centres: (a² − 1)/12 and (b² − 1)/12.
        "eccentricity": np.sqrt(1 - (4**2 - 1) / (6**2 - 1)),
        "solidity": 1.0,
        "contrast": -40.0,
    }
    for name, value in expected.items():
        assert row[name] == (
            pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        ), name


def test_regions_are_numbered_by_strength_and_signs_are_apart():
    values = blank()
    values[40:44, 40:44] = 1.0  # sum 16
    values[60:62, 60:62] = 1.9  # peak higher, sum 7.6
    values[80:90, 80:90] = -1.0  # sum −100
    values[30:32, 70:72] = -1.8
    rows = region_rows(values, GRAY, **NAMES, params=PLAIN, crop=0.1)
    told = [
        (
            row["sign"],
            row["region"],
            row["centroid_y_px"],
            row["centroid_x_px"],
            row["attribution_sum"],
        )
        for row in rows
    ]
    assert told == [
        ("positive", 0, 41.5, 41.5, pytest.approx(16.0)),
        ("positive", 1, 60.5, 60.5, pytest.approx(7.6)),
        ("negative", 0, 84.5, 84.5, pytest.approx(-100.0)),
        ("negative", 1, 30.5, 70.5, pytest.approx(-7.2)),
    ]
    assert rows[3]["attribution_peak"] == pytest.approx(-1.8)
    assert sum(row["image_share"] for row in rows[2:]) == pytest.approx(1.0)


def test_two_smooth_blobs_keep_their_centroids_under_smoothing():
    y, x = np.mgrid[:SIZE, :SIZE]
    places = [(50, 45), (75, 80)]
    values = (
        sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 3.0**2)) for a, b in places).astype(
            np.float32
        )
        * 1e-6
    )
    rows = region_rows(values, GRAY, **NAMES, signs=("positive",), crop=0.1)
    assert sorted((row["centroid_y_px"], row["centroid_x_px"]) for row in rows) == places
    # A blob of σ² = 9 smoothed with σ² = 4, cut at a quarter of its peak: a disc of radius
    # √(2·13·ln 4).
    for row in rows:
        assert row["area_px"] == pytest.approx(
            np.pi * 2 * 13 * np.log(4), rel=0.03
        )  # a circle on a grid
        assert row["eccentricity"] < 0.1


def test_smoothing_cancels_a_speckle_of_both_signs_and_small_regions_fall_away():
    values = blank()
    values[40:60, 40:60] = np.where(np.indices((20, 20)).sum(axis=0) % 2, 1.0, -1.0)
    values[80:86, 80:86] = 0.5
    params = HeatmapParams(smoothing_px=2.0)
    regions = find_regions(values, "positive", params, crop=0.1)
    assert regions.max() == 1
    assert regions[82, 82] == 1
    dot = blank()
    dot[64, 64] = 1.0
    assert find_regions(dot, "positive", HeatmapParams(smoothing_px=0.0), crop=0.1).max() == 0, (
        "below min_area_px"
    )
    assert find_regions(dot, "positive", PLAIN, crop=0.1).max() == 1


def test_corners_join_and_outside_of_the_disc_is_ignored():
    values = blank()
    values[50:52, 50:52] = values[52:54, 52:54] = 1.0
    values[0:10, 0:10] = 9.0  # beyond 0.9 R
    assert find_regions(values, "positive", PLAIN, crop=0.1).max() == 1


@pytest.mark.parametrize("rule", ["fraction", "otsu", "quantile"])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_every_threshold_rule_is_the_map_s_own_whatever_its_scale(rule, scale):
    """A plateau of 1 over a ground of 0.1: each rule finds exactly the plateau, at 1e-9 too."""
    values = np.full((SIZE, SIZE), 0.1 * scale, np.float32)
    values[50:58, 60:68] = scale
    params = HeatmapParams(
        smoothing_px=0.0,
        threshold=rule,
        quantile=1 - 64 / anatomy(SIZE, "right", crop=0.1).area_px + 1e-4,
    )
    (row,) = region_rows(values, GRAY, **NAMES, params=params, signs=("positive",), crop=0.1)
    assert row["area_px"] == 64
    assert row["centroid_y_px"] == 53.5


def test_max_regions_limits_rows_but_not_the_count():
    values = blank()
    for k in range(6):
        values[40:42, 30 + 8 * k : 32 + 8 * k] = 1.0 + 0.1 * k
    params = HeatmapParams(smoothing_px=0.0, min_area_px=1, max_regions=2)
    regions, stats = image_rows(
        "10_right", "right", GRAY, {("pixels", "stage1"): values}, params, crop=0.1
    )
    assert [row["centroid_x_px"] for row in regions] == [70.5, 62.5], "the strongest two"
    assert stats[0]["regions_positive"] == 6
    assert (
        len(
            image_rows(
                "10_right",
                "right",
                GRAY,
                {("pixels", "stage1"): values},
                HeatmapParams(0.0, min_area_px=1, max_regions=0),
                crop=0.1,
            )[0]
        )
        == 6
    )


def test_contrast_leaves_other_regions_and_the_crop_out_and_is_undefined_without_surroundings():
    values = np.where(anatomy(SIZE, "right", crop=0.1).inside, 1.0, 0.0).astype(np.float32)
    (row,) = region_rows(values, GRAY, **NAMES, params=PLAIN, signs=("positive",), crop=0.1)
    assert np.isnan(row["contrast"]), (
        "the whole disc is one region: nothing of the disc surrounds it"
    )
    values = blank()
    values[60:64, 60:64] = values[60:64, 66:70] = (
        1.0  # two regions within each other's surroundings
    )
    fundus = GRAY.copy()
    fundus[60:64, 66:70, 1] = 0
    first = region_rows(values, fundus, **NAMES, params=PLAIN, signs=("positive",), crop=0.1)[0]
    assert first["centroid_x_px"] == 61.5
    assert first["contrast"] == 0, "the dark neighbour is a region itself"


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 1)])
def test_lines_and_dots_have_finite_shape_numbers(shape):
    values = blank()
    values[50 : 50 + shape[0], 50 : 50 + shape[1]] = 1.0
    (row,) = region_rows(values, GRAY, **NAMES, params=PLAIN, signs=("positive",), crop=0.1)
    assert 0 <= row["eccentricity"] <= 1
    assert row["solidity"] == 1


def test_a_map_that_does_not_lie_on_the_fundus_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"does not lie on|y="):
        region_rows(blank(), GRAY[:64, :64], **NAMES, crop=0.1)
    with pytest.raises(ValueError, match="shape"):
        find_regions(np.zeros((4, 5), np.float32), "positive", crop=0.1)


# --- statistics
# ----------------------------------------------------------------------------------------------------


def test_gini_by_hand_and_against_all_pairs():
    assert gini(np.ones(7)) == pytest.approx(0, abs=1e-15)
    assert gini(np.array([0.0, 0.0, 0.0, 5.0])) == 0.75
    values = np.random.default_rng(0).exponential(size=200)
    pairs = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(pairs, rel=1e-12)
    assert gini(values * 1e-12) == pytest.approx(pairs, rel=1e-9)


def test_entropy_and_top_share_by_hand():
    assert entropy_bit(np.ones(8)) == pytest.approx(3, rel=1e-15)
    assert entropy_bit(np.array([0.0, 3.0])) == 0
    assert entropy_bit(np.array([0.5, 0.25, 0.25]) * 1e-9) == pytest.approx(1.5, rel=1e-12)
    assert top_share(np.arange(1.0, 101.0), 1) == 100 / 5050
    for measure in (gini, entropy_bit, lambda size: top_share(size, 1)):
        assert np.isnan(measure(np.zeros(4)))
        assert np.isnan(measure(np.array([1.0, np.nan])))


@pytest.mark.parametrize(("eye", "nasal"), [("right", 0.75), ("left", 0.25)])
def test_shares_of_quadrants_and_rings_follow_the_eye(eye, nasal):
    """3 on the right, −1 on the left of the upper half; ring of each by its distance: 20 and 50
    of 57.6 px.
    """
    values = blank()
    values[63, 63 + 20], values[63, 63 - 50] = 3.0, -1.0
    row = stat_row(values, **{**NAMES, "eye": eye}, crop=0.1)
    assert sorted(row) == sorted(STAT_COLUMNS)
    assert row["positive_total"] == 3
    assert row["negative_total"] == -1
    assert row["share_superior_nasal"] == nasal
    assert row["share_superior_temporal"] == 1 - nasal
    assert row["share_inferior_nasal"] == row["share_inferior_temporal"] == 0
    assert [row[f"share_ring{ring}"] for ring in range(3)] == [0, 0.75, 0.25]
    assert row["top1_share"] == 1
    assert row["entropy"] == pytest.approx(2 - 0.75 * np.log2(3), rel=1e-12)
    assert (row["regions_positive"], row["regions_negative"]) == (1, 1)
    assert np.isnan(row["symmetry_stage0_stage4"])


def test_an_even_map_has_the_disc_s_own_proportions():
    row = stat_row(np.ones((SIZE, SIZE), np.float32), **NAMES, crop=0.1)
    assert row["gini"] == pytest.approx(0, abs=1e-12)
    assert row["entropy"] == pytest.approx(
        np.log2(anatomy(SIZE, "right", crop=0.1).area_px), rel=1e-12
    )
    assert row["top1_share"] == pytest.approx(0.01, rel=0.01)  # a whole number of pixels
    assert [row[f"share_ring{ring}"] for ring in range(3)] == pytest.approx(
        [1 / 9, 3 / 9, 5 / 9], abs=4e-3
    )  # circles on a grid
    assert row["share_superior_nasal"] == pytest.approx(0.25, rel=1e-12)
    assert row["share_border"] == pytest.approx(0.19, abs=4e-3)


def test_symmetry_is_minus_one_for_complementary_maps():
    values = np.random.default_rng(2).normal(size=(SIZE, SIZE)).astype(np.float32)
    assert symmetry(values, -3 * values, crop=0.1) == pytest.approx(-1, abs=1e-6)
    assert symmetry(values, values, crop=0.1) == pytest.approx(1, abs=1e-6)
    inside = anatomy(SIZE, "right", crop=0.1).inside
    other = np.random.default_rng(3).normal(size=(SIZE, SIZE))
    assert symmetry(values, other, crop=0.1) == pytest.approx(
        np.corrcoef(values[inside], other[inside])[0, 1], rel=1e-9
    )
    assert symmetry(values * np.float32(1e-20), other * 1e-200, crop=0.1) == pytest.approx(
        symmetry(values, other, crop=0.1), rel=1e-5
    )
    assert np.isnan(symmetry(values, blank(), crop=0.1))
    assert np.isnan(symmetry(values, np.full_like(values, np.nan), crop=0.1))


def test_an_image_s_rows_carry_symmetry_and_pairs_of_signs():
    up, down = blank(), blank()
    up[50:55, 50:55], down[70:75, 70:75] = 1.0, -1.0
    up[
        70:75, 70:75
    ] = -5.0  # the positive neurons' map has a negative place too: it makes no negative region
    maps = {
        ("pixels", "stage0"): up + down,
        ("pixels", "stage4"): -up - down,
        ("stem", "stage4"): np.stack([up, down]),
    }
    regions, stats = image_rows("10_left", "left", GRAY, maps, PLAIN, crop=0.1)
    assert [row["symmetry_stage0_stage4"] for row in stats] == [
        pytest.approx(-1),
        pytest.approx(-1),
        pytest.approx(np.nan, nan_ok=True),
    ]
    stem = [row for row in regions if row["source"] == "stem"]
    assert [(row["sign"], row["centroid_y_px"], row["attribution_sum"]) for row in stem] == [
        ("positive", 52.0, 25.0),
        ("negative", 72.0, -25.0),
    ]
    assert stats[2]["positive_total"] == 25
    assert stats[2]["negative_total"] == -150


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_map_and_a_map_of_zeros_have_rows_that_say_so(bad):
    broken = blank()
    broken[64, 64] = bad
    maps = {("pixels", "stage0"): blank(), ("pixels", "stage4"): broken}
    regions, stats = image_rows("10_right", "right", GRAY, maps, crop=0.1)
    assert regions == []
    zero, lost = stats
    assert (zero["positive_total"], zero["negative_total"], zero["regions_positive"]) == (0, 0, 0)
    assert np.isnan(zero["gini"]), "nothing is distributed"
    for name in (*STAT_COLUMNS[3:-8], "share_border"):
        assert np.isnan(lost[name]), name
    assert (lost["regions_positive"], lost["regions_negative"]) == (0, 0)


# --- groups
# --------------------------------------------------------------------------------------------------------


def test_left_eyes_are_mirrored_so_that_anatomy_coincides():
    groups = GroupHeatmaps(SIZE)
    values = blank()
    values[50, 90] = 1.0
    groups.add(["all"], "pixels", "stage4", values, "right")
    groups.add(["all", "left only"], "pixels", "stage4", values[:, ::-1] * 3, "left")
    means = {key[0]: (images, positive) for key, images, positive, _ in groups.means()}
    assert means["all"][0] == 2
    assert means["all"][1][50, 90] == 2.0
    assert means["all"][1].sum() == 2.0
    assert means["left only"][1][50, 90] == 3.0


def test_signs_are_summed_apart_so_that_they_do_not_cancel_and_merging_is_adding():
    rng = np.random.default_rng(5)
    maps = rng.normal(size=(4, SIZE, SIZE)).astype(np.float32)
    whole, parts = GroupHeatmaps(SIZE), [GroupHeatmaps(SIZE), GroupHeatmaps(SIZE)]
    for k, values in enumerate(maps):
        whole.add(["all"], "pixels", "stage0", values, "right")
        parts[k // 2].add(["all"], "pixels", "stage0", values, "right")
    parts[0].merge(parts[1])
    for groups in (whole, parts[0]):
        ((key, images, positive, negative),) = groups.means()
        assert key == ("all", "pixels", "stage0")
        assert images == 4
        np.testing.assert_allclose(positive, np.maximum(maps, 0).mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(negative, np.minimum(maps, 0).mean(axis=0), rtol=1e-6)


def test_profiles_of_a_map_that_depends_on_place_only():
    """Value = radius share, negative on the nasal side: radial means are the bins' middles,
    angular ones the sign.
    """
    place = anatomy(SIZE, "right", crop=0.1)
    nasal = (place.angle_deg < 90) | (place.angle_deg >= 270)
    values = np.where(nasal, -place.radius_share, place.radius_share)
    groups = GroupHeatmaps(SIZE)
    groups.add(["all"], "stem", "referable", values, "right")
    rows = groups.rows(HeatmapParams(radial_bins=5, angular_bins=4), crop=0.1)
    assert list(rows[0]) == [
        "group_name",
        "source",
        "quantity",
        "images",
        "profile",
        "bin",
        "mean_positive",
        "mean_negative",
    ]
    radial = [row for row in rows if row["profile"] == "radial"]
    assert [row["bin"] for row in radial] == [0, 1, 2, 3, 4]
    # Over a bin from a to b, half of each sign: ½ · ⅔ (b³ − a³) / (b² − a²).
    expected = [
        ((b**3 - a**3) / (b**2 - a**2)) / 3 for a, b in ((k / 5, (k + 1) / 5) for k in range(5))
    ]
    np.testing.assert_allclose(
        [row["mean_positive"] for row in radial], expected, rtol=0.02
    )  # circles on a grid
    np.testing.assert_allclose(
        [row["mean_negative"] for row in radial], [-value for value in expected], rtol=0.02
    )
    angular = [row for row in rows if row["profile"] == "angular"]
    np.testing.assert_allclose(
        [row["mean_positive"] for row in angular], [0, 2 / 3, 2 / 3, 0], atol=5e-3
    )
    np.testing.assert_allclose(
        [row["mean_negative"] for row in angular], [-2 / 3, 0, 0, -2 / 3], atol=5e-3
    )


def test_broken_maps_are_not_summed_and_sizes_must_agree():
    groups = GroupHeatmaps(SIZE)
    groups.add(["all"], "pixels", "stage0", np.full((SIZE, SIZE), np.nan), "left")
    assert groups.rows(crop=0.1) == []
    groups.add(["all"], "pixels", "stage0", np.zeros((SIZE, SIZE)), "left")
    with pytest.raises(ValueError, match="shapes"):
        groups.add(["all"], "pixels", "stage0", np.zeros((4, 4)), "left")
    others = GroupHeatmaps(4)
    others.add(["all"], "pixels", "stage0", np.zeros((4, 4)), "left")
    with pytest.raises(ValueError, match="shapes"):
        groups.merge(others)


def test_the_poster_s_groups_have_names():
    assert "stage=4,predicted_stage=4" in group_names(4, 4, "left")
    assert "wrong" in group_names(1, 0, "left")


# --- neurons
# -------------------------------------------------------------------------------------------------------


def test_extent_of_shapes_with_known_radii_of_gyration():
    """An even n × n square has √((n² − 1) / 6); two equal points half their distance; signs do
    not matter.
    """

    def extent(region):
        return float(region_measures(region, size_px=len(region))["region_extent_px"])

    square = np.zeros((40, 40), np.float32)
    square[10:19, 20:29] = -2.0
    assert extent(square) == pytest.approx(np.sqrt(80 / 6), rel=1e-12)
    dot = np.zeros((40, 40), np.float32)
    dot[3, 39] = 1e-20
    assert extent(dot) == 0
    y, x = np.mgrid[:101, :101] - 50.0
    assert extent(np.exp(-(y**2 + x**2) / (2 * 6.0**2))) == pytest.approx(6 * np.sqrt(2), rel=1e-6)


def test_region_measures_of_windows_compare_across_layers():
    """1 % of a 40 × 40 image are 16 pixels: a region of 12 in a window has share 1, an even
    image 1 %.
    """
    window = np.zeros((2, 2, 6, 6), np.float32)
    window[0, 0, :2] = 1.0
    window[0, 1, 0, 0], window[0, 1, 5, 5] = 3.0, -4.0
    window[1, 0] = np.nan
    measures = region_measures(window, size_px=40)
    assert {values.shape for values in measures.values()} == {(2, 2)}
    assert measures["region_total"][0].tolist() == [12, -1]
    assert measures["region_peak"][0].tolist() == [1, 4]
    assert measures["region_top1_share"][0].tolist() == [pytest.approx(1), pytest.approx(1)]
    # Unequal points 5√2 apart: √(w₁w₂) times the distance.
    assert measures["region_extent_px"][0, 1] == pytest.approx(
        np.sqrt(12 / 49) * 5 * np.sqrt(2), rel=1e-12
    )
    assert all(np.isnan(values[1, 0]) for values in measures.values())
    assert measures["region_total"][1, 1] == measures["region_peak"][1, 1] == 0
    assert np.isnan(measures["region_extent_px"][1, 1])
    even = region_measures(np.ones((40, 40)), size_px=40)
    assert even["region_top1_share"] == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"smoothing_px": -1.0},
        {"fraction": 0.0},
        {"quantile": 1.0},
        {"min_area_px": 0},
        {"max_regions": -1},
        {"surround_px": 0},
        {"radial_bins": 0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        HeatmapParams(**settings)
