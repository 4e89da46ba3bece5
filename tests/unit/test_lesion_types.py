"""The likeliest lesion type from channels: closed forms of two normal distributions."""

import numpy as np
import pytest
from scipy.stats import norm

from dr_lib.localisation.channel_dissection import type_channels
from dr_lib.vocabulary import LESION_TYPES


def unit(channel, lesion, auc, others=0.8, held=0.7, **aucs):
    row = {f"auc_{name}": float("nan") for name in LESION_TYPES} | {f"auc_{lesion}": auc}
    row |= {f"auc_{name}": value for name, value in aucs.items()}
    return row | {
        "layer": "stem",
        "unit": channel,
        "best_lesion": lesion,
        "lesion_auc": auc,
        "lesion_auc_held_out": held,
        "lesion_auc_others": others,
    }


def test_the_probability_is_that_of_bayes_for_normal_activations():
    """AUCs of Φ(2/√2) and 0.5: the types lie 2 and 0 standard deviations from the retina."""
    auc = norm.cdf(2 / np.sqrt(2))
    units = [
        unit(3, "haemorrhage", auc, hard_exudate=0.5),
        unit(9, "hard_exudate", auc, haemorrhage=0.5),
    ]
    found = type_channels(units)
    assert found.types == ("haemorrhage", "hard_exudate")
    assert found.channels == (3, 9)
    assert found.distance == pytest.approx(np.array([[2.0, 0.0], [0.0, 2.0]]), abs=1e-9)
    chances = found.probabilities(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 30.0]]))
    ratio = (norm.pdf(0) * norm.pdf(0)) / (norm.pdf(-2) * norm.pdf(2))
    assert chances[0] == pytest.approx([ratio / (1 + ratio), 1 / (1 + ratio)])
    assert chances[1] == pytest.approx([0.5, 0.5])
    assert chances[2] == pytest.approx([0.0, 1.0])


def test_a_channel_that_falls_silent_on_a_type_tells_it_too():
    units = [
        unit(0, "haemorrhage", 0.2, others=0.25, held=0.3, soft_exudate=0.5),
        unit(1, "soft_exudate", 0.9, haemorrhage=0.5),
    ]
    found = type_channels(units)
    assert found.distance[0, 0] < 0
    assert found.probabilities(np.array([[-2.0, 0.0]]))[0, 0] > 0.8


@pytest.mark.parametrize(
    "weak",
    [{"others": 0.55}, {"held": 0.52}, {"held": float("nan")}, {"others": float("nan")}],
    ids=["not from other lesions", "not on other patients", "one patient", "no other lesions"],
)
def test_types_that_channels_do_not_tell_apart_are_not_told(weak):
    units = [unit(0, "haemorrhage", 0.8), unit(1, "hard_exudate", 0.9, **weak)]
    assert type_channels(units) is None
    assert type_channels([]) is None


def test_of_several_channels_the_one_counts_that_tells_the_type_from_other_lesions_best():
    units = [
        unit(0, "haemorrhage", 0.8, others=0.7),
        unit(1, "haemorrhage", 0.75, others=0.9),
        unit(2, "hard_exudate", 0.9),
    ]
    assert type_channels(units).channels == (1, 2)
