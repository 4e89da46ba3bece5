"""How far two explanations agree: a map with itself, regions drawn by hand, units renumbered."""

import numpy as np
import pytest

from dr_lib.maps import HeatmapParams
from dr_lib.maps.agreement import LEAST_EYES, map_agreement, matched_units

SIZE, CROP = 64, 0.1
SHARP = HeatmapParams(smoothing_px=0.0, min_area_px=1)


def noise(seed):
    return np.random.default_rng(seed).normal(size=(SIZE, SIZE))


def alike(first, second, regions=None):
    found = map_agreement(first, second, crop=CROP, cut=regions)
    return {" ".join(key): value for key, value in found.items()}


def squares(*corners):
    """A map with squares of 4 × 4 px at these corners."""
    values = np.zeros((SIZE, SIZE))
    for top, left in corners:
        values[top : top + 4, left : left + 4] = 1
    return values


def test_a_map_agrees_with_itself_in_any_unit_and_not_with_its_opposite():
    values = noise(0)
    same = alike(values, 1e-6 * values)
    assert same["map_correlation agreement"] == pytest.approx(1, abs=1e-12)
    assert same["map_overlap agreement"] == 1
    opposite = alike(values, -values)
    assert opposite["map_correlation agreement"] == pytest.approx(-1, abs=1e-12)
    assert opposite["map_overlap agreement"] == 0


def test_two_maps_of_noise_agree_by_chance_only():
    found = alike(noise(1), noise(2))
    assert abs(found["map_correlation agreement"]) < 0.2
    # Two tenths drawn at random share a hundredth of 19.
    assert found["map_overlap agreement"] == pytest.approx(0.01 / 0.19, abs=0.06)


def test_a_map_that_does_not_vary_has_no_correlation():
    assert np.isnan(alike(np.zeros((SIZE, SIZE)), noise(3))["map_correlation agreement"])


def test_regions_are_counted_where_they_touch_and_their_pixels_where_they_lie_on_each_other():
    first = squares((20, 20), (40, 40), (20, 40))
    second = squares((20, 22), (44, 20))  # half of the first square; one where nothing is
    found = alike(first, second, SHARP)
    assert found["regions value_a"] == pytest.approx(1 / 3)
    assert found["regions value_b"] == pytest.approx(1 / 2)
    assert found["regions agreement"] == pytest.approx(8 / (3 * 16 + 2 * 16 - 8))
    same = alike(first, first, SHARP)
    assert [value for key, value in same.items() if key.startswith("regions")] == [1, 1, 1]


def test_maps_without_regions_have_no_agreement_of_regions():
    found = alike(-squares((20, 20)), -squares((20, 20)), SHARP)
    assert np.isnan([value for key, value in found.items() if key.startswith("regions")]).all()


def test_units_in_another_order_are_found_again():
    draws = np.random.default_rng(0)
    first = draws.normal(size=(80, 30))
    order = draws.permutation(30)
    # Another scale, and a bend that leaves ranks alone.
    found = matched_units(first, np.exp(first[:, order]))
    (whole,) = found[found["measure"] == "units"].to_dict("records")
    assert (whole["value_a"], whole["value_b"], whole["agreement"]) == (30, 30, 1)
    pairs = found[found["measure"] == "matched"]
    assert dict(zip(pairs["unit"].astype(int), pairs["other_unit"].astype(int), strict=True)) == (
        dict(enumerate(order.tolist()))
    )
    assert pairs["agreement"].to_numpy() == pytest.approx(1, abs=1e-12)


def test_a_unit_that_the_other_lacks_vanishes_one_that_it_has_alone_appears_and_dead_ones_do_not_count():
    draws = np.random.default_rng(1)
    first = draws.normal(size=(200, 6))
    second = np.column_stack([first[:, 1:], draws.normal(size=(200, 2)), np.zeros(200)])
    found = matched_units(first, second).set_index("measure")
    assert found.loc["vanished", "other_unit"] == 0
    assert sorted(found.loc[["appeared"], "unit"]) == [5, 6]
    assert found.loc["units", ["value_a", "value_b"]].tolist() == [6, 7]
    assert found.loc["units", "agreement"] == pytest.approx(2 * 5 / 13)
    assert len(found.loc[["matched"]]) == 5


def test_hundreds_of_units_of_noise_on_few_eyes_are_not_taken_for_the_same():
    """Without the shuffled eyes' threshold most pairs would pass: the best of 200 units on 25 eyes
    correlates well over one half.
    """
    draws = np.random.default_rng(2)
    found = matched_units(draws.normal(size=(25, 200)), draws.normal(size=(25, 200)))
    (whole,) = found[found["measure"] == "units"].to_dict("records")
    assert whole["chance"] > 0.6
    assert whole["agreement"] < 0.15


def test_too_few_eyes_say_nothing_of_units():
    values = np.random.default_rng(3).normal(size=(LEAST_EYES - 1, 4))
    assert matched_units(values, values).empty
