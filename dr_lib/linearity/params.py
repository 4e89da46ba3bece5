"""The settings of the linearity study: layers, strengths, and the thresholds behind a unit's
verdict.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from dr_lib.perturbation.adversarial import Norm
from dr_lib.settings import (
    Limit,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    Stage,
)


@dataclass(frozen=True)
class LinearityParams(Settings):
    """Which layers, which strengths, how finely averaged, and the thresholds of a unit's
    verdict.
    """

    layers: tuple[str, ...] = ("fc1", "fc2", "pooled", "mixed2")
    target_stage: Stage = 1
    norm: Norm = "linf"
    smallest_strength: PositiveFloat = 2.0**-12  # far below one 8-bit level, 2⁻⁷
    strengths: PositiveInt = 12  # from the smallest, growing by `growth`; strength 0 is added
    growth: Annotated[float, Interval(gt=1), "strengths grow"] = 2.0
    points: PositiveInt = 64  # of the average gradient's quadrature
    conv_points: PositiveInt = (
        16  # the same in a convolutional layer, above which most of the network may lie
    )
    inside_only: bool = True
    limit: Limit = 32  # eyes; 0: all
    batch_size: PositiveInt = 4
    dead_share: Share = (
        1e-6  # a unit whose attribution never exceeds this share of the layer's largest is dead
    )
    constant_share: Share = (
        0.05  # activation moves by less than this share of its largest difference: constant
    )
    reversed_correlation: Share = (
        0.5  # attribution and outcome correlate below minus this: reversed
    )
    gradient_bound: Share = (
        0.2  # linear: the average gradient's coefficient of variation stays within this …
    )
    # … and attribution is a line through 0 of the activation difference with at least this R²
    least_r2: Share = 0.9
    # constant or reversed units of a layer that are looked at one by one, the largest first; 0:
    # none
    special_units: NonNegativeInt = 8
    special_eyes: PositiveInt = 3  # eyes of which a special unit's region is kept
    region_points: PositiveInt = 32  # midpoints of such a region

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths, 0 (the original) first.

        >>> LinearityParams(smallest_strength=0.25, strengths=3).grid
        (0.0, 0.25, 0.5, 1.0)
        """
        return (0.0, *(self.smallest_strength * self.growth**k for k in range(self.strengths)))
