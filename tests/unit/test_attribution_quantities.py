"""Quantities as functions of logits: derivatives, exact mean derivatives, and how many backward
passes are needed.
"""

import numpy as np
import pytest

from dr_lib.attribution.quantities import identity_quantities, stage_quantities
from storage.contents.explanations import unit_of
from storage.tables.schemas import SCHEMAS
from tests.ranges import outside

STAGES = tuple(f"stage{s}" for s in range(5))


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(2, 7, 5)) * 4


def softmax(u):
    return np.exp(u) / np.exp(u).sum(axis=-1, keepdims=True)


def test_named_quantities_are_probabilities_logits_and_log_odds(logits):
    u = logits[0]
    values = stage_quantities(("stage3", "referable", "logit1", "logodds4:0")).values(u)
    p = softmax(u)
    np.testing.assert_allclose(
        values,
        np.stack([p[:, 3], p[:, 2:].sum(1), u[:, 1], np.log(p[:, 4] / p[:, 0])], axis=1),
        rtol=1e-12,
    )


@pytest.mark.parametrize("name", [*STAGES, "referable", "logit3", "logodds3:0"])
def test_a_quantity_has_the_unit_and_lies_in_the_range_that_are_declared_for_it(name, logits):
    values = stage_quantities((name,)).values(logits).ravel()
    assert (unit_of(name) == "probability") == (not outside("[0, 1]", values))
    for column in ("outcome", "baseline_outcome"):
        assert not outside(
            SCHEMAS["attributions"].field(column).metadata[b"range"].decode(), values
        )


def test_probabilities_of_huge_logits_stay_finite():
    assert stage_quantities(STAGES).values(np.array([[1e4, 0, 0, 0, -1e4]])).tolist() == [
        [1, 0, 0, 0, 0]
    ]


def test_mean_jacobian_times_the_step_is_the_change_of_the_quantities(logits):
    start, stop = logits
    quantities = stage_quantities((*STAGES, "referable", "logodds4:0"))
    change = np.einsum("kqu,ku->kq", quantities.mean_jacobian(start, stop), stop - start)
    np.testing.assert_allclose(
        change, quantities.values(stop) - quantities.values(start), atol=1e-6
    )


def test_mean_jacobian_stays_exact_when_logits_move_by_thirty():
    start, stop = (
        np.array([[7.5, 0, 0, 0, -7.5]]),
        np.array([[-7.5, 0, 0, 0, 7.5]]),
    )  # stage 4 against 0: from −15 to 15
    quantities = stage_quantities(STAGES)
    change = np.einsum("kqu,ku->kq", quantities.mean_jacobian(start, stop), stop - start)
    np.testing.assert_allclose(
        change, quantities.values(stop) - quantities.values(start), atol=1e-6
    )


def test_mean_jacobian_at_a_point_is_the_softmax_derivative(logits):
    u = logits[0, :1]
    p = softmax(u)[0]
    np.testing.assert_allclose(
        stage_quantities(STAGES).mean_jacobian(u, u)[0], np.diag(p) - np.outer(p, p), atol=1e-14
    )


def test_five_stages_and_referable_need_four_backward_passes_and_the_fifth_is_minus_their_sum():
    quantities = stage_quantities((*STAGES, "referable"))
    assert len(quantities.basis().probability_weights) == 4
    assert quantities.mix().tolist() == [*np.eye(4).tolist(), [-1, -1, -1, -1], [-1, -1, 0, 0]]


@pytest.mark.parametrize(
    ("quantities", "passes"),
    [
        (("stage2",), 1),
        (("referable",), 1),
        (("stage0", "stage4"), 2),
        (STAGES[::-1], 4),
        (("stage0", "logit0"), 2),
    ],
)
def test_the_number_of_backward_passes_is_the_rank_of_the_quantities(quantities, passes):
    quantities = stage_quantities(quantities)
    assert len(quantities.basis().probability_weights) == passes
    np.testing.assert_allclose(
        quantities.mix() @ quantities.basis()._gradient_rows, quantities._gradient_rows, atol=1e-12
    )


@pytest.mark.parametrize(
    ("quantities", "carried"),
    [
        (STAGES, True),
        ((*STAGES, "referable"), True),
        (("stage2",), False),
        (("stage0", "stage4"), False),
    ]
    + [(("logit2",), True), (("logit0", "logodds3:0"), True), ((*STAGES, "logit1"), True)],
)
def test_a_carrier_holds_the_derivative_wherever_it_is_taken(logits, quantities, carried):
    basis = stage_quantities(quantities).basis()
    constant = basis.constant_cotangents()
    assert (constant is not None) == carried
    if carried:
        jacobians = basis.mean_jacobian(*logits)
        assert constant.shape == jacobians.shape[1:]
        np.testing.assert_allclose(
            jacobians @ np.linalg.pinv(constant) @ constant, jacobians, atol=1e-12
        )


def test_identity_head_is_the_answer_itself(logits):
    quantities = identity_quantities(5)
    np.testing.assert_array_equal(quantities.values(logits), logits)
    assert quantities.mix().tolist() == np.eye(5).tolist()


@pytest.mark.parametrize("name", ["stage5", "stage", "severe", "logodds3", "stage3:0", "logit", ""])
def test_unknown_quantities_are_refused(name):
    with pytest.raises(ValueError, match="a quantity is"):
        stage_quantities((name,))
