"""Counterfactuals: a fundus moved along its own attribution until the model changes its mind
(METHOD §7).

A pixel with positive attribution moves away from half-gray, one with negative attribution toward
it; the sign of the attribution decides, the strength c how far. No gradient is followed: what
changes is what the explanation points at. Attributions are given, not computed here; the model is
any function from images to stage probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from dr_lib.maps import find_regions
from dr_lib.perturbation.comparison import Images
from dr_lib.perturbation.strength_search import (
    LEGAL,
    Predict,
    StrengthResult,
    search,
    strength_grid,
)
from dr_lib.settings import Limit, NonNegativeInt, PositiveInt, PositiveShare, Settings, Stage
from dr_lib.vocabulary import SIGNS

Form = Literal["proportional", "constant"]
# A method is a form, and what becomes of the attribution: taken whole; only its strongest pixels or
# regions; or recomputed on the way.
Method = Literal[
    "proportional",
    "proportional_strongest",
    "proportional_regions",
    "proportional_recomputed",
    "constant",
    "constant_strongest",
    "constant_regions",
    "constant_recomputed",
]
METHODS: tuple[Method, ...] = get_args(Method)

# Beyond these strengths nothing moves any more: from 1/128, an 8-bit pixel's smallest offset, to 1
# takes the factor 1 + 127, and no pixel is further than 1 from half-gray or from the end of the
# legal range.
SATURATION = {"proportional": 128.0, "constant": 1.0}


@dataclass(frozen=True)
class CounterfactualParams(Settings):
    """Which eyes, toward which stage, by which methods, and how the strength is searched.

    batch_size: images in one pass of the model. Every pass has this shape, whatever few eyes are
    still undecided, so that an eye's result does not depend on its company: on processors a small
    one wastes least.
    """

    true_stage: Stage = 1
    predicted_stage: Stage = 0
    target_stage: Stage = 1
    methods: tuple[Method, ...] = (
        "proportional",
        "proportional_strongest",
        "proportional_regions",
        "constant",
    )
    smallest_strength: float = 1 / 64
    largest_strength: float = 128.0  # the constant form stops at 1 anyway: nothing moves beyond
    growth: float = 2.0
    bisections: NonNegativeInt = 10
    strongest_share: PositiveShare = (
        0.05  # of the pixels, by |attribution|, for the methods *_strongest
    )
    strongest_regions: PositiveInt = 5  # of each sign, for the methods *_regions
    recompute_points: PositiveInt = (
        16  # midpoints of each attribution made on the way, for the methods *_recomputed
    )
    limit: Limit = 0  # eyes; 0: all that qualify
    batch_size: PositiveInt = 4

    def check(self) -> None:
        if self.predicted_stage == self.target_stage:
            raise ValueError(
                f"target_stage {self.target_stage} is what the model predicts already: nothing to"
                " change"
            )
        if not self.methods:
            raise ValueError(f"methods must name at least one of {', '.join(METHODS)}")
        strength_grid(self.smallest_strength, self.largest_strength, self.growth)

    @property
    def pair(self) -> str:
        """The stages in a few characters: true stage, predicted stage, target.

        >>> CounterfactualParams(true_stage=2, predicted_stage=1, target_stage=2).pair
        '2-1-2'
        """
        return f"{self.true_stage}-{self.predicted_stage}-{self.target_stage}"


def perturb(
    x: Float[np.ndarray, "*shape"],
    baseline: Float[np.ndarray, "..."] | float | int,
    attribution: Float[np.ndarray, "..."],
    strength: float | int | np.floating | Float[np.ndarray, "image"],
    form: Form = "proportional",
) -> Float[np.ndarray, "*shape"]:
    """`x` with every value moved along the sign of its attribution, clipped to the legal range [−1,
    127/128] (METHOD §7).

    x̂ = x + strength · sgn(attribution) · d, with d = x − baseline ("proportional") or sgn(x −
    baseline) ("constant"): away from half-gray where the attribution is positive, toward it where
    negative; a value moving toward half-gray stops there. Values at half-gray, or of zero
    attribution, stay.

    Parameters
    ----------
    x : scaled pixels, (pixel − 128) / 128
    baseline, attribution : broadcast to `x`; an attribution summed over the colour channels takes a
        last axis of 1
    strength : 0 or more, one number or one for each image

    Returns
    -------
    ndarray
        Of the shape and type of `x`.

    Raises
    ------
    ValueError
        For a negative or non-finite strength, an unknown form, or an attribution that is not
        finite.

    >>> x = np.float32([0.5, -0.5, 0.5, -0.5])
    >>> perturb(x, 0.0, np.float32([1e-6, 1e-6, -1e-6, -1e-6]), 0.25).tolist()
    [0.625, -0.625, 0.375, -0.375]
    >>> perturb(x, 0.0, np.float32([1e-6, 1e-6, -1e-6, -1e-6]), 0.75, "constant").tolist()
    [0.9921875, -1.0, 0.0, 0.0]
    """
    strength = np.asarray(strength, x.dtype)
    if not (np.isfinite(strength).all() and (strength >= 0).all()):
        raise ValueError(f"a strength must be a number from 0 up, not {strength}")
    if form not in SATURATION:
        raise ValueError(f"form must be one of {', '.join(SATURATION)}, not {form!r}")
    sign = np.sign(attribution).astype(x.dtype)
    if not np.isfinite(sign).all():
        raise ValueError(
            "the attribution holds values that are not numbers: no direction can be taken from it"
        )
    if strength.ndim:
        strength = strength.reshape(strength.shape + (1,) * (x.ndim - 1))
    baseline = np.asarray(baseline, x.dtype)
    offset = x - baseline
    direction = offset if form == "proportional" else np.sign(offset)
    moved = x + strength * sign * direction
    beyond = (sign < 0) & (strength * np.abs(direction) >= np.abs(offset))
    moved = np.where(beyond, baseline, moved)
    return np.clip(moved, *LEGAL).astype(x.dtype)


def smallest_strength(
    predict: Predict,
    inputs: Images,
    baselines: Float[np.ndarray, "..."],
    attributions: Float[np.ndarray, "image y x _"],
    target_stage: int,
    params: CounterfactualParams,
    *,
    method: Method,
    attribute: Callable[[np.ndarray], np.ndarray],
    crop: float,
) -> StrengthResult:
    """The smallest strength for each eye at which the model predicts `target_stage`, with the image
    that does it (METHOD §7).

    The methods *_recomputed take the direction anew after each step of the bracketing; strengths
    then add up along the path, and the result is the sum.

    Parameters
    ----------
    predict : (n, y, x, 3) scaled images to (n, 5) probabilities
    inputs : (image, y, x, channel) scaled images
    baselines : broadcast to `inputs`
    attributions : of the target stage's outcome, (image, y, x, channel), or summed over the colour
        channels to a last axis of 1
    attribute : images to their attributions, for the methods *_recomputed
    crop : of the fundi (`PreprocessParams.crop`), for the methods *_regions

    Returns
    -------
    StrengthResult
        An eye whose attribution is not finite is marked failed.
    """
    form: Form = "constant" if method.startswith("constant") else "proportional"
    variant = method.partition("_")[2]
    failed = ~np.all(np.isfinite(attributions), axis=(1, 2, 3))
    baselines = np.broadcast_to(baselines, inputs.shape)
    starts, directions, walked = inputs.copy(), attributions.copy(), np.zeros(len(inputs))
    for i, attribution in enumerate(attributions):
        if variant == "strongest":
            directions[i] = strongest(attribution, params.strongest_share)
        elif variant == "regions":
            directions[i] = strongest_regions(attribution, params.strongest_regions, crop=crop)

    def move(rows: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        return perturb(
            starts[rows], baselines[rows], directions[rows], strengths - walked[rows], form
        )

    def turn(rows: np.ndarray, strengths: np.ndarray) -> None:
        moved = move(rows, strengths)
        starts[rows], walked[rows] = moved, strengths
        directions[rows] = np.nan_to_num(attribute(moved), nan=0.0, posinf=0.0, neginf=0.0)

    largest = min(params.largest_strength, SATURATION[form])
    grid = strength_grid(min(params.smallest_strength, largest), largest, params.growth)
    return search(
        predict,
        inputs,
        move,
        target_stage,
        grid=grid,
        bisections=params.bisections,
        failed=failed,
        advanced=turn if variant == "recomputed" else None,
    )


def strongest(
    attribution: Float[np.ndarray, "*shape"], share: float
) -> Float[np.ndarray, "*shape"]:
    """The attribution with all but the strongest `share` of its non-zero values set to 0; ties at
    the threshold are kept.

    >>> strongest(np.float32([0.1, -4.0, 0.0, 3.0, 2.0]), 0.5).tolist()
    [0.0, -4.0, 0.0, 3.0, 0.0]
    """
    size = np.abs(attribution[attribution != 0])
    if share >= 1 or size.size == 0 or not np.isfinite(size).all():
        return attribution
    keep = max(1, round(share * size.size))
    return np.where(np.abs(attribution) >= np.partition(size, -keep)[-keep], attribution, 0).astype(
        attribution.dtype
    )


def strongest_regions(
    attribution: Float[np.ndarray, "y x channel"], count: int, *, crop: float
) -> Float[np.ndarray, "y x channel"]:
    """The attribution with all set to 0 but its `count` strongest connected regions of each sign
    (`dr_lib.maps.find_regions`).

    Regions are found on the map summed over its channels, within the visible disc; a map without
    any keeps nothing, one that is not finite stays as it is.
    """
    values = attribution.sum(axis=-1)
    if not np.isfinite(values).all():
        return attribution
    labels = [find_regions(values, sign, crop=crop) for sign in SIGNS]
    kept = np.any([(part > 0) & (part <= count) for part in labels], axis=0)
    return np.where(kept[..., None], attribution, 0).astype(attribution.dtype)
