"""What can be asked of a synthetic data set, and the random streams that its seed stands for."""

from dataclasses import dataclass

import numpy as np

# One stream per concern: a change to how lesions are drawn leaves the anatomy and the camera of
# every eye as it was.
STREAMS = {"patient": 0, "anatomy": 1, "lesions": 2, "painting": 3, "camera": 4}
_EYES = {"both": 0, "left": 1, "right": 2}


@dataclass(frozen=True)
class SynthesisParams:
    """The settings of a synthetic data set.

    seed: any integer from 0; the same seed and count give the same bytes. balanced: every stage
    equally often, instead of Kaggle's frequencies (73.5/7.0/15.1/2.5/2.0 %). smallest_px,
    largest_px: widths of the smallest and the largest camera's photographs. lowest_quality,
    highest_quality: range of the cameras' JPEG quality, 1 to 100. fellow_kappa: quadratic weighted
    kappa between the stages of left and right eyes (EyePACS: 0.85).
    """

    seed: int = 0
    balanced: bool = False
    smallest_px: int = 600
    largest_px: int = 3000
    lowest_quality: int = 80
    highest_quality: int = 95
    fellow_kappa: float = 0.85

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if self.smallest_px < 200:
            raise ValueError(
                f"smallest_px must be at least 200 (lesions vanish below), not {self.smallest_px}"
            )
        if not self.smallest_px <= self.largest_px <= 8000:
            raise ValueError(
                f"largest_px must lie between smallest_px ({self.smallest_px}) and 8000, not"
                f" {self.largest_px}"
            )
        if not 1 <= self.lowest_quality <= self.highest_quality <= 100:
            raise ValueError(
                "JPEG qualities must satisfy 1 <= lowest <= highest <= 100, not"
                f" {self.lowest_quality} and {self.highest_quality}"
            )
        if not 0.0 < self.fellow_kappa <= 1.0:
            raise ValueError(f"fellow_kappa must lie in (0, 1], not {self.fellow_kappa}")


def stream(seed: int, patient: int, eye: str, concern: str) -> np.random.Generator:
    """The random stream of one concern of one eye; `eye` is left, right, or both for what fellow
    eyes share.
    """
    return np.random.default_rng(
        np.random.SeedSequence([seed, patient, _EYES[eye], STREAMS[concern]])
    )
