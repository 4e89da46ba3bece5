"""The audit of maps: closed forms of what is asked of one map, and networks whose answers are
known.
"""

import itertools

import keras
import numpy as np
import pytest

from dr_lib.evaluation.unusual_eyes import unusual_distances
from dr_lib.localisation import audit_measures as measures
from dr_lib.localisation.audit import Auditor, AuditParams, randomised_layers
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build, scaled
from dr_lib.vocabulary import HALF_GRAY

SIZE = 32
CROP = 0.1
SMALL = ModelParams(backbone="small", input_size=SIZE, dense=(8,), seed=1)
GRAY = np.full((SIZE, SIZE, 3), HALF_GRAY, np.uint8)
INSIDE = np.ones((SIZE, SIZE), bool)
TERMS = np.array([[1.0, -2.0], [4.0, 3.0]])  # of a linear function, pixel by pixel
X = np.ones((2, 2, 3), np.float32)


def disturbed(fundus, inside):
    return measures.disturbed(fundus, inside, np.random.default_rng(0))


def areas(ranking, shares):
    """The two areas of the function whose terms are known, under a ranking of its four pixels."""
    shown = measures.masked(X, ranking, np.ones((2, 2), bool), shares[1:-1])
    inner = (shown[..., 0] * TERMS).sum(axis=(1, 2))[:, None]
    return measures.masking_areas(inner, np.zeros(1), np.array([TERMS.sum()]), shares)[:, 0]


# Insertion and deletion


def test_a_linear_functions_terms_are_shown_and_taken_away_largest_first():
    # Shown as 4, 3, 1, −2 the function goes 0, 4, 7, 8, 6; taken away it goes 6, 2, −1, −2, 0.
    quarters = np.linspace(0, 1, 5)
    np.testing.assert_allclose(
        areas(TERMS, quarters), [(4 + 7 + 8 + 6 / 2) / 4, (6 / 2 + 2 - 1 - 2) / 4]
    )


def test_the_true_map_beats_every_ranking_and_their_mean_by_a_known_amount():
    """Of all rankings the mean curve is a straight line from 0 to 6: a mean area of 3."""
    quarters = np.linspace(0, 1, 5)
    rankings = itertools.permutations(np.arange(4.0))
    every = np.array([areas(np.reshape(one, (2, 2)), quarters) for one in rankings])
    insertion, deletion = areas(TERMS, quarters)
    assert insertion == every[:, 0].max() > every[:, 0].min()
    assert deletion == every[:, 1].min()
    np.testing.assert_allclose(every.mean(axis=0), 3)
    np.testing.assert_allclose([insertion - 3, 3 - deletion], 2.5)


def test_hidden_pixels_are_half_gray_in_all_colours_and_so_is_what_lies_outside():
    inside = np.array([[True, True], [True, False]])
    shown = measures.masked(X, TERMS, inside, np.array([1 / 3]))
    np.testing.assert_array_equal(shown[0, ..., 2], [[0, 0], [1, 0]])
    np.testing.assert_array_equal(shown[1, ..., 0], [[1, 1], [0, 0]])


def test_pixels_of_one_value_are_taken_in_their_order():
    shown = measures.masked(X, np.zeros((2, 2)), np.ones((2, 2), bool), np.array([0.5]))
    np.testing.assert_array_equal(shown[0, ..., 0], [[1, 1], [0, 0]])


# How alike two maps are


def test_a_map_is_like_itself_and_its_negative_alike_but_for_the_signs():
    values = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    same, opposite = (measures.likeness(values, sign * values, INSIDE) for sign in (1, -1))
    np.testing.assert_allclose(list(same.values()), 1)
    np.testing.assert_allclose(list(opposite.values()), [-1, 1, 1])


def test_the_tenths_of_two_unrelated_maps_overlap_by_a_tenth():
    first, second = np.random.default_rng(1).normal(size=(2, 256, 256))
    found = measures.likeness(first, second, np.ones((256, 256), bool))
    np.testing.assert_allclose(list(found.values()), [0, 0, 0.1], atol=0.02)


def test_a_constant_map_and_one_that_is_not_finite_are_like_nothing():
    values = np.random.default_rng(2).normal(size=(SIZE, SIZE))
    for other in (np.zeros_like(values), np.where(values > 2, np.nan, values)):
        assert np.isnan(list(measures.likeness(values, other, INSIDE).values())).all()
    found = measures.likeness(values, values, ~INSIDE)
    assert np.isnan(list(found.values())).all(), "a fundus that shows no retina"


# Places and disturbances


def test_places_without_lesions_are_told_apart():
    size = 128
    fundus = np.full((size, size, 3), 100, np.uint8)
    fundus[60:64, 60:64] = 255
    fundus[90:94, 60:64] = 255, 255, 120  # bright yellow: an exudate
    places = measures.no_lesion_places(fundus, crop=CROP)
    assert list(places) == ["outside", "rim", "reflections"]  # nothing looks like an optic disc
    assert places["reflections"].sum() == 16
    # A circle of 0.9 of half the side, and a ring from 0.9 of that radius on.
    np.testing.assert_allclose(places["outside"].mean(), 1 - np.pi * 0.45**2, atol=0.01)
    np.testing.assert_allclose(places["rim"].mean(), np.pi * 0.45**2 * (1 - 0.81), atol=0.01)


def test_jpeg_of_a_flat_image_changes_nothing_and_noise_has_a_cameras_size():
    found = disturbed(GRAY, INSIDE)
    np.testing.assert_array_equal(found["jpeg"], GRAY)
    noise = found["noise"].astype(float) - HALF_GRAY
    np.testing.assert_allclose(noise.std(), measures.NOISE_LEVELS, rtol=0.05)
    assert all((changed == GRAY).all() for changed in disturbed(GRAY, ~INSIDE).values())


# The audit as a whole


@pytest.fixture(scope="module")
def networks():
    return build(SMALL), build(ModelParams(**{**vars(SMALL), "seed": 2}))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)


def audited(networks, pixels, **settings):
    params = AuditParams(points=2, steps=3, **settings)
    contrast = np.abs(scaled(pixels)).mean(axis=-1)
    auditor = Auditor(*networks, params, 4, crop=CROP)
    return [
        auditor.audit(fundus, 1, {"pixels": one, "lesion": -one})
        for fundus, one in zip(pixels, contrast, strict=True)
    ]


def test_every_test_of_every_map_has_a_number(networks, pixels):
    first, second = audited(networks, pixels)
    assert first.keys() == second.keys()
    tests = ["insertion", "deletion"]
    for source in ("pixels", "lesion"):
        for other in ("random", "contrast"):
            assert all((source, f"{test}_{other}") in first for test in tests)
        assert all((source, f"share_{name}") in first for name in ("outside", "rim"))
        for name in ("noise", "turn", "jpeg"):
            assert (source, f"stable_{name}_top10") in first
    assert ("contrast", "insertion_random") in first
    assert ("contrast", "insertion_contrast") not in first
    assert not any(source == "random" for source, _ in first)
    assert all(np.isfinite(one.value) for one in first.values())
    levels = [f"randomised_{level}" for level in randomised_layers(networks[0])]
    assert levels[0] == "randomised_above_pooled"
    assert levels[-1] == "randomised_everything"
    assert all(first["pixels", level].value < 0.99 for level in levels)


def test_shares_are_of_the_absolute_sum_and_a_map_of_zeros_has_none(networks, pixels):
    params = AuditParams(points=1, steps=2, smoothing_px=0.0)
    maps = np.zeros((2, SIZE, SIZE), np.float32)
    maps[0, 16, 16], maps[0, 16, 2] = 1, -3  # 13.5 px from the centre, of 14.4
    given = {"pixels": maps[0], "lesion": maps[1]}
    found = Auditor(*networks, params, 4, crop=CROP).audit(pixels[0], 1, given)
    rim = measures.no_lesion_places(pixels[0], crop=CROP)["rim"]
    assert found["pixels", "share_rim"] == pytest.approx((0.75, rim.mean()))
    assert ("lesion", "share_rim") not in found


def test_a_map_that_is_the_contrast_is_as_good_as_the_contrast(networks, pixels):
    for eye in audited(networks, pixels):
        assert eye["pixels", "insertion_contrast"].value == pytest.approx(0, abs=1e-7)
        assert eye["pixels", "insertion"].value == pytest.approx(eye["contrast", "insertion"].value)
        gain = eye["pixels", "insertion"].value - eye["pixels", "insertion"].chance
        assert eye["pixels", "insertion_random"].value == pytest.approx(gain)
        loss = eye["pixels", "deletion"].chance - eye["pixels", "deletion"].value
        assert eye["pixels", "deletion_random"].value == pytest.approx(loss)


def test_randomising_nothing_leaves_every_map_as_it_is(networks, pixels, monkeypatch):
    nothing = {"nothing": []}
    monkeypatch.setattr("dr_lib.localisation.audit.randomised_layers", lambda model: nothing)
    for eye in audited(networks, pixels):
        alike = [eye[source, "randomised_nothing"].value for source in ("pixels", "lesion")]
        np.testing.assert_allclose(alike, 1, rtol=1e-12)


def test_layers_are_randomised_from_the_top_down_and_put_back_to_the_bit(
    networks, pixels, monkeypatch
):
    model, _ = networks
    before = {layer.name: layer.get_weights() for layer in model.layers}
    seen = []
    maps = Auditor._maps

    def watched(self, fundus, stage, level=""):
        changed = {
            layer.name
            for layer in model.layers
            if any(
                (a != b).any() for a, b in zip(layer.get_weights(), before[layer.name], strict=True)
            )
        }
        seen.append((level, changed))
        return maps(self, fundus, stage, level)

    monkeypatch.setattr(Auditor, "_maps", watched)
    audited(networks, pixels)
    changed = {level: names for level, names in seen if level}
    assert changed["above_pooled"] == {"fc1", "stage"}
    assert all(names == set() for level, names in seen if not level)
    below = set()
    for names in changed.values():
        assert below < names
        below = names
    for layer in model.layers:
        for now, then in zip(layer.get_weights(), before[layer.name], strict=True):
            np.testing.assert_array_equal(now, then)


def test_weights_are_put_back_after_a_failure_too(networks, pixels, monkeypatch):
    before = networks[0].get_weights()
    maps = Auditor._maps

    def failing(self, fundus, stage, level=""):
        if level:
            raise RuntimeError(level)
        return maps(self, fundus, stage, level)

    monkeypatch.setattr(Auditor, "_maps", failing)
    with pytest.raises(RuntimeError, match="above_pooled"):
        audited(networks, pixels)
    for now, then in zip(networks[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_compiled_function_is_kept_only_where_it_reads_the_weights_anew(
    networks, pixels, monkeypatch
):
    """What JAX needs gives the same numbers on TensorFlow, with more compiling."""
    (usual,) = audited(networks, pixels[:1])
    monkeypatch.setattr(backend, "compiles_weights", lambda: True)
    (other,) = audited(networks, pixels[:1])
    assert other.keys() == usual.keys()
    for key, score in usual.items():
        np.testing.assert_array_equal(other[key], score)


def test_an_eye_has_the_same_measures_whichever_eyes_came_before(networks, pixels):
    (_, second), (alone,) = audited(networks, pixels), audited(networks, pixels[1:])
    for key, score in second.items():
        np.testing.assert_array_equal(alone[key], score)


def test_a_network_without_places_has_maps_that_turn_with_the_eye(pixels):
    """A mean over all pixels does not know where they are: its map of a turned eye is the turned
    map, and the grade stays.
    """

    def network(seed):
        inputs = keras.Input((SIZE, SIZE, 3), name="fundus")
        start = keras.initializers.GlorotUniform(seed=seed)
        stem = keras.layers.Conv2D(4, 1, name="stem", kernel_initializer=start)(inputs)
        mean = keras.layers.GlobalAveragePooling2D(name="pooled")(stem)
        dense = keras.layers.Dense(5, "softmax", name="stage", kernel_initializer=start)
        return keras.Model(inputs, dense(mean))

    for eye in audited((network(1), network(2)), pixels):
        assert eye["pixels", "stable_turn"].value == pytest.approx(1, abs=1e-6)
        assert eye["grade", "stable_turn"].value == 1
        assert eye["pixels", "stable_noise"].value < 1


# Eyes decided in an unusual way


def test_the_unusual_eye_is_the_one_that_was_planted():
    random = np.random.default_rng(4)
    contributions = random.normal(size=(40, 12)).astype(np.float32)
    stages = np.repeat([0, 3], 20)
    contributions[stages == 3] += 50  # usual for its stage, wherever that lies
    contributions[27] = contributions[27] + np.where(np.arange(12) % 2, 6, -6)
    distances = unusual_distances(contributions, stages)
    assert distances.argmax() == 27
    assert np.sort(distances)[-2] < distances[27] / 2


def test_distances_are_in_each_channels_own_spread():
    # One channel: medians 2, deviations 2, 1, 0, 1, 8, whose median is 1: 8 / 1.4826 away.
    found = unusual_distances(np.array([[0.0], [1], [2], [3], [10]]), np.zeros(5, int))
    np.testing.assert_allclose(found[[2, 4]], [0, 8 / 1.4826])
    # In a channel that is the same in most eyes it is the mean deviation, here 10/5.
    found = unusual_distances(np.array([[0.0], [0], [0], [0], [10]]), np.zeros(5, int))
    np.testing.assert_allclose(found[4], 10 / (1.2533 * 2))


def test_few_eyes_and_numbers_that_are_not_finite_have_no_distance():
    contributions = np.random.default_rng(5).normal(size=(10, 3))
    contributions[9, 1] = np.nan
    found = unusual_distances(contributions, np.array([1] * 4 + [2] * 6))
    assert np.isfinite(found).tolist() == [False] * 4 + [True] * 5 + [False]
