"""An interrupted run ends with the very weights of an undisturbed one; and what a run does to a
model, step by step.
"""

import math

import keras
import numpy as np
import pytest

from dr_lib.evaluation.metrics import evaluate
from dr_lib.network import backend
from dr_lib.network.model import probabilities
from dr_lib.training import (
    BalancedBatches,
    TrainingDiverged,
    TrainingParams,
    train,
    write_weights,
)
from dr_lib.training.checkpoint import read_checkpoint


def tiny(seed=0, dropout=0.2, dtype="float32"):
    """The least model with all that a run must keep: a trunk with running statistics, a dropout's
    counter, a head.

    A real trunk would spend this module's time on compiling sixty layers.
    """
    start = {"kernel_initializer": keras.initializers.GlorotUniform(seed=seed)}
    inputs = keras.Input((32, 32, 3), name="fundus")
    x = keras.layers.Conv2D(6, 3, 4, name="conv", dtype=dtype, **start)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm", dtype=dtype)(x)
    x = keras.layers.Activation("relu", name="stem", dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooled", dtype=dtype)(x)
    x = keras.layers.Dropout(dropout, seed=seed, name="dropout", dtype=dtype)(x)
    x = keras.layers.Dense(8, activation="relu", name="fc1", dtype=dtype, **start)(x)
    return keras.Model(
        inputs, keras.layers.Dense(5, activation="softmax", name="stage", **start)(x)
    )


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    """Bit-identical resuming is promised for deterministic operations on a CPU."""
    backend.configure(deterministic=True)
    keras.utils.set_random_seed(0)


def eyes(each=6, size=32, seed=0):
    """Pixels whose brightness tells their stage, and the stages."""
    stages = np.arange(5).repeat(each)
    noise = np.random.default_rng(seed).integers(0, 60, (len(stages), size, size, 3))
    return (noise + 40 * stages[:, None, None, None]).astype(np.uint8), stages


def short(steps, **settings):
    return TrainingParams(
        **({"schedule": ((steps, 1e-3),), "validate_every": 2, "checkpoint_every": 2} | settings)
    )


def run(model, params, folder=None, on_step=None, fetched=None, validate=True):
    pixels, stages = eyes()

    def fetch(indices):
        if fetched is not None:
            fetched.append(indices.copy())
        return pixels[indices]

    extra = (
        {"validation_fetch": lambda i: pixels[i], "validation_stages": stages} if validate else {}
    )
    return train(model, fetch, stages, params, checkpoint_dir=folder, on_step=on_step, **extra)


def all_variables(model):
    return [np.asarray(variable).copy() for variable in model.variables]


class Interrupted(Exception):
    pass


STRONGER = {
    "loss": "ordinal",
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "freeze_below": "stem",
    "average_decay": 0.9,
    "warmup_steps": 2,
    "final_decay": "cosine",
    "best_by": "auc",
}


@pytest.mark.parametrize(
    ("stop_after", "settings", "dtype"),
    [
        (1, {}, "float32"),
        (4, {}, "float32"),
        (5, STRONGER, "float32"),
        (5, {}, "mixed_bfloat16"),
        (5, {}, "mixed_float16"),
    ],
)
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path, stop_after, settings, dtype
):
    """In every precision: in float16 the scale of the loss, which follows the gradients, must
    come back as well.
    """
    params = short(8, freeze_backbone_steps=3, keep_best=False, **settings)
    undisturbed = tiny(dtype=dtype)
    whole = run(undisturbed, params, tmp_path / "undisturbed")

    def interrupt(report):
        if report.step == stop_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(tiny(dtype=dtype), params, tmp_path / "stopped", interrupt)
    resumed = tiny(dtype=dtype)
    history = run(resumed, params, tmp_path / "stopped")
    assert history.resumed_step == stop_after // 2 * 2
    for one, other in zip(all_variables(undisturbed), all_variables(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    kept = ("step", "loss", "learning_rate", "validation_qwk", "validation_score")
    assert [[row[name] for name in kept] for row in history.rows] == [
        [row[name] for name in kept] for row in whole.rows
    ]
    assert (history.best_qwk, history.chosen_step) == (whole.best_qwk, whole.chosen_step)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, second, fetched = tiny(), tiny(), []
    run(first, short(4), tmp_path)
    history = run(second, short(4), tmp_path, fetched=fetched)
    assert (fetched, history.resumed_step, len(history.rows)) == ([], 4, 4)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_weights_written_are_the_models_alone_and_come_back(tmp_path):
    model, twin = tiny(), tiny(seed=3)
    run(model, short(2), validate=False)
    write_weights(model, tmp_path / "a.weights.h5")
    twin.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # The same weights are the same bytes, whatever the optimiser has seen: the hash is the model's
    # id.
    model.optimizer.iterations.assign(99)
    write_weights(model, tmp_path / "b.weights.h5")
    assert (tmp_path / "b.weights.h5").read_bytes() == (tmp_path / "a.weights.h5").read_bytes()
    model.save_weights(tmp_path / "with-optimiser.weights.h5")
    assert (tmp_path / "a.weights.h5").stat().st_size < (
        tmp_path / "with-optimiser.weights.h5"
    ).stat().st_size


def test_other_settings_other_eyes_and_another_start_do_not_share_a_checkpoint(tmp_path):
    run(tiny(), short(2), tmp_path, validate=False)
    assert run(tiny(), short(2, seed=1), tmp_path, validate=False).resumed_step == 0
    assert run(tiny(seed=1), short(2), tmp_path, validate=False).resumed_step == 0
    assert len(list(tmp_path.iterdir())) == 3
    # How often a checkpoint is written and how many batches wait ready change nothing in the
    # outcome.
    assert (
        run(tiny(), short(2, checkpoint_every=1, prefetch=9), tmp_path, validate=False).resumed_step
        == 2
    )


def test_the_best_validation_kappas_weights_are_kept(tmp_path):
    model, seen = tiny(), {}
    history = run(
        model,
        short(10, validate_every=1),
        tmp_path,
        lambda report: seen.update({report.step: model.get_weights()}),
    )
    kappas = [row["validation_qwk"] for row in history.rows]
    assert history.best_qwk == max(kappa for kappa in kappas if not math.isnan(kappa))
    assert history.chosen_step == kappas.index(history.best_qwk) + 1
    for got, wanted in zip(model.get_weights(), seen[history.chosen_step], strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert len(list(tmp_path.rglob("best-*.npz"))) == 1


def test_the_best_may_be_chosen_by_another_measure_than_kappa(tmp_path):
    model, pixels, stages = tiny(), *eyes()
    found = {}

    def note(report):
        found[report.step] = evaluate(stages, probabilities(model, pixels)).ranking

    history = run(
        model, short(8, validate_every=1, best_by="auc", schedule=((8, 1e-2),)), on_step=note
    )
    scores = [row["validation_score"] for row in history.rows]
    assert scores == pytest.approx(list(found.values()), abs=1e-12)
    assert history.chosen_step == scores.index(max(scores)) + 1
    assert history.best_qwk == history.rows[history.chosen_step - 1]["validation_qwk"]


def test_averaged_weights_are_validated_and_kept_and_the_run_goes_on_with_its_own(tmp_path):
    raw, kappas = [], []
    plain, averaged = tiny(), tiny()
    run(plain, short(11, keep_best=False), on_step=lambda _: raw.append(plain.get_weights()))
    history = run(
        averaged,
        short(11, keep_best=False, average_decay=0.9, validate_every=11),
        on_step=lambda r: kappas.append(r.validation_qwk),
    )
    # After mini-batches 1, 6 and 11, each counting 0.9^5 of the next; the loss tells that the steps
    # in between are the plain ones.
    share = 0.9**5
    for got, first, second, third in zip(
        averaged.get_weights(), raw[0], raw[5], raw[10], strict=True
    ):
        wanted = (share**2 * first + share * second + third) / (share**2 + share + 1)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)  # float32, three steps
    pixels, stages = eyes()
    assert kappas[-1] == evaluate(stages, probabilities(averaged, pixels)).values["qwk"]
    assert history.chosen_step == 11


def test_decay_shrinks_kernels_only_and_none_that_stays():
    # At a rate that moves nothing by itself but for the decay: 1e-3 · 0.5 of every kernel, a
    # mini-batch.
    model, start = tiny(), tiny()
    settings = {
        "optimizer": "adamw",
        "weight_decay": 0.5,
        "clip_norm": 1e-12,
        "freeze_below": "stem",
    }
    run(model, short(1, **settings), validate=False)
    for name, factor in (("conv", 1.0), ("fc1", 1 - 5e-4), ("stage", 1 - 5e-4)):
        kernel, bias = model.get_layer(name).get_weights()
        before, bias_before = start.get_layer(name).get_weights()
        # Adam divides by the gradient's own length + 1e-7: a gradient of 1e-12 moves a weight by
        # 1e-8 at most.
        np.testing.assert_allclose(kernel, before * np.float32(factor), rtol=1e-6, atol=2e-8)
        np.testing.assert_allclose(bias, bias_before, atol=2e-8)


@pytest.mark.parametrize(("batch_norm", "follows"), [("adapt", True), ("frozen", False)])
def test_below_a_layer_no_weight_changes_and_statistics_follow_only_if_asked_to(
    batch_norm, follows
):
    model, start = tiny(), tiny()
    run(model, short(3, freeze_below="stem", batch_norm=batch_norm), validate=False)
    for after, before in zip(
        model.get_layer("conv").get_weights(), start.get_layer("conv").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(after, before)
    scale, offset, mean, variance = model.get_layer("norm").get_weights()
    assert (scale == 1).all()
    assert (offset == 0).all()
    assert (mean != 0).any() == (variance != 1).any() == follows
    assert not np.array_equal(
        model.get_layer("fc1").get_weights()[0], start.get_layer("fc1").get_weights()[0]
    )


def test_a_layer_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="no layer 'mixed9'"):
        run(tiny(), short(1, freeze_below="mixed9"))


def test_the_reports_tell_step_rate_and_loss_of_each_mini_batch():
    reports = []
    params = TrainingParams(schedule=((2, 1e-3), (3, 1e-4)), validate_every=2)
    history = run(tiny(), params, on_step=reports.append)
    rates = (1e-3, 1e-3, 1e-4, 1e-4, 1e-4)
    assert [(r.step, r.learning_rate) for r in reports] == list(enumerate(rates, 1))
    assert [r.validation_qwk is not None for r in reports] == [False, True, False, True, True]
    assert [row["loss"] for row in history.rows] == [r.loss for r in reports]


def test_the_loss_is_the_mini_batchs_own_and_the_rate_is_applied():
    # One step of plain descent from known weights: the update of the last bias is −rate · mean(p −
    # target).
    params = short(
        1, optimizer="sgd", clip_norm=0.0, label_smoothing=0.1, augment=False, schedule=((1, 0.5),)
    )
    model = tiny(dropout=0.0)
    twin = tiny(dropout=0.0)
    pixels, stages = eyes()
    batch = BalancedBatches(stages, params).batch(0)
    inputs = (pixels[batch].astype(np.float32) - 128) / 128
    answer = np.asarray(twin(inputs, training=True), np.float64)
    target = np.eye(5)[stages[batch]] * 0.9 + 0.02
    history = run(model, params, validate=False)
    # Float32 through a dozen layers.
    assert history.rows[0]["loss"] == pytest.approx(
        -(target * np.log(answer)).sum(axis=1).mean(), rel=1e-5
    )
    slope = (answer - target).mean(axis=0)
    # Nesterov's first step from rest: (1 + 0.9) times the plain one.
    np.testing.assert_allclose(
        model.get_layer("stage").get_weights()[1], -0.5 * 1.9 * slope, rtol=1e-4, atol=1e-6
    )


def test_smoothing_is_spread_over_all_stages_and_clipping_shortens_the_step():
    model = tiny()
    before = model.get_weights()
    run(model, short(1, optimizer="sgd", clip_norm=1e-3, schedule=((1, 1.0),)), validate=False)
    trainable = {id(weight) for weight in model.trainable_weights}
    moved = [
        np.linalg.norm(new - old)
        for old, new, weight in zip(before, model.get_weights(), model.weights, strict=True)
        if id(weight) in trainable
    ]
    # The whole gradient has length 0.001, times 1.9 for Nesterov's first step.
    assert math.hypot(*moved) == pytest.approx(1.9e-3, rel=1e-3)


def test_a_frozen_trunk_stays_and_then_learns():
    model, stem = tiny(), []
    run(
        model,
        short(4, freeze_backbone_steps=2),
        on_step=lambda _: stem.append(model.get_layer("conv").get_weights()[0]),
    )
    start = tiny().get_layer("conv").get_weights()[0]
    assert np.array_equal(stem[0], start)
    assert np.array_equal(stem[1], start)
    assert not np.array_equal(stem[2], start)


@pytest.mark.parametrize(("batch_norm", "moves"), [("adapt", True), ("frozen", False)])
def test_the_running_statistics_follow_only_when_asked_to(batch_norm, moves):
    model = tiny()
    before = model.get_layer("norm").get_weights()
    run(model, short(2, batch_norm=batch_norm), validate=False)
    after = model.get_layer("norm").get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)) == moves


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    pixels, stages = eyes()
    model = tiny()

    def poison(report):
        if report.step == 5:
            model.get_layer("stage").set_weights(
                [np.full_like(w, np.nan) for w in model.get_layer("stage").get_weights()]
            )

    with pytest.raises(
        TrainingDiverged,
        match=r"mini-batch 6 .* after 4 mini-batches is kept: lower the learning rate",
    ):
        train(
            model, lambda i: pixels[i], stages, short(20), checkpoint_dir=tmp_path, on_step=poison
        )
    (kept,) = tmp_path.rglob("checkpoint.npz")
    assert all(
        np.isfinite(array).all()
        for array in read_checkpoint(kept).arrays
        if array.dtype.kind == "f"
    )


def test_a_missing_stage_is_refused_before_any_pixel_is_fetched():
    fetched = []
    with pytest.raises(ValueError, match="stage 3"):
        train(tiny(), fetched.append, np.array([0, 1, 2, 4]), short(2))
    assert not fetched


def test_a_failing_reader_is_not_swallowed():
    def torn(_):
        raise OSError("shard 3 is torn")

    with pytest.raises(OSError, match="shard 3 is torn"):
        train(tiny(), torn, np.arange(5), short(2))


def test_mixed_precision_with_scaled_loss_learns():
    model = tiny(dtype="mixed_float16")
    history = run(model, short(3), validate=False)
    # The optimiser scales the loss by 32768 inside; the number reported must be the loss itself.
    assert all(0 < row["loss"] < 10 for row in history.rows)
    assert not np.array_equal(
        model.get_layer("stage").get_weights()[0],
        tiny(dtype="mixed_float16").get_layer("stage").get_weights()[0],
    )


def test_a_bright_and_a_dark_stage_are_told_apart_after_forty_mini_batches():
    model = tiny()
    pixels, stages = eyes(each=12)
    unseen, unseen_stages = eyes(each=8, seed=9)
    history = train(
        model,
        lambda i: pixels[i],
        stages,
        short(40, schedule=((40, 2e-2),), validate_every=40, augment=False),
        validation_fetch=lambda i: unseen[i],
        validation_stages=unseen_stages,
    )
    assert history.best_qwk > 0.8
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
