"""Paired differences and transfer on tables small enough to count."""

import numpy as np
import pandas as pd
import pytest

from dr_lib.perturbation.comparison import MEASURES, comparisons, paired_comparison, transfer


def table(first, second, reached=None):
    n = len(first)
    ids = [f"{k // 2}_{'left' if k % 2 == 0 else 'right'}" for k in range(n)]
    reached = [True] * n if reached is None else reached
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "image_id": ids,
                    "patient_id": [name.partition("_")[0] for name in ids],
                    "method": "constant",
                    "reached": reached,
                    "ssim": first,
                }
            ),
            pd.DataFrame(
                {
                    "image_id": ids[::-1],
                    "patient_id": [name.partition("_")[0] for name in ids[::-1]],
                    "method": "pgd_linf",
                    "reached": True,
                    "ssim": second[::-1],
                }
            ),
        ]
    )


def test_pairs_are_matched_by_eye_not_by_row_and_only_where_both_reached():
    rows = table([1.0, 2.0, 4.0, 9.0], [0.0, 0.0, 1.0, 5.0], [True, True, True, False])
    answer = paired_comparison(rows, "constant", "pgd_linf", "ssim")
    assert answer["pairs"] == 3
    assert answer["median_difference"] == 2.0  # of 1, 2 and 3
    assert (answer["median_first"], answer["median_second"]) == (2.0, 0.0)
    assert answer["p_value"] == pytest.approx(0.25, rel=1e-9)  # all of three one way: 2 · 2⁻³


def test_the_interval_resamples_patients():
    """Two patients, each with two equal differences: a resample holds 0 or 2 of a patient, so
    ends are 1 and 3.
    """
    answer = paired_comparison(
        table([1.0, 1.0, 3.0, 3.0], [0.0] * 4), "constant", "pgd_linf", "ssim"
    )
    assert (answer["low"], answer["median_difference"], answer["high"]) == (1.0, 2.0, 3.0)
    again = paired_comparison(
        table([1.0, 1.0, 3.0, 3.0], [0.0] * 4), "constant", "pgd_linf", "ssim"
    )
    assert answer == again


def test_no_common_eye_and_no_difference():
    nothing = paired_comparison(table([1.0], [1.0], [False]), "constant", "pgd_linf", "ssim")
    assert nothing["pairs"] == 0
    assert np.isnan(nothing["median_difference"])
    same = paired_comparison(table([1.0, 2.0], [1.0, 2.0]), "constant", "pgd_linf", "ssim")
    assert (same["median_difference"], same["p_value"]) == (0.0, 1.0)


def test_every_counterfactual_method_meets_every_adversarial_one_in_every_measure():
    rows = table([1.0, 2.0, 4.0, 9.0], [0.0, 3.0, 1.0, 5.0])
    rows = rows.assign(**dict.fromkeys(MEASURES, rows["ssim"]))
    found = comparisons(rows, ["constant"], ["pgd_linf", "fgsm_l2"])
    assert [(one["second"], one["measure"], one["pairs"]) for one in found] == [
        *(("pgd_linf", measure, 4) for measure in MEASURES),
        *(("fgsm_l2", measure, 0) for measure in MEASURES),
    ]
    assert found[0]["share_lower"] == 0.25  # differences 1, −1, 3, 4


def test_transfer_counts_only_eyes_whose_mind_could_be_changed():
    before, after = np.array([0, 0, 1, 0, 0]), np.array([1, 0, 1, 1, 1])
    rows = pd.DataFrame(
        {
            "reached": [True, True, True, False, True],
            "target_stage": 1,
            "second_stage_before": before,
            "second_stage_after": after,
            "second_probability_before": (before == 1).astype(float),
            "second_probability_after": (after == 1).astype(float),
        }
    )
    answer = transfer(rows)
    assert (answer["eyes"], answer["transferred"]) == (3, 2)
    assert answer["share"] == pytest.approx(2 / 3)
    # Wilson's interval for 2 of 3, from the formula's published table.
    assert answer["low"] == pytest.approx(0.2077, abs=1e-4)
    assert answer["high"] == pytest.approx(0.9385, abs=1e-4)
    assert answer["mean_probability_gain"] == pytest.approx(2 / 3)
    assert np.isnan(transfer(rows.assign(reached=False))["share"])
