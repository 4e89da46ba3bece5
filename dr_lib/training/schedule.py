"""The learning rate in steps over mini-batches (METHOD §3), its start and its last step smoothed
if asked for.
"""

import math
from dataclasses import dataclass
from typing import Literal

FinalDecay = Literal["flat", "cosine"]


@dataclass(frozen=True)
class StepwiseRate:
    """The learning rate of each mini-batch, counted from 0 (METHOD §3): a function from a
    mini-batch's number to its rate. After the run the last rate holds.

    A plain callable and no keras schedule: the rate then depends on the step alone, not on an
    optimiser's counter that a restart might lose, and the number reported is the very number used.

    Parameters
    ----------
    schedule: ((mini-batches, rate), …): each rate holds for its own number of mini-batches.
    warmup_steps: the first mini-batches, over which the rate rises linearly to their step's.
    final_decay: "cosine" lets the last rate fall along half a cosine to 0, which it would reach one
        mini-batch after the run's end.

    Raises
    ------
    ValueError: for a schedule without steps, a step without length or rate, or a warm-up longer
        than the run.

    >>> rate = learning_rate_schedule(((550, 1e-3), (350, 2e-4), (495, 5e-5)))
    >>> rate(0), rate(549), rate(550), rate(899), rate(900), rate.steps
    (0.001, 0.001, 0.0002, 0.0002, 5e-05, 1395)
    >>> smooth = learning_rate_schedule(((4, 0.4), (4, 0.2)), warmup_steps=3, final_decay="cosine")
    >>> [round(smooth(step), 4) for step in range(9)]
    [0.1, 0.2, 0.3, 0.4, 0.2, 0.1707, 0.1, 0.0293, 0.0]
    """

    schedule: tuple[tuple[int, float], ...]
    warmup_steps: int = 0
    final_decay: FinalDecay = "flat"

    def __post_init__(self) -> None:
        if not self.schedule:
            raise ValueError(
                "the schedule must have at least one step: [[mini-batches, learning rate], …]"
            )
        for count, rate in self.schedule:
            if count < 1 or rate <= 0:
                raise ValueError(
                    "each step of the schedule needs mini-batches of 1 or more and a rate above 0,"
                    f" not [{count}, {rate}]"
                )
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps must be at least 0 and below the schedule's {self.steps}"
                f" mini-batches, not {self.warmup_steps}"
            )

    @property
    def steps(self) -> int:
        """How many mini-batches the whole schedule has."""
        return sum(count for count, _ in self.schedule)

    def __call__(self, step: int) -> float:
        start, count, rate = 0, *self.schedule[0]
        for following in self.schedule[1:]:
            if step >= start + count:
                start, count, rate = start + count, *following
        rate = float(rate)
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        if self.final_decay == "cosine" and start + count == self.steps:
            rate *= (1 + math.cos(math.pi * min((step - start) / count, 1))) / 2
        return rate


learning_rate_schedule = StepwiseRate
