"""Exact compositions, exact rates, changes that leave the stage alone, pixels in time,
checkpoints that hold.
"""

import dataclasses
import json
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_lib.training import (
    BalancedBatches,
    TrainingParams,
    learning_rate_schedule,
    outcome_settings,
)
from dr_lib.training.augment import augmented, equalised
from dr_lib.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from dr_lib.training.feed import Feed
from dr_lib.training.optimizer import loss_of
from dr_lib.training.params import DEFAULTS_BEFORE_ADDED

POSTER = (8, 1, 2, 1, 4)


def eyes(each=6, size=32, seed=0):
    """Pixels whose brightness tells their stage, and the stages."""
    stages = np.arange(5).repeat(each)
    noise = np.random.default_rng(seed).integers(0, 60, (len(stages), size, size, 3))
    return (noise + 40 * stages[:, None, None, None]).astype(np.uint8), stages


def short(steps, **settings):
    return TrainingParams(
        **({"schedule": ((steps, 1e-3),), "validate_every": 2, "checkpoint_every": 2} | settings)
    )


# --- the learning rate


def test_the_posters_rates_change_at_the_posters_mini_batches():
    rate = learning_rate_schedule(TrainingParams().schedule)
    assert [rate(step) for step in (0, 549, 550, 899, 900, 1394)] == [
        1e-3,
        1e-3,
        2e-4,
        2e-4,
        5e-5,
        5e-5,
    ]
    assert rate.steps == TrainingParams().steps == 1395
    assert rate(1395) == rate(10**6) == 5e-5


@pytest.mark.parametrize("wrong", [(), ((0, 1e-3),), ((5, 0.0),), ((5, -1e-3),)])
def test_a_schedule_without_steps_or_rates_is_refused(wrong):
    with pytest.raises(ValueError, match="schedule"):
        learning_rate_schedule(wrong)


def test_the_first_mini_batches_rise_and_the_last_step_falls_along_half_a_cosine():
    rate = learning_rate_schedule(((10, 1e-3), (6, 6e-4)), warmup_steps=4, final_decay="cosine")
    assert [rate(step) for step in range(6)] == pytest.approx(
        [2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3], rel=1e-12
    )
    # cos(0), cos(60°), cos(90°), cos(120°): 1, 3/4, 1/2, 1/4 of the rate; 0 after the end.
    assert [rate(step) for step in (10, 12, 13, 14, 16, 99)] == pytest.approx(
        [6e-4, 4.5e-4, 3e-4, 1.5e-4, 0, 0], abs=1e-18
    )


# --- the loss


def test_the_ordinal_loss_is_cross_entropy_and_the_squared_distance_of_the_sums():
    target = np.float32([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    predicted = np.float32([[0.5, 0.25, 0.25, 0, 0], [0.25, 0, 0, 0, 0.75]])
    # Sums of the first differ by 0.5, −0.25, 0, 0; of the second by −0.75 four times.
    distance = np.array([0.5**2 + 0.25**2, 4 * 0.75**2])
    entropy = np.array([-math.log(0.25), -math.log(0.25)])
    loss = loss_of(TrainingParams(loss="ordinal", ordinal_weight=2.0))
    np.testing.assert_allclose(loss(target, predicted), entropy + 2 * distance, rtol=1e-6)
    plain = loss_of(TrainingParams())
    assert float(plain(target, predicted)) == pytest.approx(entropy.mean(), rel=1e-6)


def test_the_ordinal_distance_of_certain_grades_is_the_number_of_stages_between():
    target, predicted = np.eye(5, dtype=np.float32)[[0] * 5], np.eye(5, dtype=np.float32)
    twice, once = (
        np.asarray(loss_of(TrainingParams(loss="ordinal", ordinal_weight=w))(target, predicted))
        for w in (2.0, 1.0)
    )
    np.testing.assert_allclose(
        twice - once, [0, 1, 2, 3, 4], atol=1e-5
    )  # beside a cross-entropy of 16


# --- the settings that decide an outcome


def test_ids_of_models_older_than_a_setting_stay():
    first_settings = {
        "batch_size", "composition", "schedule", "augment", "seed", "optimizer", "batch_norm", "freeze_backbone_steps",
        "label_smoothing", "clip_norm", "validate_every", "keep_best",
    }  # fmt: skip
    assert set(outcome_settings(TrainingParams())) == first_settings
    assert set(outcome_settings(TrainingParams(loss="ordinal", prefetch=9))) == first_settings | {
        "loss"
    }


def test_a_renamed_setting_keeps_its_name_in_ids():
    settings = outcome_settings(TrainingParams(final_decay="cosine"))
    assert settings["last_stair"] == "cosine"
    assert "final_decay" not in settings


def test_every_later_setting_is_listed_with_its_default():
    fields = {field.name: field.default for field in dataclasses.fields(TrainingParams)}
    assert {name: fields[name] for name in DEFAULTS_BEFORE_ADDED} == DEFAULTS_BEFORE_ADDED


# --- the mini-batches


@given(st.integers(1, 3), st.integers(0, 5000), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_mini_batch_has_exactly_the_composition(sixteens, step, seed):
    stages = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [73, 7, 15, 3, 2]))
    batches = BalancedBatches(stages, TrainingParams(batch_size=16 * sixteens, seed=seed))
    assert tuple(np.bincount(stages[batches.batch(step)])) == tuple(
        sixteens * count for count in POSTER
    )


@pytest.mark.parametrize("members", [1, 3, 8, 13])
def test_a_stage_is_used_up_before_any_of_its_eyes_comes_again(members):
    stages = np.concatenate([np.zeros(members, int), [1, 2, 3, 4]])
    batches = BalancedBatches(stages, TrainingParams(schedule=((members * 3, 1e-3),)))
    dealt = [
        index for step in range(members * 3) for index in batches.batch(step) if stages[index] == 0
    ]
    assert len(dealt) == 8 * members * 3
    decks = [tuple(dealt[start : start + members]) for start in range(0, len(dealt), members)]
    # A batch mixes what it was dealt, so decks are compared as sets where a batch holds several, in
    # whole batches.
    whole = math.lcm(8, members)
    for start in range(0, len(dealt), whole):
        np.testing.assert_array_equal(
            np.bincount(dealt[start : start + whole], minlength=members), whole // members
        )
    if members == 8:
        assert all(sorted(deck) == list(range(8)) for deck in decks)
        assert len(set(decks)) == len(decks)


def test_every_prefix_uses_each_eye_of_a_stage_equally_often_but_for_one():
    stages = np.repeat(np.arange(5), [20, 5, 7, 3, 6])
    used = np.zeros(len(stages), int)
    batches = BalancedBatches(stages, TrainingParams(seed=4))
    for step in range(60):
        np.add.at(used, batches.batch(step), 1)
        for stage in range(5):
            counts = used[stages == stage]
            assert counts.max() - counts.min() <= 1


def test_a_batch_depends_on_seed_and_step_alone():
    stages = np.repeat(np.arange(5), 9)
    first, second = (BalancedBatches(stages, short(6, seed=2)) for _ in range(2))
    in_order = [first.batch(step) for step in range(6)]
    for step in reversed(range(6)):
        np.testing.assert_array_equal(second.batch(step), in_order[step])
    assert any(
        (first.batch(s) != BalancedBatches(stages, short(6, seed=3)).batch(s)).any()
        for s in range(6)
    )


def test_stages_without_eyes_are_refused_by_name():
    with pytest.raises(ValueError, match="no training eye of stage 1, 4,"):
        BalancedBatches(np.array([0, 0, 2, 3]), TrainingParams())
    # A stage of which no batch wants any may be missing.
    BalancedBatches(np.array([0, 4]), TrainingParams(composition=(8, 0, 0, 0, 8)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 24}, "multiple of 16"),
        ({"batch_size": 0}, "multiple of 16"),
        ({"composition": (8, 1, 2, 1, 5)}, "add up to 16"),
        ({"composition": (17, -1, 0, 0, 0)}, "add up to 16"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"clip_norm": -1.0}, "no limit"),
        ({"validate_every": 0}, "validate_every"),
        ({"seed": -1}, "seed"),
        ({"average_decay": 1.0}, "average_decay .* below 1"),
        ({"ordinal_weight": -1.0}, "ordinal_weight"),
        ({"balance_sources": 1.5}, "balance_sources"),
        ({"weight_decay": 0.01}, 'weight_decay needs optimizer = "adamw"'),
        ({"warmup_steps": 1395}, "below the schedule's 1395 mini-batches"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingParams(**wrong)


# --- sources


def two_sources():
    """Stage 0: 40 eyes of a, 10 of b; the other stages: 8 of a alone."""
    stages = np.concatenate([np.zeros(50, int), np.arange(1, 5).repeat(8)])
    sources = np.where((np.arange(len(stages)) >= 40) & (stages == 0), "b", "a")
    return stages, sources


@pytest.mark.parametrize(("balance", "of_b"), [(0.0, 10 / 50), (1.0, 40 / 80), (0.5, 20 / 60)])
def test_a_stages_eyes_come_from_its_sources_as_evenly_as_asked(balance, of_b):
    stages, sources = two_sources()
    params = short(30, balance_sources=balance)
    batches = BalancedBatches(stages, params, sources)
    # Whole decks: 30 batches of 8 are 240 eyes of stage 0, 3 decks of 80 or 4 of 60.
    dealt = np.concatenate([batch[stages[batch] == 0] for batch in map(batches.batch, range(30))])
    if balance:
        assert np.mean(sources[dealt] == "b") == of_b
        assert len(np.unique(dealt)) == 50
    else:
        np.testing.assert_array_equal(batches.batch(7), BalancedBatches(stages, params).batch(7))
    for step in range(3):
        assert np.bincount(stages[batches.batch(step)]).tolist() == list(POSTER)


def test_no_eye_of_a_tiny_source_is_shown_every_other_mini_batch():
    stages, sources = two_sources()
    sources[40:50] = ["b", *["a"] * 9]
    batches = BalancedBatches(stages, short(100, balance_sources=1.0), sources)
    # One eye against 49: on eight cards of 57, not on half of them.
    dealt = np.concatenate([batches.batch(step) for step in range(100)])
    dealt = dealt[stages[dealt] == 0]
    assert np.mean(sources[dealt] == "b") == pytest.approx(8 / 57, abs=0.01)


# --- augmentation


def disc(size=64):
    """A half-gray image with a bright quarter of a disc: its pose can be told."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.full((size, size, 3), 128, np.uint8)
    image[(np.hypot(y, x) < 0.4 * size) & (y < 0) & (x < 0)] = 200
    return image[np.newaxis]


def test_what_lies_outside_the_disc_stays_exactly_half_gray():
    y, x = np.mgrid[:64, :64] - 31.5
    pixels = np.full((40, 64, 64, 3), 128, np.uint8)
    pixels[:, np.hypot(y, x) < 25] = np.random.default_rng(0).integers(0, 256, (40, 1, 3))
    changed = augmented(pixels, (3,))
    # 25 px times the largest zoom 1.08, and one pixel of interpolation.
    assert (changed[:, np.hypot(y, x) > 25 * 1.08 + 1] == 128).all()
    assert (changed != pixels).any()


def test_an_image_of_half_gray_is_left_as_it_is():
    flat = np.full((3, 32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(augmented(flat, (1,)), flat)


@pytest.fixture
def no_zoom_no_tone(monkeypatch):
    for factor in ("ZOOM", "CONTRAST", "TONE"):
        monkeypatch.setattr(f"dr_lib.training.augment.{factor}", 0.0)


def test_poses_cover_every_quarter_turned_and_mirrored(no_zoom_no_tone):
    y, x = np.mgrid[:64, :64] - 31.5
    angles = []
    for image in augmented(disc().repeat(200, axis=0), (0,)):
        bright = image[..., 0].astype(float) - 128
        angles.append(math.atan2((bright * y).sum(), (bright * x).sum()))
    # Uniform angles: 25 of 200 in each eighth, give or take three standard deviations (14).
    assert np.histogram(angles, 8, (-math.pi, math.pi))[0].min() >= 11


def test_a_mirror_mirrors_about_the_middle_and_else_nothing_changes(no_zoom_no_tone, monkeypatch):
    monkeypatch.setattr("dr_lib.training.augment.DEGREES", 0.0)
    pixels, _ = eyes(each=1)
    kinds = set()
    for seed in range(8):
        changed = augmented(pixels[:1], (seed,))
        kinds.add("same" if np.array_equal(changed, pixels[:1]) else "mirrored")
        assert np.array_equal(changed, pixels[:1]) or np.array_equal(changed, pixels[:1, :, ::-1])
    assert kinds == {"same", "mirrored"}


def test_another_camera_changes_colours_and_sharpness_but_no_half_gray_and_no_pose():
    pixels = np.full((60, 64, 64, 3), 128, np.uint8)
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.hypot(y, x) < 25
    pixels[:, disc] = np.random.default_rng(0).integers(60, 200, (disc.sum(), 3))
    plain, other = augmented(pixels, (3,)), augmented(pixels, (3,), 1.0)
    assert (other[:, np.hypot(y, x) > 25 * 1.08 + 4] == 128).all()  # the blur reaches 4 px

    def contrasts(images):
        return images[:, 24:40, 24:40].reshape(60, -1, 3).std(axis=1)

    assert np.ptp(contrasts(other)) > 2 * np.ptp(contrasts(plain))
    np.testing.assert_array_equal(augmented(pixels, (3,), 0.0), plain)


def test_anequalised_copy_uses_all_values_on_both_sides_of_half_gray():
    image = np.random.default_rng(0).integers(100, 151, (64, 64, 3)).astype(np.uint8)
    equal = equalised(image)
    assert equal.min() < 10
    assert equal.max() == 255
    np.testing.assert_array_equal(equal == 128, image == 128)
    flat = np.full((8, 8, 3), 128, np.uint8)
    np.testing.assert_array_equal(equalised(flat), flat)


def test_augmentation_is_a_pure_function_of_its_seed():
    pixels, _ = eyes()
    kept = pixels.copy()
    np.testing.assert_array_equal(augmented(pixels, (0, 7, 3)), augmented(pixels, (0, 7, 3)))
    assert (augmented(pixels, (0, 7, 3)) != augmented(pixels, (0, 7, 4))).any()
    np.testing.assert_array_equal(pixels, kept)


# --- the feed


def test_items_come_in_order_and_never_more_than_asked_for_ahead():
    made, taken, ahead = [], [], []

    def make(step):
        made.append(step)
        return step

    with Feed(make, 3, 20, 4) as feed:
        for item in feed:
            taken.append(item)
            ahead.append(len(made) - len(taken))
    assert taken == made == list(range(3, 20))
    assert max(ahead) <= 4


def test_items_are_prepared_while_the_taker_works():
    def make(step):
        time.sleep(0.02)
        return step

    with Feed(make, 0, 6, 2) as feed:
        for _ in feed:
            time.sleep(0.06)
    # Only the first of six items had to be waited for: in turn they would take 0.12 s.
    assert feed.waited_s < 0.06


def test_several_threads_prepare_at_once_and_items_still_come_in_order():
    together, most = [], []

    def make(step):
        together.append(step)
        most.append(len(together))
        time.sleep(0.02 if step % 3 == 0 else 0.001)
        together.remove(step)
        return step

    with Feed(make, 0, 12, 2, workers=3) as feed:
        assert list(feed) == list(range(12))
    assert max(most) > 1


def test_a_failure_in_the_background_is_raised_in_front_and_leaves_no_thread():
    def make(step):
        if step == 2:
            raise OSError("torn shard")
        return step

    taken = []

    def take():
        with Feed(make, 0, 9, 3) as feed:
            taken.extend(feed)

    with pytest.raises(OSError, match="torn shard"):
        take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


# --- the checkpoint


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    arrays = [np.float32([1 / 3, np.inf]), np.array(7, np.uint32), np.zeros((0, 2), np.float16)]
    write_checkpoint(
        tmp_path / "a" / "c.npz",
        Checkpoint(arrays, {"step": 3, "rows": [{"loss": 0.1, "qwk": None}]}),
    )
    back = read_checkpoint(tmp_path / "a" / "c.npz")
    assert back.state == {"step": 3, "rows": [{"loss": 0.1, "qwk": None}]}
    for old, new in zip(arrays, back.arrays, strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c.npz"]


def test_no_checkpoint_is_none_and_a_torn_one_is_a_clear_line(tmp_path):
    path = tmp_path / "c.npz"
    assert read_checkpoint(path) is None
    write_checkpoint(path, Checkpoint([np.arange(1000.0)], {}))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"c\.npz is not a training checkpoint"):
        read_checkpoint(path)


def test_a_pickled_array_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, state=np.array(json.dumps({})), array0=np.array([{"code": 1}], object))
    with pytest.raises(ValueError, match="not a training checkpoint"):
        read_checkpoint(path)
