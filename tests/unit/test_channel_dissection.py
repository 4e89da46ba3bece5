"""Channels beside lesion masks: AUCs known by construction, and against scikit-learn's on the
enlarged map.
"""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.localisation.channel_dissection import (
    ChannelDissectionParams,
    agreement,
    unit_cells,
    unit_rows,
)

SIZE = 32
CELLS = unit_cells(SIZE, (16, 16), (2, 2), (0.5, 0.5))
INSIDE = visible_disc(SIZE, crop=0.1)


def spot(y, x, side=4):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def small(mask):
    return mask[::2, ::2].astype(np.float32)


def test_a_channel_that_is_the_mask_is_perfect_and_one_that_is_its_opposite_is_zero():
    first, second = spot(10, 10), spot(20, 18)
    maps = np.stack([small(first), -small(first), np.zeros((16, 16), np.float32)], axis=-1)
    found = agreement(
        maps,
        {"haemorrhage": first, "hard_exudate": second, "new_vessels": np.zeros_like(first)},
        CELLS,
        INSIDE,
    )
    assert found.against_rest[:, 0].tolist() == [
        1.0,
        0.0,
        0.5,
    ], "a constant ties with everything: one half"
    assert found.against_others[:, 0].tolist() == [1.0, 0.0, 0.5]
    background = (INSIDE & ~second).sum()
    assert found.against_rest[0, 1] == pytest.approx(0.5 * (background - 16) / background), (
        "half of all but the first's 16"
    )
    assert found.against_others[0, 1] == 0
    assert np.isnan(found.against_rest[:, 2]).all(), "an eye without the type says nothing about it"


def test_the_auc_is_that_of_the_enlarged_map_pixel_by_pixel():
    rng = np.random.default_rng(1)
    maps = np.maximum(rng.normal(size=(16, 16, 3)), 0).astype(np.float32)  # many ties at 0
    masks = {"a": rng.random((SIZE, SIZE)) < 0.1, "b": rng.random((SIZE, SIZE)) < 0.2}
    found = agreement(maps, masks, CELLS, INSIDE)
    for channel in range(3):
        large = maps[..., channel].ravel()[CELLS]
        for at, mask in enumerate(masks.values()):
            assert found.against_rest[channel, at] == pytest.approx(
                roc_auc_score(mask[INSIDE], large[INSIDE]), rel=1e-12
            )
            other = masks["b" if at == 0 else "a"] & ~mask
            some = INSIDE & (mask | other)
            assert found.against_others[channel, at] == pytest.approx(
                roc_auc_score(mask[some], large[some]), rel=1e-12
            )


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(32,32\) \(16,16\)"):
        agreement(np.zeros((16, 16, 1), np.float32), {"a": np.zeros((16, 16), bool)}, CELLS, INSIDE)


def test_rows_have_means_over_eyes_and_honest_halves():
    """Eyes of patients 0 and 2 choose 'b' (0.9 away beats), those of 1 and 3 measure it at 0.6;
    'a' is 0.7 everywhere.
    """
    rest = np.empty((4, 1, 2))
    rest[:, 0, 0] = 0.7
    rest[[0, 2], 0, 1], rest[[1, 3], 0, 1] = 0.9, 0.6
    rest[3, 0, 0] = np.nan
    (row,) = unit_rows(
        "stem",
        ["a", "b"],
        rest,
        1 - rest,
        np.array(["p0", "p1", "p2", "p3"]),
        ChannelDissectionParams(resamples=400),
    )
    assert (row["best_lesion"], row["lesion_images"], row["images"]) == ("b", 4, 4)
    assert row["lesion_auc"] == pytest.approx(0.75)
    assert row["lesion_auc_held_out"] == pytest.approx(0.6)
    assert row["lesion_auc_others"] == pytest.approx(0.25)
    assert row["auc_a"] == pytest.approx(0.7)
    # Four patients of 0.9, 0.6, 0.9, 0.6: the mean of a resample is 0.6 + 0.3 · share, share of a
    # binomial of 4.
    assert row["lesion_auc_low"] in (pytest.approx(0.6), pytest.approx(0.675))
    assert row["lesion_auc_high"] in (pytest.approx(0.9), pytest.approx(0.825))


def test_a_channel_that_never_changes_has_no_best_type():
    (row,) = unit_rows(
        *("stem", ["a"], np.full((2, 1, 1), 0.5), np.full((2, 1, 1), 0.5), np.array(["p", "q"])),
        ChannelDissectionParams(),
    )
    assert "best_lesion" not in row
    assert row["auc_a"] == 0.5
