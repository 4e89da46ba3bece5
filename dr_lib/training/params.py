"""The settings of a training run, and its learning rate in steps over mini-batches (METHOD §3), its
start and its last step smoothed if asked for.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dr_lib.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Settings,
    Share,
    ShareBelow1,
    of_old,
)

# METHOD §3: eyes of stages 0 … 4 in every sixteen, that is 50, 6.25, 12.5, 6.25 and 25 %.
SIXTEEN = 16
# Settings that change how fast or how safely a run goes, never its outcome: changing them must not
# forbid resuming.
OUTCOME_FREE = ("prefetch", "checkpoint_every")


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


@dataclass(frozen=True)
class TrainingParams(Settings):
    """How a model is trained; the defaults are METHOD §3's recipe, the rest is reasoned here.

    batch_size: a multiple of 16. composition: eyes of each stage in every 16.
    balance_sources: how evenly each stage's eyes are drawn from the sources that have some: 0 each
        eye equally often, 1 each source. A network that could read the stage off the camera would.
    schedule: (mini-batches, learning rate) steps; their sum is the length of the run.
    warmup_steps: first mini-batches over which the rate rises (`dr_lib.training.params`).
    final_decay: "cosine" lets the schedule's last step fall to 0; "flat" holds it.
    augment: turn, mirror, zoom and tone the fundi (`dr_lib.training.augment`).
    other_cameras: with `augment`, the share of fundi that also get the colours, the contrast and
        the sharpness of another camera.
    loss: "ordinal" charges a grade by how many stages it is off, too, `ordinal_weight` times
        (`dr_lib.training.optimizer`).
    optimizer: Adam by default, whose customary rates METHOD's are; "sgd" has momentum 0.9. (Adam at
        0.001 brought the loss of 430 real eyes at 144 px from 1.4 to 0.9 in 120 mini-batches, AUC
        for referable disease on unseen eyes 0.70.) "adamw" shrinks every kernel by `weight_decay`
        times the learning rate a mini-batch.
    batch_norm: "adapt" normalises each batch by itself and lets the running statistics follow, in
        layers whose weights stay, too; "frozen" keeps the backbone's statistics. A fundus with its
        tone removed looks unlike the backbone's photographs: with statistics of 640 fundi instead
        of its own, the untrained backbone's pooled features tell referable eyes with AUC 0.63
        instead of 0.53.
    freeze_backbone_steps: for so many first mini-batches only the dense layers learn: their random
        start would otherwise send large, meaningless gradients into the backbone.
    freeze_below: the weights of this layer, such as mixed2, and of all below it stay as they are
        for the whole run, and their backward pass is saved.
    label_smoothing: the share of a label spread over the five stages; graders disagree on a fellow
        stage often.
    clip_norm: the largest length of a mini-batch's gradient (0: no limit).
    average_decay: with 0.99 about the last hundred mini-batches' mean weights are validated and
        kept instead of the raw ones (0: the raw ones, `dr_lib.training.loop`).
    validate_every, checkpoint_every: mini-batches between.
    keep_best: end with the weights of the best validation instead of the last ones. best_by: the
        kappa of the likeliest stage ("qwk"), that of the expected stage ("qwk_expected"), or the
        mean AUC of any and of referable disease ("auc"), which needs no threshold and so is the
        steadiest on few eyes.
    prefetch: batches prepared ahead in background threads.
    """

    batch_size: int = 16
    composition: tuple[int, int, int, int, int] = (8, 1, 2, 1, 4)
    balance_sources: Share = 0.0
    schedule: tuple[tuple[int, float], ...] = ((550, 1e-3), (350, 2e-4), (495, 5e-5))
    warmup_steps: int = 0
    final_decay: FinalDecay = "flat"
    augment: bool = True
    other_cameras: Share = 0.0
    seed: NonNegativeInt = 0
    loss: Literal["crossentropy", "ordinal"] = "crossentropy"
    ordinal_weight: NonNegativeFloat = 1.0
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: ShareBelow1 = 0.0
    batch_norm: Literal["adapt", "frozen"] = "adapt"
    freeze_backbone_steps: NonNegativeInt = 0
    freeze_below: str = ""
    label_smoothing: ShareBelow1 = 0.1
    clip_norm: Annotated[NonNegativeFloat, "0: no limit"] = 1.0
    average_decay: ShareBelow1 = 0.0
    validate_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 50
    keep_best: bool = True
    best_by: Literal["qwk", "qwk_expected", "auc"] = "qwk"
    prefetch: PositiveInt = 4

    def check(self) -> None:
        if (
            sum(self.composition) != SIXTEEN
            or min(self.composition) < 0
            or len(self.composition) != 5
        ):
            raise ValueError(
                f"composition must be five counts that add up to {SIXTEEN}, not {self.composition}"
            )
        if self.batch_size < SIXTEEN or self.batch_size % SIXTEEN:
            raise ValueError(f"batch_size must be a multiple of {SIXTEEN}, not {self.batch_size}")
        _ = self.rate  # refuses an impossible schedule
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f'weight_decay needs optimizer = "adamw", not {self.optimizer!r}')

    @property
    def rate(self) -> StepwiseRate:
        """The learning rate of each mini-batch."""
        return StepwiseRate(self.schedule, self.warmup_steps, self.final_decay)

    @property
    def steps(self) -> int:
        """How many mini-batches the run has."""
        return self.rate.steps


# Settings that the first models did not have, with the value that changes nothing.
DEFAULTS_BEFORE_ADDED = {
    "balance_sources": 0.0,
    "other_cameras": 0.0,
    "warmup_steps": 0,
    "final_decay": "flat",
    "loss": "crossentropy",
    "ordinal_weight": 1.0,
    "weight_decay": 0.0,
    "freeze_below": "",
    "average_decay": 0.0,
    "best_by": "qwk",
}
# What a renamed setting is called in ids, so that models keep theirs.
NAMES_IN_IDS = {"final_decay": "last_stair"}


def outcome_settings(params: TrainingParams) -> dict[str, Any]:
    """The settings that decide a run's outcome, by name: what ids are made of.

    A later setting at the value that changes nothing is left out, so that models trained before it
    existed keep their id. `params` may be a section of the configuration, which has more fields:
    they are left out, too.
    """
    settings = {
        field.name: getattr(params, field.name)
        for field in dataclasses.fields(TrainingParams)
        if field.name not in OUTCOME_FREE
    }
    return {
        NAMES_IN_IDS.get(name, name): value
        for name, value in of_old(settings, DEFAULTS_BEFORE_ADDED).items()
    }
