"""Adversarial examples: the smallest change along the model's gradient that makes it predict a
target stage.

FGSM (one signed step) and PGD (projected steps) in the L∞ and the L2 ball, always toward the
target's outcome, without random starts, so that the same eye gives the same example. They are what
counterfactuals are compared with (METHOD §7), so they share their search for the smallest strength.
Gradients come from outside: `gradient(images, target_stage)` is the gradient of the target's
log-probability or of any other increasing function of it (that of the probability itself vanishes
where softmax saturates).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from dr_lib.perturbation.comparison import Images
from dr_lib.perturbation.strength_search import (
    LEGAL,
    Predict,
    StrengthResult,
    search,
    strength_grid,
)
from dr_lib.settings import NonNegativeInt, PositiveFloat, PositiveInt, Settings

Norm = Literal["linf", "l2"]
Method = Literal["fgsm_linf", "fgsm_l2", "pgd_linf", "pgd_l2"]
METHODS: tuple[Method, ...] = get_args(Method)

Gradient = Callable[[np.ndarray, int], np.ndarray]
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class AdversarialParams(Settings):
    """Which attacks, how strong, and how the smallest radius is searched (radii in scaled
    pixels: a level is 1/128).
    """

    methods: tuple[Method, ...] = METHODS
    smallest_linf: float = 1 / 4096
    largest_linf: float = 0.5
    smallest_l2: float = 1 / 16
    largest_l2: float = 128.0
    growth: float = 2.0
    bisections: NonNegativeInt = 6
    steps: PositiveInt = 10  # of PGD at each radius tried
    step_share: PositiveFloat = 0.25  # of the radius, each step of PGD
    inside_only: bool = True  # the half-gray surround of the disc stays as it is
    batch_size: PositiveInt = 4  # images in one pass: see CounterfactualParams

    def check(self) -> None:
        for norm in get_args(Norm):
            self.grid(norm)  # refuses impossible radii

    def grid(self, norm: Norm) -> tuple[float, ...]:
        """The radii tried in bracketing."""
        smallest, largest = (getattr(self, f"{end}_{norm}") for end in ("smallest", "largest"))
        return strength_grid(smallest, largest, self.growth)


def fgsm(
    x: Images,
    gradients: Images,
    epsilon: Float[np.ndarray, "image"],
    norm: Norm = "linf",
) -> Images:
    """`x` after one step of length `epsilon` up the gradient (L∞: its sign, L2: its direction),
    clipped to the legal range.
    """
    return np.clip(x + _per_image(epsilon, x.dtype) * ascent(gradients, norm), *LEGAL).astype(
        x.dtype
    )


def pgd(
    x: Images,
    gradient: Callable[[np.ndarray], np.ndarray],
    epsilon: Float[np.ndarray, "image"],
    norm: Norm = "linf",
    steps: int = 10,
    step_share: float = 0.25,
) -> Images:
    """`x` after `steps` steps of `step_share · epsilon`, each projected back into the ball around
    `x` and the legal range.

    The ball is projected on first: clipping to a range that holds `x` then only shortens the
    change, so both hold exactly.
    """
    radius = _per_image(epsilon, x.dtype)
    moved = x
    for _ in range(steps):
        change = moved + step_share * radius * ascent(gradient(moved), norm) - x
        if norm == "linf":
            change = np.clip(change, -radius, radius)
        else:
            length = _length(change.astype(np.float64))
            change = change * np.minimum(1.0, radius / np.maximum(length, TINY))
        moved = np.clip(x + change, *LEGAL).astype(x.dtype)
    return moved


def ascent(gradients: Images, norm: Norm = "linf") -> Images:
    """The direction of steepest ascent of length 1 in the norm: sgn(g), or g / ‖g‖₂; zero where
    the gradient is zero.
    """
    if norm == "linf":
        return np.sign(gradients)
    # Scaled first: squares of gradients near 1e-30 would underflow to a length of 0 and a step of
    # nothing.
    largest = np.abs(gradients).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    scaled = gradients.astype(np.float64) / np.maximum(largest, TINY)
    return (scaled / np.maximum(_length(scaled), TINY)).astype(gradients.dtype)


def smallest_epsilon(
    predict: Predict,
    gradient: Gradient,
    inputs: Images,
    target_stage: int,
    params: AdversarialParams,
    *,
    method: Method,
    inside: Bool[np.ndarray, "y x"],
) -> StrengthResult:
    """The smallest radius for each eye at which the attack makes the model predict `target_stage`,
    with its example (METHOD §7).

    Parameters
    ----------
    predict : (n, y, x, 3) scaled images to (n, 5) probabilities
    gradient : images and target stage to the gradient of the target's log-probability
    inputs : (image, y, x, channel) scaled images
    inside : where pixels may move if `params.inside_only`: the visible disc of the inputs
        (`dr_lib.fundus.anatomy.visible_disc`)

    Returns
    -------
    StrengthResult
        An eye with a gradient that is not finite is marked failed.
    """
    norm: Norm = "l2" if method.endswith("l2") else "linf"
    if not params.inside_only:
        inside = np.ones(inputs.shape[1:3], bool)

    def masked(images: np.ndarray) -> np.ndarray:
        values = np.asarray(gradient(images, target_stage), inputs.dtype)
        values = np.where(inside[..., None], values, 0)
        # The sign of an infinity would pass for a direction.
        return np.where(np.isfinite(values), values, np.nan)

    # The gradient at the original serves every radius of FGSM.
    firsts = functools.cache(lambda: masked(inputs))

    def move(rows: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
        if method.startswith("pgd"):
            how = params.steps, params.step_share
            return pgd(inputs[rows], masked, epsilons, norm, *how)
        return fgsm(inputs[rows], firsts()[rows], epsilons, norm)

    return search(
        predict,
        inputs,
        move,
        target_stage,
        grid=params.grid(norm),
        bisections=params.bisections,
    )


def _per_image(epsilon: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return epsilon.astype(dtype)[:, None, None, None]


def _length(changes: np.ndarray) -> np.ndarray:
    """The L2 norm of each image's change, (image, 1, 1, 1)."""
    return np.sqrt((changes**2).sum(axis=(1, 2, 3), keepdims=True))
