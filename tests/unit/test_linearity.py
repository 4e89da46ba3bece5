"""The linearity study on a network into which every kind of unit is built by hand."""

import numpy as np
import pandas as pd
import pytest

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.linearity import (
    LinearityParams,
    engine_average_gradient,
    linearity_study,
    trunk,
    unit_verdicts,
)
from dr_lib.linearity.study import COLUMNS, baseline_effect

SIDE = 8
INSIDE = visible_disc(SIDE, crop=0.1)
# Seven units; t is the mean of the disc's red channel, which the attack raises; k is a corner that
# it may not touch.
LINEAR, CONSTANT, REVERSED, SATURATING, DEAD, IGNORED, NONLINEAR = range(7)
PARAMS = LinearityParams(layers=("fc1",), smallest_strength=2.0**-8, strengths=8)


def lower(images):
    t, k = images[:, INSIDE, 0].mean(axis=1), images[:, 0, 0, 0]
    return np.stack([t, k, -0.3 * t, 10 * t, np.zeros_like(t), t, t], axis=1)


def upper(h):
    f = (
        0.5 * h[:, LINEAR]
        + 0.3 * h[:, CONSTANT]
        + 0.5 * h[:, REVERSED]
        + 0.1 * np.tanh(h[:, SATURATING])
        + h[:, NONLINEAR] ** 2
    )
    return np.stack([1 - f, f], axis=1)


def upper_gradient(h):
    slope = np.zeros_like(h)
    slope[:, LINEAR], slope[:, CONSTANT], slope[:, REVERSED] = 0.5, 0.3, 0.5
    slope[:, SATURATING] = 0.1 / np.cosh(h[:, SATURATING]) ** 2
    slope[:, NONLINEAR] = 2 * h[:, NONLINEAR]
    return slope


def midpoints(above, stage, inputs, baseline, points=400):
    """∫ of the hand-written gradient of the outcome."""
    assert above is upper
    assert stage == 1
    alphas = (np.arange(points) + 0.5) / points
    return np.mean([upper_gradient(baseline + a * (inputs - baseline)) for a in alphas], axis=0)


def gradient(images, target_stage):
    assert target_stage == 1
    slope = np.zeros_like(images)
    slope[..., 0] = 0.01
    return slope


def eyes(*levels):
    images = np.zeros((len(levels), SIDE, SIDE, 3), np.float32)
    for image, level in zip(images, levels, strict=True):
        image[INSIDE] = level
        image[0, 0, 0] = 0.5
    return images


def study(images, ids, **changes):
    blank = np.zeros((SIDE, SIDE, 3), np.float32)
    settings = {"gradient": gradient, "average_gradient": midpoints, **changes}
    return linearity_study(
        *(ids, images, blank),
        lower=lambda x: {"fc1": lower(x)},
        uppers={"fc1": upper},
        params=PARAMS,
        **settings,
        inside=INSIDE,
    )


@pytest.fixture(scope="module")
def rows():
    return study(eyes(0.1, 0.2), ["1_left", "1_right"])


def test_the_study_s_numbers_are_the_closed_forms_at_every_strength(rows):
    """Every unit sees the mean rise by exactly c; its average gradient is (f(h) − f(0)) / h for
    its own term f.
    """
    assert list(rows.columns) == list(COLUMNS)
    assert len(rows) == 2 * 9 * 7
    assert sorted(rows["strength"].unique()) == [0.0, *(2.0**-k for k in range(8, 0, -1))]
    for start, image_id in ((0.1, "1_left"), (0.2, "1_right")):
        for c in PARAMS.grid:
            part = rows[(rows["image_id"] == image_id) & (rows["strength"] == c)].set_index("unit")
            t = start + c
            difference = np.array([t, 0.5, -0.3 * t, 10 * t, 0, t, t])
            attribution = np.array([0.5 * t, 0.15, -0.15 * t, 0.1 * np.tanh(10 * t), 0, 0, t * t])
            np.testing.assert_allclose(
                part["activation_difference"], difference, rtol=1e-6, atol=1e-6
            )  # float32 images
            np.testing.assert_allclose(
                part["attribution"], attribution, atol=3e-5
            )  # 400 midpoints of sech² up to h = 7
            np.testing.assert_allclose(
                part["mean_gradient"] * part["activation_difference"],
                part["attribution"],
                atol=1e-12,
            )
            # Completeness: nothing of the outcome is lost between the units.
            assert part["attribution"].sum() == pytest.approx(
                part["outcome"].iloc[0] - upper(np.zeros((1, 7)))[0, 1], abs=3e-5
            )


def test_each_kind_of_unit_built_in_by_hand_gets_its_verdict(rows):
    table = unit_verdicts(rows, PARAMS).set_index("unit")
    expected = {
        LINEAR: "linear",
        CONSTANT: "constant",
        REVERSED: "reversed",
        SATURATING: "saturating",
        DEAD: "dead",
        IGNORED: "dead",
        NONLINEAR: "nonlinear",
    }
    assert table["verdict"].to_dict() == expected
    assert (table["images"] == 2).all()
    assert (table["layer"] == "fc1").all()
    assert table.loc[LINEAR, "slope"] == pytest.approx(0.5, rel=1e-12)
    assert table.loc[LINEAR, "r2"] == pytest.approx(1, abs=1e-12)
    assert table.loc[LINEAR, "gradient_variation"] == pytest.approx(0, abs=1e-12)
    assert table.loc[SATURATING, "gradient_variation"] > PARAMS.gradient_bound
    assert np.isnan(table.loc[DEAD, "slope"])
    assert np.isnan(table.loc[DEAD, "gradient_variation"])
    assert table.loc[LINEAR, "strongest_image_id"] == "1_right"
    assert table.loc[CONSTANT, "moved_share"] == 0
    assert (
        table.loc[LINEAR, "outcome_correlation"]
        > 0.9
        > -0.9
        > table.loc[REVERSED, "outcome_correlation"]
    )
    mean = np.mean([0.5 * (start + c) for start in (0.1, 0.2) for c in PARAMS.grid])
    assert table.loc[LINEAR, "mean_attribution"] == pytest.approx(mean, abs=1e-6)


def test_how_far_a_unit_is_linear_is_the_largest_strength_at_which_it_still_would_count_as_such(
    rows,
):
    """tanh(10 t) bends at once; t² from 0.1 on has the gradient t, whose variation passes the
    bound between two strengths.
    """
    table = unit_verdicts(rows, PARAMS).set_index("unit")
    assert table.loc[LINEAR, "linear_up_to"] == PARAMS.grid[-1]
    assert np.isnan(table.loc[[CONSTANT, REVERSED, DEAD], "linear_up_to"]).all()
    found = table.loc[NONLINEAR, "linear_up_to"]
    allowed = []
    for last in range(1, len(PARAMS.grid)):
        t = np.add.outer([0.1, 0.2], PARAMS.grid[: last + 1])
        slope = (t**3).sum(axis=1) / (t**2).sum(axis=1)
        centred = t**2 - (t**2).mean(axis=1, keepdims=True)
        r2 = 1 - ((t**2 - slope[:, None] * t) ** 2).sum() / (centred**2).sum()
        moved = np.ptp(t, axis=1).sum() / t.max(axis=1).sum()
        if t.std(axis=1).sum() / t.mean(axis=1).sum() <= 0.2 and r2 >= 0.9 and moved > 0.05:
            allowed.append(PARAMS.grid[last])
    assert (np.isnan(found) and not allowed) or found == max(allowed)


def test_gradient_variation_and_r2_by_hand():
    """One eye, two strengths: gradients 1 and 3 (mean 2, spread 1), A = gD with D = 1, 2: slope
    (1 + 12) / 5, A = 1, 6.
    """
    rows = pd.DataFrame(
        {
            "image_id": "7_left",
            "layer": "fc2",
            "unit": 4,
            "strength": [0.0, 1.0],
            "activation_difference": [1.0, 2.0],
            "mean_gradient": [1.0, 3.0],
            "attribution": [1.0, 6.0],
            "outcome": [0.1, 0.9],
        }
    )
    (row,) = unit_verdicts(rows, PARAMS).to_dict("records")
    slope = 13 / 5
    assert row["gradient_variation"] == pytest.approx(0.5, rel=1e-12)
    assert row["slope"] == pytest.approx(slope, rel=1e-12)
    assert row["r2"] == pytest.approx(
        1 - ((1 - slope) ** 2 + (6 - 2 * slope) ** 2) / (2 * 2.5**2), rel=1e-12
    )
    assert (row["layer"], row["unit"], row["verdict"], row["strongest_image_id"]) == (
        "fc2",
        4,
        "nonlinear",
        "7_left",
    )


def test_verdicts_do_not_depend_on_the_order_of_rows(rows):
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(unit_verdicts(rows, PARAMS), unit_verdicts(shuffled, PARAMS))


def test_thresholds_decide(rows):
    loose = LinearityParams(layers=("fc1",), gradient_bound=1.0, least_r2=0.0)
    assert unit_verdicts(rows, loose).set_index("unit").loc[NONLINEAR, "verdict"] == "linear"


def test_a_missing_row_is_refused_because_spreads_would_compare_unlike_things(rows):
    with pytest.raises(ValueError, match="same strengths and units"):
        unit_verdicts(rows.drop(index=rows.index[5]), PARAMS)
    with pytest.raises(ValueError, match="same strengths and units"):
        unit_verdicts(pd.concat([rows, rows.iloc[:1]]), PARAMS)


def test_an_eye_with_a_non_finite_gradient_has_no_rows_and_no_eye_no_table():
    def broken(images, target_stage):
        slope = gradient(images, target_stage)
        slope[images[:, INSIDE, 0].mean(axis=1) > 0.15, 3, 3, 0] = np.nan
        return slope

    rows = study(eyes(0.1, 0.2), ["1_left", "1_right"], gradient=broken)
    assert set(rows["image_id"]) == {"1_left"}
    empty = study(eyes(0.2), ["1_right"], gradient=broken)
    assert (len(empty), list(empty.columns)) == (0, list(COLUMNS))
    assert len(unit_verdicts(empty, PARAMS)) == 0
    assert len(study(eyes(), [])) == 0


def test_a_convolutional_layer_s_unit_is_a_channel_with_sums_over_positions():
    """Identity layer, F = Σ w_c · Σ_positions h: gradient w_c a position, so n·w_c for the
    channel.
    """
    weights = np.array([1.0, 2.0, -1.0])

    def average(above, stage, inputs, baseline):
        return np.broadcast_to(weights, inputs.shape)

    def summed(h):
        score = (h * weights).sum(axis=(1, 2, 3))
        return np.stack([-score, score], axis=1)

    images = eyes(0.25)
    rows = linearity_study(
        ["1_left"],
        images,
        np.zeros_like(images[0]),
        gradient,
        lambda x: {"stem": x},
        {"stem": summed},
        PARAMS,
        average_gradient=average,
        inside=INSIDE,
    )
    first = rows[rows["strength"] == 0]
    total = images[0].astype(np.float64).sum(axis=(0, 1))
    np.testing.assert_allclose(first["activation_difference"], total / SIDE**2, rtol=1e-6)
    np.testing.assert_allclose(first["mean_gradient"], weights * SIDE**2)
    np.testing.assert_allclose(first["attribution"], weights * total, rtol=1e-6)


def test_setting_a_unit_to_its_baseline_takes_its_term_out_of_a_sum():
    h = np.array([[0.4, 0.5, -0.1, 1.0, 0.0, 0.4, 0.4]])
    whole, effect = baseline_effect(upper, h, np.zeros(7), np.array([LINEAR, IGNORED, CONSTANT]))
    np.testing.assert_array_equal(whole, upper(h))
    np.testing.assert_allclose(effect[0, :, 1], [-0.2, 0.0, -0.15], atol=1e-15)
    np.testing.assert_allclose(effect.sum(axis=2), 0, atol=1e-15)


@pytest.fixture(scope="module")
def network():
    from dr_lib.network.model import ModelParams, build

    return build(ModelParams(backbone="small", input_size=32, dense=(12, 6), seed=4))


def test_on_a_real_network_attributions_are_complete_and_gradients_are_those_of_the_line(network):
    """Sum over units = outcome − F(h'); the mean gradient against 2,000 differences of the upper
    model's own outcome.
    """
    from dr_lib.attribution import split_at
    from dr_lib.network.classifier_outputs import ClassifierOutputs

    images = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 32, 32, 3)).astype(np.float32)
    params = LinearityParams(smallest_strength=0.05, strengths=2, batch_size=4)
    layers = {name: split_at(network, name) for name in ("fc1", "fc2")}
    blank = np.zeros((32, 32, 3), np.float32)
    outcomes, inside = ClassifierOutputs(network, 4), visible_disc(32, crop=0.1)
    rows = linearity_study(
        *(["1_left", "1_right"], images, blank, outcomes.gradient),
        trunk({name: lower for name, (lower, _) in layers.items()}),
        {name: upper for name, (_, upper) in layers.items()},
        params,
        inside=inside,
        average_gradient=engine_average_gradient(params),
    )
    assert set(rows["layer"]) == {"fc1", "fc2"}
    assert rows.groupby("layer").size().to_dict() == {"fc1": 2 * 3 * 12, "fc2": 2 * 3 * 6}
    base = outcomes.predict(blank[None])[0, 1]
    for _, part in rows.groupby(["layer", "image_id", "strength"]):
        assert part["attribution"].sum() == pytest.approx(part["outcome"].iloc[0] - base, abs=2e-4)
    plain = (
        rows[(rows["strength"] == 0) & (rows["layer"] == "fc2")]
        .groupby("image_id")["outcome"]
        .first()
    )
    np.testing.assert_allclose(plain, outcomes.predict(images)[:, 1], rtol=1e-5)
    rising = (
        rows[rows["layer"] == "fc2"].groupby(["image_id", "strength"])["outcome"].first().unstack()
    )
    assert (rising[0.05] > rising[0.0]).all(), "the examples go toward the target"

    lower, upper = layers["fc2"]
    h, h0 = (np.asarray(lower(x), np.float32) for x in (images[:1], blank[None]))
    alphas = ((np.arange(2000) + 0.5) / 2000).astype(np.float32)[:, None]
    step = np.float32(1e-2)
    points = h0 + alphas * (h - h0)
    for unit in range(6):
        away = step * np.eye(6, dtype=np.float32)[unit]
        slopes = (
            np.asarray(upper(points + away))[:, 1] - np.asarray(upper(points - away))[:, 1]
        ) / (2 * step)
        found = rows[
            (rows["layer"] == "fc2")
            & (rows["image_id"] == "1_left")
            & (rows["strength"] == 0)
            & (rows["unit"] == unit)
        ]
        assert found["mean_gradient"].item() == pytest.approx(slopes.mean(), abs=2e-5)


def test_layers_that_share_a_trunk_run_it_once(network, monkeypatch):
    """Any number of cuts of one network is one compiled function, so the trunk is not computed
    layer by layer.
    """
    from dr_lib.attribution import split_at
    from dr_lib.network import backend

    made = []
    monkeypatch.setattr(backend, "compiled", lambda function: made.append(function) or function)
    layers = {name: split_at(network, name) for name in ("pooled", "fc1", "fc2")}

    def average(above, stage, inputs, baseline):
        return np.ones_like(inputs)

    x = np.zeros((1, 32, 32, 3), np.float32)
    settings = {"inside": visible_disc(32, crop=0.1), "average_gradient": average}
    linearity_study(
        *(["1_left"], x, x[0], lambda images, stage: images + 1),
        trunk({name: lower for name, (lower, _) in layers.items()}),
        {name: upper for name, (_, upper) in layers.items()},
        PARAMS,
        **settings,
    )
    assert len(made) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"target_stage": 5},
        {"smallest_strength": 0.0},
        {"growth": 1.0},
        {"strengths": 0},
        {"least_r2": 1.5},
        {"batch_size": 0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        LinearityParams(**settings)
