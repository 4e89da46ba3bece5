"""Patients never cross splits, and a patient's split never moves."""

import collections
import csv
import pathlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_lib.training.splits import KAGGLE_USAGE, Split, split_of

LABELS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "labels"
FRACTIONS = {"validation_fraction": 0.15, "test_fraction": 0.2}


def both_eyes(patients):
    return [f"{patient}_{eye}" for patient in patients for eye in ("left", "right")]


def splits_of(image_ids, **settings):
    return [split_of(image_id.rpartition("_")[0], **settings) for image_id in image_ids]


def assert_no_patient_crosses(image_ids, splits):
    seen = collections.defaultdict(set)
    for image_id, split in zip(image_ids, splits, strict=True):
        seen[image_id.split("_")[0]].add(split)
    assert all(len(sides) == 1 for sides in seen.values())


def assert_shares(splits, patients):
    # Four standard deviations of a binomial share: one seed in 16,000 would fail by chance, and the
    # seed is fixed.
    for split, share in zip(get_args(Split), (0.65, 0.15, 0.2), strict=True):
        assert splits.count(split) / len(splits) == pytest.approx(
            share, abs=4 * (share * (1 - share) / patients) ** 0.5
        )


def test_both_eyes_of_a_patient_share_a_split_and_the_shares_are_those_asked_for():
    ids = both_eyes(range(4000))
    splits = splits_of(ids, seed=3, **FRACTIONS)
    assert_no_patient_crosses(ids, splits)
    assert_shares(splits, 4000)


def kaggles_image_ids():
    """The 35,126 ids of Kaggle's training labels; where they are not beside the project, as many
    of the same form.
    """
    file = LABELS / "trainLabels.csv"
    if not file.exists():
        # Kaggle numbers its patients with gaps, from 10 to 44349; both eyes of each are there.
        return both_eyes(range(10, 10 + 5 * 17563 // 2, 5)) + both_eyes(
            range(100_000, 100_000 + 17563 - 8782)
        )
    with open(file, newline="") as stream:
        return [row["image"] for row in csv.DictReader(stream)]


def test_no_patient_crosses_splits_in_the_35126_labels():
    ids = kaggles_image_ids()
    assert len(set(ids)) == len(ids) == 35126
    splits = splits_of(ids, **FRACTIONS)
    assert_no_patient_crosses(ids, splits)
    assert_shares(splits, 35126 // 2)


@pytest.mark.skipif(
    not (LABELS / "retinopathy_solution.csv").exists(),
    reason="Kaggle's labels are not beside the project",
)
def test_kaggles_usage_keeps_patients_apart_and_has_its_known_sizes():
    with open(LABELS / "retinopathy_solution.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = [KAGGLE_USAGE[row["Usage"]] for row in rows]
    assert collections.Counter(splits) == {"validation": 10906, "test": 42670}
    assert_no_patient_crosses([row["image"] for row in rows], splits)


def test_a_patients_split_does_not_depend_on_who_else_is_there():
    few, many = both_eyes(range(10)), both_eyes(range(500))
    assert splits_of(many)[: len(few)] == splits_of(few)
    assert splits_of(reversed(few)) == splits_of(few)[::-1]


def test_the_hash_itself_stands_still():
    # Changing it would move patients of a trained model from its training to its test side.
    assert [split_of(str(patient), seed=0, **FRACTIONS) for patient in (10, 13, 15, 16, 17)] == [
        "test",
        "validation",
        "train",
        "validation",
        "train",
    ]


def test_another_seed_divides_patients_independently():
    first, second = (
        [split_of(str(p), seed=seed, **FRACTIONS) == "test" for p in range(4000)] for seed in (0, 1)
    )
    both = sum(a and b for a, b in zip(first, second, strict=True)) / 4000
    assert both == pytest.approx(0.2 * 0.2, abs=4 * (0.04 * 0.96 / 4000) ** 0.5)


@given(st.text(min_size=1), st.integers(0, 2**32))
def test_the_limits_of_the_fractions_hold_for_any_patient(patient, seed):
    assert split_of(patient, seed=seed, validation_fraction=0.0, test_fraction=0.0) == "train"
    assert (
        split_of(patient, seed=seed, validation_fraction=0.0, test_fraction=0.999999999) == "test"
    )


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.5, 0.5), (0.2, 0.9)])
def test_fractions_that_leave_no_training_are_refused(validation, test):
    with pytest.raises(ValueError, match="below 1"):
        split_of("10", validation_fraction=validation, test_fraction=test)
