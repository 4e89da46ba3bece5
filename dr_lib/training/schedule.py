"""The learning rate as a staircase over mini-batches (METHOD §3)."""

import bisect
import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class StepwiseRate:
    """The learning rate of each mini-batch, counted from 0: `rates[i]` before mini-batch `ends[i]`, the last one after.

    A plain callable and no keras schedule: the rate then depends on the step alone, not on an optimiser's counter that
    a restart might lose, and the number reported is the very number used.
    """

    ends: tuple[int, ...]
    rates: tuple[float, ...]

    @property
    def steps(self) -> int:
        """How many mini-batches the whole staircase has."""
        return self.ends[-1]

    def __call__(self, step: int) -> float:
        return self.rates[min(bisect.bisect_right(self.ends, step), len(self.rates) - 1)]


def learning_rate_schedule(schedule: tuple[tuple[int, float], ...]) -> StepwiseRate:
    """The staircase of ((mini-batches, rate), …): each rate holds for its own number of mini-batches.

    >>> rate = learning_rate_schedule(((550, 1e-3), (350, 2e-4), (495, 5e-5)))
    >>> rate(0), rate(549), rate(550), rate(899), rate(900), rate.steps
    (0.001, 0.001, 0.0002, 0.0002, 5e-05, 1395)
    """
    if not schedule:
        raise ValueError("the schedule must have at least one step: [[mini-batches, learning rate], …]")
    for count, rate in schedule:
        if count < 1 or rate <= 0:
            raise ValueError(
                f"each step of the schedule needs mini-batches of 1 or more and a rate above 0, not [{count}, {rate}]"
            )
    counts, rates = zip(*schedule, strict=True)
    return StepwiseRate(tuple(itertools.accumulate(counts)), tuple(float(rate) for rate in rates))
