"""What can be asked of a synthetic data set: its patients, the stage of each of their eyes, and the
random streams that its seed stands for.

Counts of stages are exact (largest remainders), not drawn: a small data set still holds every
stage. Fellow eyes agree as they do in EyePACS, so that a split that separates them would leak, here
as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

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

    def check(self) -> None:
        if not self.smallest_px <= self.largest_px:
            raise ValueError(
                f"largest_px must be at least smallest_px ({self.smallest_px}), not"
                f" {self.largest_px}"
            )


def stream(seed: int, patient: int, eye: str, concern: str) -> np.random.Generator:
    """The random stream of one concern of one eye; `eye` is left, right, or both for what fellow
    eyes share.
    """
    return np.random.default_rng([seed, patient, _EYES[eye], STREAMS[concern]])


FELLOW_KAPPA = 0.85  # EyePACS' between the stages of left and right eyes
# Stages 0 to 4 among Kaggle's 35,126 training photographs.
KAGGLE_COUNTS = (25810, 2443, 5292, 873, 708)


@dataclass(frozen=True)
class EyePlan:
    """One photograph to draw: whose, which eye, which stage."""

    patient: int
    eye: Literal["left", "right"]
    stage: int

    @property
    def image_id(self) -> str:
        """Kaggle's name of the photograph.

        >>> EyePlan(patient=10, eye="left", stage=0).image_id
        '10_left'
        """
        return f"{self.patient}_{self.eye}"


def stage_counts(count: int, weights: Sequence[int]) -> tuple[int, ...]:
    """How many of `count` eyes get each stage: the shares of `weights`, rounded by largest
    remainders.

    Ties go to the higher stage, the rarer one.

    >>> stage_counts(40, KAGGLE_COUNTS)
    (29, 3, 6, 1, 1)
    >>> stage_counts(7, (1, 1, 1, 1, 1))
    (1, 1, 1, 2, 2)
    """
    quotas = count * np.array(weights) / sum(weights)
    counts = quotas.astype(int)
    by_remainder = np.lexsort((np.arange(len(counts)), np.round(quotas - counts, 9)))
    counts[by_remainder[::-1][: count - counts.sum()]] += 1
    return tuple(counts.tolist())


def plan(count: int, params: SynthesisParams) -> list[EyePlan]:
    """The `count` eyes of a data set: patients from 1, left before right; an odd count leaves the
    last patient one eye.

    Raises
    ------
    ValueError: if `count` is less than 1.
    """
    if count < 1:
        raise ValueError(f"a data set needs at least 1 photograph, not {count}")
    rng = np.random.default_rng([params.seed])
    counts = list(stage_counts(count, (1, 1, 1, 1, 1) if params.balanced else KAGGLE_COUNTS))
    single = [int(np.argmax(counts))] if count % 2 else []
    for stage in single:
        counts[stage] -= 1
    # Neighbours in the sorted list are fellow eyes: complete agreement, which `_disagree` then
    # lowers.
    pairs = np.repeat(np.arange(5), counts).reshape(-1, 2)
    _disagree(pairs, rng)
    eyes = [int(stage) for pair in rng.permutation(pairs) for stage in pair] + single
    return [
        EyePlan(1 + index // 2, "right" if index % 2 else "left", stage)
        for index, stage in enumerate(eyes)
    ]


def _disagree(pairs: np.ndarray, rng: np.random.Generator) -> None:
    """Exchanges eyes between patients, in place, until left and right agree only with the quadratic
    weighted kappa `FELLOW_KAPPA`.

    Kappa is 1 − mean (left − right)² / (2 · variance of the stages), as both sides have the same
    frequencies: so the sum of squared differences to reach is known beforehand. No exchange makes
    fellow eyes differ by more than two stages.
    """
    patients = len(pairs)
    if patients < 2:
        return
    wanted = (1.0 - FELLOW_KAPPA) * patients * 2.0 * float(pairs.var())
    reached = float(((pairs[:, 0] - pairs[:, 1]) ** 2).sum())
    for first, second, side, other_side in rng.integers(
        0, [patients, patients, 2, 2], size=(40 * patients, 4)
    ).tolist():
        if reached >= wanted:
            return
        eyes = [first, second], [side, other_side]
        stages, fellows = pairs[eyes], pairs[[first, second], [1 - side, 1 - other_side]]
        after = (stages[::-1] - fellows) ** 2
        grown = float((after - (stages - fellows) ** 2).sum())
        if after.max() <= 4 and grown > 0 and reached + grown <= wanted + 1:
            pairs[eyes] = stages[::-1]
            reached += grown
