"""What can be asked of a synthetic data set, and the random streams that its seed stands for."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval

from dr_lib.settings import NonNegativeInt, Settings

# One stream per concern: a change to how lesions are drawn leaves the anatomy and the camera of
# every eye as it was.
STREAMS = {"patient": 0, "anatomy": 1, "lesions": 2, "painting": 3, "camera": 4}
_EYES = {"both": 0, "left": 1, "right": 2}


@dataclass(frozen=True)
class SynthesisParams(Settings):
    """The settings of a synthetic data set.

    seed: any integer from 0; the same seed and count give the same bytes. balanced: every stage
    equally often, instead of Kaggle's frequencies (73.5/7.0/15.1/2.5/2.0 %). smallest_px,
    largest_px: widths of the smallest and the largest camera's photographs.
    """

    seed: NonNegativeInt = 0
    balanced: bool = False
    smallest_px: Annotated[int, Interval(ge=200), "lesions vanish below"] = 600
    largest_px: Annotated[int, Interval(le=8000)] = 3000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.smallest_px <= self.largest_px:
            raise ValueError(
                f"largest_px must be at least smallest_px ({self.smallest_px}), not"
                f" {self.largest_px}"
            )


def stream(seed: int, patient: int, eye: str, concern: str) -> np.random.Generator:
    """The random stream of one concern of one eye; `eye` is left, right, or both for what fellow
    eyes share.
    """
    return np.random.default_rng(
        np.random.SeedSequence([seed, patient, _EYES[eye], STREAMS[concern]])
    )
