"""The settings of the linearity study: layers, strengths, and the thresholds behind a unit's
verdict.
"""

from dataclasses import dataclass

from dr_lib.perturbation.adversarial import Norm
from dr_lib.vocabulary import STAGE_COUNT


@dataclass(frozen=True)
class LinearityParams:
    """Which layers, which strengths, how finely averaged, and the thresholds of a unit's
    verdict.
    """

    layers: tuple[str, ...] = ("fc1", "fc2", "pooled", "mixed2")
    target_stage: int = 1
    norm: Norm = "linf"
    smallest_strength: float = 2.0**-12  # far below one 8-bit level, 2⁻⁷
    strengths: int = 12  # from the smallest, growing by `growth`; strength 0 is added
    growth: float = 2.0
    points: int = 64  # of the average gradient's quadrature
    conv_points: int = (
        16  # the same in a convolutional layer, above which most of the network may lie
    )
    inside_only: bool = True
    limit: int = 32  # eyes; 0: all
    batch_size: int = 4
    dead_share: float = (
        1e-6  # a unit whose attribution never exceeds this share of the layer's largest is dead
    )
    constant_share: float = (
        0.05  # activation moves by less than this share of its largest difference: constant
    )
    reversed_correlation: float = (
        0.5  # attribution and outcome correlate below minus this: reversed
    )
    gradient_bound: float = (
        0.2  # linear: the average gradient's coefficient of variation stays within this …
    )
    # … and attribution is a line through 0 of the activation difference with at least this R²
    least_r2: float = 0.9
    # constant or reversed units of a layer that are looked at one by one, the largest first; 0:
    # none
    special_units: int = 8
    special_eyes: int = 3  # eyes of which a special unit's region is kept
    region_points: int = 32  # midpoints of such a region

    def __post_init__(self) -> None:
        if not 0 <= self.target_stage < STAGE_COUNT:
            raise ValueError(
                f"target_stage must be a stage from 0 to {STAGE_COUNT - 1}, not {self.target_stage}"
            )
        if not (self.smallest_strength > 0 and self.growth > 1):
            raise ValueError("smallest_strength must be above 0 and growth above 1: strengths grow")
        for name, least in (
            *(("strengths", 1), ("points", 1), ("conv_points", 1), ("limit", 0), ("batch_size", 1)),
            *(("special_units", 0), ("special_eyes", 1), ("region_points", 1)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in (
            "dead_share",
            "constant_share",
            "reversed_correlation",
            "gradient_bound",
            "least_r2",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths, 0 (the original) first.

        >>> LinearityParams(smallest_strength=0.25, strengths=3).grid
        (0.0, 0.25, 0.5, 1.0)
        """
        return (0.0, *(self.smallest_strength * self.growth**k for k in range(self.strengths)))
