"""Distances, similarity and smoothness of a change, against values worked out by hand."""

import numpy as np
import pytest

from dr_lib.perturbation.comparison import (
    DATA_RANGE,
    change_measures,
    distances,
    feature_distances,
    high_frequency_energy,
    ssim,
    total_variation,
)


def wave(size: int, cycles: int, amplitude: float = 0.1) -> np.ndarray:
    """cos along x with a whole number of cycles, so that its energy sits at exactly one
    frequency, cycles / size.
    """
    line = amplitude * np.cos(2 * np.pi * cycles * np.arange(size) / size)
    return np.repeat(np.tile(line, (size, 1))[..., None], 3, axis=2)


def test_distances_by_hand_and_l0_counts_a_position_once():
    before = np.zeros((2, 3, 3), np.float32)
    after = before.copy()
    after[0, 0] = (3.0, -4.0, 0.0)  # two channels of one position
    after[1, 2, 1] = 12.0
    assert distances(before, after) == {"l0_share": 2 / 6, "l1": 19.0, "l2": 13.0, "linf": 12.0}


def test_total_variation_is_the_mean_over_pairs_of_neighbours():
    assert total_variation(np.full((5, 7, 3), 0.3, np.float32)) == 0
    checker = (np.indices((6, 6)).sum(axis=0) % 2)[..., None].astype(np.float32)
    assert total_variation(checker) == 1.0  # every neighbour differs by 1
    step = np.zeros((4, 4, 1), np.float32)
    step[:, 2:] = 1.0  # 4 of the 24 pairs
    assert total_variation(step) == pytest.approx(4 / 24, rel=1e-15)
    assert total_variation(np.ones((1, 1, 3), np.float32)) == 0


@pytest.mark.parametrize(("cycles", "share"), [(2, 0.0), (7, 0.0), (9, 1.0), (16, 1.0)])
def test_high_frequency_energy_of_a_wave_is_all_or_nothing(cycles, share):
    """Frequencies 2/32, 7/32 lie below a quarter, 9/32 and 16/32 above; rounding leaves 1e-30
    elsewhere.
    """
    before = np.zeros((32, 32, 3))
    assert high_frequency_energy(before, wave(32, cycles)) == pytest.approx(share, abs=1e-12)


def test_high_frequency_energy_adds_energies_not_amplitudes():
    """Amplitudes 3 and 4: energies 9 and 16, of which 16 / 25 is high."""
    both = wave(32, 2, 0.3) + wave(32, 12, 0.4)
    assert high_frequency_energy(np.zeros_like(both), both) == pytest.approx(16 / 25, rel=1e-12)


def test_high_frequency_energy_of_white_noise_is_the_area_beyond_the_cutoff():
    noise = np.random.default_rng(0).normal(size=(128, 128, 3))
    # 49,152 independent coefficients: the share's standard error is 0.002.
    assert high_frequency_energy(np.zeros_like(noise), noise) == pytest.approx(
        1 - np.pi / 16, abs=0.01
    )


def test_no_change_has_no_spectrum_and_is_perfectly_similar():
    image = wave(16, 3).astype(np.float32)
    measures = change_measures(image, image.copy())
    assert np.isnan(measures.pop("high_frequency_energy"))
    same = total_variation(image)
    assert measures == {
        "l0_share": 0.0,
        "l1": 0.0,
        "l2": 0.0,
        "linf": 0.0,
        "ssim": 1.0,
        "total_variation_before": same,
        "total_variation_after": same,
    }


def test_ssim_of_two_flat_images_is_its_luminance_term():
    """Without variance only (2ab + c1) / (a² + b² + c1) is left, c1 = (0.01 · range)²."""
    a, b, c1 = 0.5, 0.25, (0.01 * DATA_RANGE) ** 2
    flat = [np.full((16, 16, 3), value, np.float32) for value in (a, b)]
    assert ssim(*flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), rel=1e-6)


def test_ssim_of_images_too_small_or_broken():
    tiny = np.zeros((4, 4, 3), np.float32)
    assert ssim(tiny, tiny.copy()) == 1.0  # a 3 × 3 window fits
    assert np.isnan(ssim(tiny[:2], tiny[:2].copy()))
    assert np.isnan(ssim(tiny, np.full_like(tiny, np.nan)))


def test_images_of_other_shapes_are_refused():
    with pytest.raises((ValueError, TypeError)):
        distances(np.zeros((4, 4, 3), np.float32), np.zeros((4, 5, 3), np.float32))


def test_feature_distances_are_to_the_nearest_and_typical_ones_leave_oneself_out():
    real = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])  # nearest neighbours at 5, 1, 1
    nearest, typical = feature_distances(
        np.array([[0.0, 2.0], [3.0, 4.5]]), real, np.array([-1, -1])
    )
    np.testing.assert_allclose(nearest, [2.0, 0.5], rtol=1e-15)
    assert typical == 1.0
    # What an image was made from does not count: the second lies 0.5 from its own original, and as
    # far from the third.
    nearest, _ = feature_distances(np.array([[0.0, 2.0], [3.0, 4.25]]), real, np.array([-1, 1]))
    np.testing.assert_allclose(nearest, [2.0, 0.75], rtol=1e-15)
    alone, _ = feature_distances(np.array([[1.0, 0.0]]), real[:1], np.array([0]))
    assert np.isnan(alone).all()
    nothing, typical = feature_distances(np.zeros((2, 2)), np.zeros((0, 2)), np.array([-1, -1]))
    assert np.isnan(nothing).all()
    assert np.isnan(typical)
