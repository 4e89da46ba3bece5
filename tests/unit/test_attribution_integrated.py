"""Integrated gradients against closed forms, an independent reference, and their own account of
how exact they are.
"""

import functools

import attribution_reference as reference
import keras
import numpy as np
import pytest
from keras import ops

from dr_lib.attribution import integrated_gradients, quadrature, stage_quantities
from dr_lib.attribution.evaluator import Evaluator, Values
from dr_lib.attribution.integrated import RefinementMaker, attributions
from dr_lib.attribution.partition import Partition
from dr_lib.attribution.quadrature import RULES
from dr_lib.attribution.quantities import identity_quantities
from dr_lib.attribution.refinement import adaptive_refinement
from dr_lib.attribution.sums import Commit, GradientSums
from dr_lib.network import backend
from tests.unit.counting import Counting

# float32 arithmetic: sums of a few hundred numbers near 1 are good to a few 1e-7.
SINGLE = 2e-6


def relu_net(x):
    return ops.relu(ops.relu(x[:, 0]) - 1 - ops.relu(x[:, 1]))


def three_terms(x):
    return 5 * x[:, 0] + x[:, 1] ** 2 + ops.sin(x[:, 2])


def row(*numbers):
    return np.array([numbers], np.float32)


# Closed forms


@pytest.mark.parametrize("rule", RULES)
def test_relu_net_at_3_1(rule):
    # Along (3a, a) the outer ReLU opens at a = 1/2: attributions 3·1/2 and −1·1/2.
    found = integrated_gradients(
        relu_net, row(3, 1), np.zeros(2, np.float32), points=400, rule=rule
    )
    np.testing.assert_allclose(
        found.values, row(1.5, -0.5), atol=0.01
    )  # a node more or less on one side of the kink


def test_relu_net_is_exact_where_no_interval_straddles_the_kink():
    for tolerance in (None, 1e-4):
        found = integrated_gradients(
            relu_net, row(3, 1), np.zeros(2, np.float32), points=50, tolerance=tolerance
        )
        np.testing.assert_allclose(found.values, row(1.5, -0.5), atol=SINGLE)
        assert found.values.dtype == np.float32


def test_points_that_adapt_close_in_on_a_kink_inside_an_interval():
    # 6 points: 1/2 lies on an edge of none of the 3 panels' halves after shifting the input to open
    # at a = 0.437.
    def shifted(x):
        return ops.relu(x[:, 0] - 0.437)

    plain = integrated_gradients(shifted, row(1), np.zeros(1, np.float32), points=6)
    fine = integrated_gradients(
        shifted, row(1), np.zeros(1, np.float32), points=6, tolerance=1e-3, max_points=200
    )
    assert abs(plain.values[0, 0] - 0.563) > 0.01
    assert abs(fine.values[0, 0] - 0.563) < 1e-3 * 0.563
    assert fine.converged[0]
    assert fine.points[0] < 60  # a uniform rule needs 1 / 1e-3


def test_sum_of_three_terms():
    x, baseline = row(1, 2, 3), np.array([0.5, 1, 1], np.float32)
    exact = row(2.5, 3, np.sin(3) - np.sin(1))
    gauss = integrated_gradients(three_terms, x, baseline, points=12, rule="gauss_legendre")
    np.testing.assert_allclose(gauss.values, exact, atol=SINGLE)
    adaptive = integrated_gradients(
        three_terms, x, baseline, points=32, tolerance=1e-5, max_points=2000
    )
    np.testing.assert_allclose(adaptive.values, exact, atol=1e-4)
    assert adaptive.converged.all()


def test_softmax_head_on_a_linear_net_is_exact_with_two_points_however_saturated():
    # Logits linear in x: the attribution of p_s is x_i · Σ_r w_ir · ∫ J_sr, and J is integrated in
    # closed form.
    weights = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32) * 8
    x = np.ones((1, 3), np.float32)
    quantities = stage_quantities(tuple(f"stage{s}" for s in range(5)))
    found = integrated_gradients(
        lambda x: x @ weights,
        x,
        np.zeros(3, np.float32),
        points=2,
        tolerance=0.01,
        quantities=quantities,
    )
    fine = np.linspace(0, 1, 200_001)
    p = quantities.values(fine[:, None] * (x @ weights))
    mean = np.trapezoid(p, fine, axis=0)
    second = np.trapezoid(p[:, :, None] * p[:, None, :], fine, axis=0)
    np.testing.assert_allclose(found.values[0], (np.diag(mean) - second) @ weights.T, atol=1e-5)
    assert found.points.tolist() == [[2] * 5]
    assert np.abs(found.values.sum(axis=1)).max() < 1e-6


def test_max_pool_gives_everything_to_the_largest():
    found = integrated_gradients(
        lambda x: ops.max(x, axis=1), row(1, 4, 2), np.array([0.5, 1, 0], np.float32), points=64
    )
    np.testing.assert_allclose(found.values, row(0, 3, 0), atol=SINGLE)


def test_average_gradients_times_the_difference_are_the_attributions():
    x, baseline = row(1, 2, 3), np.array([0.5, 1, 1], np.float32)
    whole = integrated_gradients(three_terms, x, baseline, points=7)
    average = integrated_gradients(three_terms, x, baseline, points=7, multiply_by_inputs=False)
    np.testing.assert_allclose(average.values[0, 0], 5, atol=SINGLE)
    np.testing.assert_allclose(average.values * (x - baseline), whole.values, atol=SINGLE)
    np.testing.assert_array_equal(average.gap, whole.gap)


# Axioms


def test_attributions_are_linear_in_the_quantity_and_quantities_share_one_pass():
    def both(x):
        return ops.stack(
            [three_terms(x), relu_net(x), 2 * three_terms(x) - 3 * relu_net(x)], axis=1
        )

    x, baseline = (
        np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) + 2,
        np.zeros(3, np.float32),
    )
    found = integrated_gradients(both, x, baseline, points=20)
    assert found.values.shape == (4, 3, 3)
    np.testing.assert_allclose(
        found.values[:, 2], 2 * found.values[:, 0] - 3 * found.values[:, 1], atol=1e-5
    )
    np.testing.assert_allclose(
        found.values[:, 0],
        integrated_gradients(three_terms, x, baseline, points=20).values,
        atol=SINGLE,
    )


def test_two_implementations_of_one_function_get_the_same_attributions():
    def rewritten(x):
        return ops.where(
            x[:, 0] - ops.relu(x[:, 1]) > 1, x[:, 0] - 1 - ops.maximum(x[:, 1], 0), 0 * x[:, 2]
        )

    x = np.abs(np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)) * 3
    first, second = (
        integrated_gradients(f, x, np.zeros(3, np.float32), points=40).values
        for f in (relu_net, rewritten)
    )
    np.testing.assert_allclose(first, second, atol=SINGLE)


def test_an_input_equal_to_its_baseline_gets_nothing():
    found = integrated_gradients(
        three_terms, row(1, 2, 3), np.array([1, 2, 3], np.float32), points=8, tolerance=0.05
    )
    assert not found.values.any()
    assert found.gap.tolist() == [0]
    assert found.map_error.tolist() == [0]
    assert found.converged.all()


# Against the reference


@pytest.fixture(scope="module")
def net():
    """The reference and the same net in Keras, with live units, dead units and ties in the
    baseline.
    """
    rng = np.random.default_rng(5)
    plain = reference.Net(
        rng.normal(size=(3, 3, 2, 4)),
        rng.normal(size=4) * 0.3,
        rng.normal(size=(4 * 4 * 4, 5)),
        rng.normal(size=5),
    )
    inputs = keras.Input((8, 8, 2))
    h = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="units")(inputs)
    flat = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(h))
    outputs = keras.layers.Dense(5, activation="softmax", name="stage")(flat)
    model = keras.Model(inputs, outputs)
    model.set_weights([plain.kernel, plain.bias, plain.dense, plain.dense_bias])
    return plain, model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(6).normal(size=(3, 8, 8, 2)).astype(np.float32)


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre"])
def test_a_convolutional_net_agrees_with_the_reference(net, images, rule):
    plain, model = net
    found = integrated_gradients(
        model, images, np.zeros((8, 8, 2), np.float32), points=9, rule=rule, batch_size=4
    )
    assert found.values.shape == (3, 5, 8, 8, 2)
    for image, stage in np.ndindex(3, 5):
        gradient = functools.partial(plain.image_vjp, stage=stage)
        exact = reference.integrated(
            gradient, images[image], np.zeros((8, 8, 2)), *quadrature(rule, 9)
        )
        np.testing.assert_allclose(
            found.values[image, stage], exact, atol=1e-5 * np.abs(exact).max()
        )
        units = plain.units(images[image])
        # A softmax moves by at most half of what the largest logit does, and float32 rounds that
        # twice, sum and bias.
        rounding = np.finfo(np.float32).eps * np.abs(plain.logits(units)).max()
        np.testing.assert_allclose(
            found.outcome[image, stage], plain.stages(units)[stage], rtol=0, atol=rounding
        )


def test_completeness_and_gap_are_the_same_account(net, images):
    _, model = net
    found = integrated_gradients(model, images, np.zeros((8, 8, 2), np.float32), points=12)
    total = found.values.sum(axis=(2, 3, 4), dtype=np.float64)
    np.testing.assert_allclose(
        total - (found.outcome - found.baseline_outcome), found.gap, atol=1e-12
    )
    np.testing.assert_allclose(found.outcome, np.asarray(model(images)), atol=1e-6)


def test_map_error_is_the_change_when_every_second_point_is_left_out(net, images):
    _, model = net
    zeros = np.zeros((8, 8, 2), np.float32)
    found = integrated_gradients(model, images, zeros, points=4)
    alphas, _ = quadrature("midpoint", 4)
    gradients = []
    for alpha in alphas:
        # One left point on the line from alpha·x to alpha·x + x has its node at alpha·x.
        here = integrated_gradients(
            model, (1 + alpha) * images, (alpha * images).astype(np.float32), points=1, rule="left"
        )
        gradients.append(here.values)
    full = sum(gradients) / 4
    coarse = (gradients[0] + gradients[3]) / 2
    axes = (2, 3, 4)
    exact = np.abs(full - coarse).sum(axis=axes) / np.abs(full).sum(axis=axes)
    np.testing.assert_allclose(found.map_error, exact, rtol=1e-3)


# Adapting


STAGES = tuple(f"stage{s}" for s in range(5))


@pytest.fixture(scope="module")
def saturated(net):
    """Logits of the net, ten times as large: a softmax that saturates along the line, as trained
    nets do.
    """
    _, model = net
    features = keras.Model(model.input, model.layers[-1].input)
    kernel, bias = (np.asarray(w) * 3 for w in model.layers[-1].get_weights())
    return lambda x: features(x, training=False) @ kernel + bias


def by_hand(refinement, outputs, slopes):
    """Runs a refinement on scalar functions of alpha in float64: the result, all places where the
    outputs became known, and for every gradient (a backward pass) its place, its
    cotangent (output,) and its final weight (basis, output).
    """
    places, asked, cotangents, weights, values = [], [], [], {}, None
    while True:
        try:
            message = refinement.send(values)
        except StopIteration as stop:
            return (
                stop.value,
                np.unique(places),
                asked,
                cotangents,
                [weights[node] for node in range(len(cotangents))],
            )
        if isinstance(message, Commit):
            for node, weight in zip(message.nodes.tolist(), message.weights, strict=True):
                assert node not in weights  # each gradient is weighted once
                weights[node] = np.outer(weight, cotangents[node])
            values = None
            continue
        places += message.alphas.tolist()
        slope = np.zeros((len(message.alphas), 0))
        if message.cotangents is not None:
            asked += np.repeat(message.alphas, message.cotangents.shape[1]).tolist()
            cotangents += list(message.cotangents.reshape(-1, message.cotangents.shape[2]))
            slope = np.einsum(
                "kbo,ko->kb", message.cotangents, np.stack([slopes(a) for a in message.alphas])
            )
        values = Values(np.stack([outputs(a) for a in message.alphas]), slope)


@pytest.fixture
def partitions(monkeypatch):
    """The partitions that adaptive refinements make, which their results do not hold."""
    made = []

    def recorded(*arguments):
        made.append(Partition(*arguments))
        return made[-1]

    monkeypatch.setattr("dr_lib.attribution.refinement.Partition", recorded)
    return made


@pytest.fixture(scope="module")
def logit_line(net, images):
    """Three times the reference's logits along the line from gray to an image, and their exact
    directional derivative.
    """
    plain, _ = net
    x = images[0].astype(np.float64)

    def outputs(alpha):
        return 3 * (plain._pooled(plain.units(alpha * x)).ravel() @ plain.dense + plain.dense_bias)

    def slopes(alpha):
        # the logits are piecewise linear in alpha: exact but for rounding, or a kink within the
        # step
        step = 1e-7
        return (outputs(alpha + step) - outputs(alpha - step)) / (2 * step)

    return outputs, slopes


@pytest.mark.parametrize(
    "names",
    [STAGES, (*STAGES, "referable"), ("stage2",), ("logit0", "logodds3:0"), ("stage1", "logit1")],
)
def test_every_intervals_residual_is_what_it_says(logit_line, names, partitions):
    outputs, slopes = logit_line
    quantities = stage_quantities(names)
    result, places, asked, cotangents, weights = by_hand(
        adaptive_refinement(quantities, 6, 1e-2, 1e-3, 200), outputs, slopes
    )
    width = asked.count(asked[0])  # the first point is sampled in all directions
    assert result.gradients == -(-len(weights) // width)
    (partition,) = partitions
    assert len(partition.residuals) > 6 or len(names) < 3
    np.testing.assert_array_equal(result.residuals, partition.residuals)
    projected = (
        len(quantities.basis().logit_weights) < np.linalg.matrix_rank(cotangents[:width])
        or quantities.basis().constant_cotangents() is None
    )
    for number, direction in enumerate(partition.directions):
        edges, tags = direction.edges, direction.tags
        assert edges[0, 0] == 0
        assert edges[-1, 1] == 1
        np.testing.assert_array_equal(edges[1:, 0], edges[:-1, 1])
        assert (np.diff(edges, axis=1) > 0).all()  # positive weights that sum to 1
        assert ((edges[:, 0] <= tags) & (tags <= edges[:, 1])).all()
        if projected:
            # one gradient stands for a derivative of more directions: no closed form without its
            # constant
            continue
        vector = cotangents[number]
        for (start, stop), tag, residual in zip(edges, tags, direction.residuals, strict=True):
            # The quantities' derivative integrated by brute force along the known outputs, joined
            # by straight lines.
            known = places[(places >= start) & (places <= stop)]
            fine = np.linspace(start, stop, 4001)
            u = np.stack(
                [np.interp(fine, known, [outputs(a)[o] for a in known]) for o in range(5)], axis=1
            )
            along = quantities.mean_jacobian(u, u) @ vector
            middles = (along[1:] + along[:-1]) / 2
            expected = np.trapezoid(along, fine, axis=0) * (vector @ slopes(tag)) - (
                np.diff(u @ vector) @ middles
            )
            np.testing.assert_allclose(residual, expected, atol=2e-4)


def test_a_direction_that_counts_for_little_gets_few_gradients(partitions):
    # Logits 0 and 1 bend again and again; 2, 3 and 4 stay far below, so that three of the four
    # directions are all but empty.
    def outputs(alpha):
        return np.array([2 * np.sin(9 * alpha), -2 * np.sin(9 * alpha), -7 - alpha, -7.2, -7.4])

    def slopes(alpha):
        return np.array([18 * np.cos(9 * alpha), -18 * np.cos(9 * alpha), -1, 0, 0])

    result, *_ = by_hand(
        adaptive_refinement(stage_quantities(STAGES), 6, 1e-3, 0.05, 200), outputs, slopes
    )
    assert result.converged.all()
    counts = [len(direction.tags) for direction in partitions[0].directions]
    assert counts[0] > 12
    assert counts[2:] == [6, 6]


@pytest.mark.parametrize("open_points", [1000, 6])
@pytest.mark.parametrize("names", [STAGES, ("stage2", "stage4"), ("logit0", "logodds3:0")])
def test_weights_add_up_to_the_gap_also_where_few_gradients_wait_for_theirs(
    logit_line, names, open_points, partitions, monkeypatch
):
    monkeypatch.setattr("dr_lib.attribution.refinement.OPEN_POINTS", open_points)
    outputs, slopes = logit_line
    quantities = stage_quantities(names)
    result, _, asked, _, weights = by_hand(
        adaptive_refinement(quantities, 6, 1e-2, 1e-3, 400), outputs, slopes
    )
    assert result.converged.all()
    directions = partitions[0].directions
    assert set(asked) == {tag for direction in directions for tag in direction.tags}
    change = quantities.values(outputs(1)) - quantities.values(outputs(0))
    np.testing.assert_allclose(change, result.outcome - result.baseline_outcome, atol=1e-12)
    total = quantities.mix() @ sum(
        weight @ slopes(place) for weight, place in zip(weights, asked, strict=True)
    )
    np.testing.assert_allclose(total - change, result.residuals.sum(axis=0), atol=1e-9)
    if names[0] == "logit0":
        # The quantities' derivative is constant, so weights are the intervals' widths.
        for direction in directions:
            widths = np.diff(direction.edges, axis=1)
            total = sum(weight for weight, place in zip(weights, asked, strict=True))
            assert widths.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(total, quantities.logit_weights, atol=1e-12)


def test_the_promised_gap_holds_or_is_said_not_to(saturated, images):
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities((*STAGES, "referable"))
    for tolerance, most in ((0.05, 400), (0.01, 400), (1e-6, 20)):
        found = integrated_gradients(
            saturated,
            images,
            zeros,
            points=8,
            tolerance=tolerance,
            max_points=most,
            quantities=quantities,
        )
        allowed = tolerance * np.maximum(np.abs(found.outcome - found.baseline_outcome), 1e-3)
        assert (np.abs(found.gap) <= allowed + 1e-6)[found.converged].all()
        # A probability seldom travels further than 2, and the sum of n numbers is at most √n times
        # their root sum of squares.
        assert (found.residual <= 2 * tolerance * np.sqrt(found.points))[found.converged].all()
        assert found.points.max() <= most
        assert found.converged.all() == (tolerance > 1e-4)
    assert not found.converged.all(axis=1).any()


def test_adapting_reaches_the_map_of_many_points_with_few(saturated, images):
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities(STAGES)
    exact = integrated_gradients(
        saturated, images, zeros, points=2000, quantities=quantities, batch_size=64
    ).values
    found = integrated_gradients(
        saturated, images, zeros, points=16, tolerance=0.02, quantities=quantities, floor=0.05
    )
    error = np.abs(found.values - exact).sum(axis=(2, 3, 4)) / np.abs(exact).sum(axis=(2, 3, 4))
    moved = (
        np.abs(found.outcome - found.baseline_outcome) > 0.05
    )  # others are judged against the floor
    assert moved.sum() > 5
    assert error[moved].max() < 0.05
    assert found.points.max() <= 100


def test_stage_maps_sum_to_zero_and_referable_is_three_of_them(saturated, images):
    found = integrated_gradients(
        saturated,
        images,
        np.zeros((8, 8, 2), np.float32),
        points=8,
        tolerance=0.05,
        quantities=stage_quantities((*STAGES, "referable")),
    )
    largest = np.abs(found.values).max()
    assert np.abs(found.values[:, :5].sum(axis=1)).max() < 1e-6 * largest
    np.testing.assert_allclose(
        found.values[:, 5], found.values[:, 2:5].sum(axis=1), atol=1e-6 * largest
    )


def test_neither_batch_size_nor_order_nor_company_changes_an_image(saturated, images):
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities(STAGES)

    def run(x, batch_size):
        return integrated_gradients(
            saturated,
            x,
            zeros,
            points=8,
            tolerance=0.02,
            batch_size=batch_size,
            quantities=quantities,
        )

    whole, backwards, alone = run(images, 16), run(images[::-1], 16), run(images[1:2], 16)
    np.testing.assert_array_equal(
        backwards.values[::-1], whole.values
    )  # same compiled shape: the same bits
    np.testing.assert_array_equal(alone.values[0], whole.values[1])
    np.testing.assert_array_equal(alone.points[0], whole.points[1])
    small = run(images, 5)
    np.testing.assert_allclose(small.values, whole.values, atol=1e-5 * np.abs(whole.values).max())
    np.testing.assert_array_equal(small.points, whole.points)


# Work


def test_the_number_of_passes_is_what_the_rule_needs():
    evaluator = Counting(three_terms, 8)
    x = np.ones((5, 3), np.float32)
    integrated_gradients(evaluator, x, np.zeros(3, np.float32), points=16)
    assert evaluator.gradient_rows == 5 * 16
    assert evaluator.forward_rows == 5 * 2 + 1  # one tells how many quantities there are
    # One batch finds out how many quantities there are; 80 gradients and 10 forwards fill 12
    # batches of 8 (2 of forwards).
    assert evaluator.calls == 1 + 10 + 2


def test_five_probabilities_by_a_fixed_rule_need_no_forwards_but_the_ends(
    saturated, images, monkeypatch
):
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities(STAGES)
    at_once = integrated_gradients(saturated, images, zeros, points=15, quantities=quantities)
    monkeypatch.setattr("dr_lib.attribution.refinement.OPEN_POINTS", 4)
    evaluator = Counting(saturated, 8)
    found = integrated_gradients(evaluator, images, zeros, points=15, quantities=quantities)
    assert (evaluator.forward_rows, evaluator.gradient_rows) == (3 * 2, 3 * 15)
    largest = np.abs(found.values).max()
    np.testing.assert_allclose(
        found.values, at_once.values, atol=3e-6 * largest
    )  # the same 60 terms, summed in another order
    np.testing.assert_allclose(found.map_error, at_once.map_error, rtol=1e-4)


def test_an_adaptive_image_costs_its_points_their_borders_and_the_ends_and_no_gradient_twice(
    saturated, images
):
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities(STAGES)
    for image in images:
        evaluator = Counting(saturated, 4)
        found = integrated_gradients(
            evaluator, image[None], zeros, points=6, tolerance=0.01, quantities=quantities
        )
        single = (
            evaluator.gradient_rows - 6
        )  # six rows of four gradients that share a forward pass, then rows of one
        assert single > 0
        assert found.points[0, 0] == -(-(6 * 4 + single) // 4)
        assert (
            7 <= evaluator.forward_rows <= 7 + single
        )  # 7 edges of 6 intervals, then at most a border for each


def test_few_gradients_wait_for_their_weights_however_many_there_are(
    saturated, images, monkeypatch
):
    monkeypatch.setattr("dr_lib.attribution.refinement.OPEN_POINTS", 10)
    evaluator, waiting, commit = Evaluator(saturated, 4), [], GradientSums.commit

    def counted(sums, message):
        waiting.append(len(sums._kept))
        commit(sums, message)

    monkeypatch.setattr(GradientSums, "commit", counted)
    made = RefinementMaker(6, "midpoint", 1e-4, 90)
    (one,) = attributions(
        evaluator, stage_quantities(STAGES), images[:1], np.zeros((8, 8, 2), np.float32), made
    )
    assert one.refinement.gradients > 40
    assert max(waiting) < 4 * (10 + one.refinement.gradients / 3)  # four backward passes a point
    np.testing.assert_allclose(one.gap, one.refinement.residuals.sum(axis=0), atol=2e-5)


@pytest.mark.parametrize("tolerance", [None, 1e-4], ids=["fixed points", "points that adapt"])
def test_the_host_hears_scalars_until_a_path_has_ended(saturated, images, tolerance, monkeypatch):
    sizes, fetch = [], backend.fetched

    def counted(tensor):
        sizes.append(int(np.prod(tensor.shape)))
        return fetch(tensor)

    monkeypatch.setattr(backend, "fetched", counted)
    maker = RefinementMaker(6, "midpoint", tolerance, 90)
    quantities, zeros = stage_quantities(STAGES), np.zeros((8, 8, 2), np.float32)
    (one,) = attributions(Evaluator(saturated, 4), quantities, images[:1], zeros, maker)
    # Four sums and their contrasts, once; else five outputs or at most four slopes a row.
    assert sizes[-8:] == [zeros.size] * 8
    assert max(sizes[:-8]) <= 4 * 5
    assert one.refinement.gradients >= (6 if tolerance is None else 40)


def test_forwards_ride_in_the_spare_rows_of_the_last_gradient_batch():
    evaluator = Counting(lambda x: ops.stack([three_terms(x)], axis=1), 8)
    made = RefinementMaker(4, "midpoint", None, 4)
    list(
        attributions(
            evaluator,
            identity_quantities(1),
            np.ones((2, 3), np.float32),
            np.zeros(3, np.float32),
            made,
        )
    )
    assert evaluator.calls == 2  # four forwards; then eight gradients


def test_a_function_is_traced_once_for_all_calls_with_one_evaluator():
    traces = []

    def counted(x):
        traces.append(1)
        return three_terms(x)

    evaluator = Evaluator(counted, 4)
    for n in (1, 3, 9):
        integrated_gradients(
            evaluator, np.ones((n, 3), np.float32), np.zeros(3, np.float32), points=5
        )
    assert len(traces) == 2  # forward, and forward with gradient


def test_memory_of_the_sums_does_not_grow_with_the_points():
    seen = []

    def watching(x):
        seen.append(x.shape)
        return ops.sum(x**2, axis=1)

    for points in (10, 300):
        integrated_gradients(
            watching,
            np.ones((2, 4), np.float32),
            np.zeros(4, np.float32),
            points=points,
            batch_size=8,
        )
    assert {tuple(shape) for shape in seen} == {(8, 4)}


# Trouble


def test_a_batch_too_large_for_memory_is_halved_and_nothing_is_lost(monkeypatch):
    def small_machine(function):
        def run(x, *rest):
            if x.shape[0] > 3:
                raise MemoryError("RESOURCE_EXHAUSTED")
            return function(x, *rest)

        return run

    x, baseline = (
        np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32),
        np.zeros(3, np.float32),
    )
    whole = integrated_gradients(three_terms, x, baseline, points=10).values
    monkeypatch.setattr("dr_lib.network.backend.compiled", small_machine)
    evaluator = Counting(three_terms, 16)
    np.testing.assert_allclose(
        integrated_gradients(evaluator, x, baseline, points=10).values, whole, atol=SINGLE
    )
    assert evaluator.batch_size == 2
    assert evaluator.gradient_rows == 30


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(x):
        raise TypeError("broken")

    with pytest.raises(TypeError, match="broken"):
        integrated_gradients(broken, np.ones((1, 3), np.float32), np.zeros(3, np.float32))


def test_an_image_that_is_not_finite_is_nan_and_leaves_the_others_alone(saturated, images):
    spoilt = images.copy()
    spoilt[1, 0, 0, 0] = np.nan
    zeros, quantities = np.zeros((8, 8, 2), np.float32), stage_quantities(STAGES)
    for tolerance in (None, 0.05):
        found = integrated_gradients(
            saturated, spoilt, zeros, points=8, tolerance=tolerance, quantities=quantities
        )
        good = integrated_gradients(
            saturated, images, zeros, points=8, tolerance=tolerance, quantities=quantities
        )
        assert np.isnan(found.gap[1]).all()
        assert not found.converged[1].any()
        np.testing.assert_array_equal(found.values[[0, 2]], good.values[[0, 2]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "left", "tolerance": 0.1}, "rule must be midpoint"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"tolerance": 0.1, "max_points": 8}, "max_points"),
        ({"batch_size": 0}, "batch_size"),
        ({"points": 0}, "at least 1 point"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(ValueError, match=words):
        integrated_gradients(
            three_terms,
            np.ones((1, 3), np.float32),
            np.zeros(3, np.float32),
            **({"points": 16} | settings),
        )


def test_baselines_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="baselines must have"):
        integrated_gradients(three_terms, np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32))
