"""What channels contribute over many eyes: closed forms, and parts that merge to the whole."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import pytest

from dr_lib.attribution.receptive import ReceptiveField
from dr_lib.fundus import PreprocessParams, preprocess
from dr_lib.localisation.unit_sums import (
    BINS,
    EDGES,
    MOST,
    PLACES,
    UnitSums,
    correlations,
    example_rows,
    medians,
    place_masks,
    places_at,
    unit_rows,
)
from dr_lib.synthetic import EyePlan, SynthesisParams, draw
from dr_lib.vocabulary import QUADRANTS

EYES, CHANNELS = 40, 7
FIELD = ReceptiveField((23, 23), (4, 4), (-3, -3))


@dataclass(frozen=True)
class Eyes:
    """What `UnitSums.of` takes."""

    contribution: np.ndarray
    activation: np.ndarray
    unit: np.ndarray
    places: np.ndarray
    eyes: pd.DataFrame

    def sums(self, rows=slice(None)) -> UnitSums:
        return UnitSums.of(*(getattr(self, field.name)[rows] for field in fields(self)))


def made(eyes: int = EYES, seed: int = 0) -> Eyes:
    """Contributions of noise with their stages: true (some unknown) and predicted."""
    rng = np.random.default_rng(seed)
    contribution = rng.normal(size=(eyes, CHANNELS)).astype(np.float32) * 1e-2
    contribution[:, 1] = 0.7 * contribution[:, 0] + 0.3 * contribution[:, 1]
    stage = np.where(rng.random(eyes) < 0.1, np.nan, rng.integers(0, 5, eyes))
    return Eyes(
        contribution,
        rng.random((eyes, CHANNELS)).astype(np.float32),
        rng.integers(0, 15, (eyes, CHANNELS, 2, 2)).astype(np.int16),
        rng.integers(-1, 2, (eyes, CHANNELS, len(PLACES))).astype(np.int8),
        eyes_of(stage, rng.integers(0, 5, eyes)),
    )


def eyes_of(stage, predicted) -> pd.DataFrame:
    return pd.DataFrame(
        {"row": np.arange(len(stage)), "stage": stage, "predicted_stage": predicted}
    )


def test_two_parts_merge_to_the_whole():
    layer = made()
    whole, first, rest = (layer.sums(slice(*ends)) for ends in ((0, 40), (0, 13), (13, 40)))
    for field in fields(UnitSums):
        merged, expected = (getattr(one, field.name) for one in (first.merged(rest), whole))
        # Sums in another order agree to rounding; everything else exactly.
        np.testing.assert_allclose(merged, expected, rtol=1e-12, atol=1e-18, err_msg=field.name)


def test_an_eye_whose_contributions_are_not_finite_is_left_out():
    layer = made()
    layer.contribution[3, 2] = np.nan
    without = layer.sums(np.arange(EYES) != 3)
    for field in fields(UnitSums):
        found, expected = (getattr(one, field.name) for one in (layer.sums(), without))
        np.testing.assert_array_equal(found, expected)


def test_the_strongest_eyes_come_first_ties_by_the_lowest_row_and_only_of_their_sign():
    contribution = np.array([[1.0], [3.0], [-2.0], [3.0], [0.0]], np.float32)
    layer = Eyes(
        contribution,
        np.array([[0.0], [5.0], [5.0], [7.0], [0.0]], np.float32),
        np.arange(5 * 4).reshape(5, 1, 2, 2),
        np.zeros((5, 1, len(PLACES)), np.int8),
        eyes_of(np.zeros(5), np.zeros(5, int)),
    )
    # Merged in the wrong order: the row decides, not the order of merging.
    sums = layer.sums(slice(3, 5)).merged(layer.sums(slice(0, 3)))
    empty = [-1] * MOST
    assert sums.row[0].tolist() == [
        ([1, 3, 0] + empty)[:MOST],
        ([2] + empty)[:MOST],
        ([3, 1, 2] + empty)[:MOST],
    ]
    assert sums.unit[0, 0, 0].tolist() == [4, 5], "the place of the contribution"
    assert sums.unit[0, 2, 0].tolist() == [14, 15], "the place of the activation"
    rows = example_rows("stem", sums, FIELD, 64).set_index(["kind", "rank"])
    assert len(rows) == 3 + 1 + 3
    assert rows.loc[("against", 0), "value"] == -2.0
    # Unit (4, 5) sees rows 13 to 36, columns 17 to 40; unit (2, 3) of eye 0 starts at 5 and 9.
    windows = rows[[f"window_{name}_px" for name in ("top", "left", "height", "width")]]
    assert windows.loc[("for", 0)].tolist() == [13, 17, 23, 23]
    assert windows.loc[("for", 2)].tolist() == [0, 1, 20, 23], "clipped to the fundus"


def test_a_median_lies_in_the_bin_of_the_true_one():
    rng = np.random.default_rng(1)
    for values in (rng.normal(size=501) * 1e-3, rng.lognormal(-5, 2, 501), -rng.random(11)):
        bins = np.searchsorted(EDGES[1:-1], values, side="right")
        counts = np.bincount(bins, minlength=BINS)
        exact, found = np.median(values), medians(counts)
        assert np.searchsorted(EDGES, exact) == np.searchsorted(EDGES, found)
    assert np.isnan(medians(np.zeros(BINS, int)))


def test_correlations_are_numpys_and_the_nearest_come_first():
    layer = made()
    layer.contribution[:, 6] = 0.25  # never changes
    sums = layer.sums()
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(layer.contribution.astype(np.float64).T)
    np.fill_diagonal(expected, np.nan)
    expected[6], expected[:, 6] = np.nan, np.nan
    np.testing.assert_allclose(correlations(sums), expected, atol=1e-9)
    near = unit_rows("stem", sums)["neighbours"]
    assert near[0][0] == 1
    assert near[6] == []
    assert all(unit not in others for unit, others in enumerate(near))


def test_rows_hold_what_numpy_says_of_the_contributions():
    layer = made(200)
    values, predicted = layer.contribution.astype(np.float64), layer.eyes["predicted_stage"]
    for unit, row in enumerate(unit_rows("stem", layer.sums()).to_dict("records")):
        own = values[:, unit]
        assert row["images"] == 200
        assert row["mean_attribution"] == pytest.approx(own.mean())
        assert row["share_for"] == pytest.approx((own > 0).mean())
        for grade in range(5):
            some = own[predicted == grade]
            assert row["mean_by_predicted_stage"][grade] == pytest.approx(some.mean())
            assert row["deviation_by_predicted_stage"][grade] == pytest.approx(some.std())
        assert sum(row["histogram_by_stage"]) == 200
        assert len(row["histogram_by_predicted_stage"]) == 5 * BINS
        for number, place in enumerate(PLACES):
            known = layer.places[:, unit, number]
            share = (known == 1).sum() / (known >= 0).sum()
            assert row[f"place_{place}"] == pytest.approx(share)


def test_no_eye_gives_rows_without_measures():
    nothing = made().sums(slice(0, 0))
    row = unit_rows("stem", nothing).iloc[0]
    assert row["images"] == 0
    assert np.isnan(row["mean_attribution"])
    assert example_rows("stem", nothing, FIELD, 64).empty


def test_places_are_read_in_the_middle_of_what_a_unit_sees():
    masks = np.zeros((len(PLACES), 64, 64), np.int8)
    masks[0, 30:34, 20:24] = 1
    masks[1] = -1
    # Unit (6, 3) sees 23 px from (21, 9) on: its middle is (32, 20).
    units = np.array([[6, 3], [6, 9], [-1, -1]])
    found = places_at(masks, units, FIELD)
    assert found[:, 0].tolist() == [1, 0, -1]
    assert found[:, 1].tolist() == [-1, -1, -1]


def test_a_synthetic_eye_has_its_disc_vessels_and_quadrants_where_they_are():
    eye = draw(EyePlan(2, "right", 3), SynthesisParams(seed=3, smallest_px=400, largest_px=500))
    fundus = preprocess(eye.photo, PreprocessParams(size=128))
    masks = dict(zip(PLACES, place_masks(fundus, "right", crop=0.1), strict=True))
    unknown = dict(zip(PLACES, place_masks(fundus, None, crop=0.1), strict=True))
    assert (unknown["superior_nasal"] == -1).all()
    assert (sum(masks[name] for name in QUADRANTS) == 1).all(), "each pixel is in one"
    _, x = np.nonzero(masks["optic_disc"])
    assert x.mean() > 64, "nasal, on the right of a right eye"
    assert 0.01 < masks["vessel"].mean() < 0.12
    assert masks["rim"][64, 64] == 0
    assert masks["rim"][0, 0] == 1
