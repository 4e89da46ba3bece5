"""The settings of a training run."""

import math
from dataclasses import dataclass
from typing import Literal

from dr_lib.training.schedule import learning_rate_schedule

# METHOD §3: eyes of stages 0 … 4 in every sixteen, that is 50, 6.25, 12.5, 6.25 and 25 %.
SIXTEEN = 16


@dataclass(frozen=True)
class TrainingParams:
    """How a model is trained; the defaults are METHOD §3's recipe, the rest is reasoned here.

    `composition`: eyes of each stage in every 16; `batch_size` is a multiple of 16.
    `schedule`: (mini-batches, learning rate) steps; their sum is the length of the run.
    `optimizer`: Adam by default, whose customary rates METHOD's are; "sgd" has momentum 0.9. (Adam at 0.001 brought the loss
    of 430 real eyes at 144 px from 1.4 to 0.9 in 120 mini-batches, AUC for referable disease on unseen eyes 0.70.)
    `batch_norm`: "adapt" normalises each batch by itself and lets the running statistics follow; "frozen" keeps the
    trunk's statistics. A fundus with its tone removed looks unlike the trunk's photographs: with statistics of 640 fundi
    instead of its own, the untrained trunk's pooled features tell referable eyes with AUC 0.63 instead of 0.53.
    `freeze_backbone_steps`: for so many first mini-batches only the dense layers learn: their random start would
    otherwise send large, meaningless gradients into the trunk.
    `label_smoothing`: the share of a label spread over the five stages; graders disagree on a fellow stage often.
    `clip_norm`: the largest length of a step's gradient (0: no limit).
    `validate_every`, `checkpoint_every`: mini-batches between; `keep_best`: end with the weights of the best
    validation kappa instead of the last ones. `prefetch`: batches prepared ahead in a background thread.
    """

    batch_size: int = 16
    composition: tuple[int, int, int, int, int] = (8, 1, 2, 1, 4)
    schedule: tuple[tuple[int, float], ...] = ((550, 1e-3), (350, 2e-4), (495, 5e-5))
    augment: bool = True
    seed: int = 0
    optimizer: Literal["adam", "sgd"] = "adam"
    batch_norm: Literal["adapt", "frozen"] = "adapt"
    freeze_backbone_steps: int = 0
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    validate_every: int = 50
    checkpoint_every: int = 50
    keep_best: bool = True
    prefetch: int = 4

    def __post_init__(self) -> None:
        if sum(self.composition) != SIXTEEN or min(self.composition) < 0 or len(self.composition) != 5:
            raise ValueError(f"composition must be five counts that add up to {SIXTEEN}, not {self.composition}")
        if self.batch_size < SIXTEEN or self.batch_size % SIXTEEN:
            raise ValueError(f"batch_size must be a multiple of {SIXTEEN}, not {self.batch_size}")
        learning_rate_schedule(self.schedule)
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer must be adam or sgd, not {self.optimizer!r}")
        if self.batch_norm not in ("adapt", "frozen"):
            raise ValueError(f"batch_norm must be adapt or frozen, not {self.batch_norm!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}")
        if self.clip_norm < 0 or not math.isfinite(self.clip_norm):
            raise ValueError(f"clip_norm must be 0 (no limit) or more, not {self.clip_norm}")
        for name, least in (
            ("seed", 0),
            ("freeze_backbone_steps", 0),
            ("validate_every", 1),
            ("checkpoint_every", 1),
            ("prefetch", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    @property
    def steps(self) -> int:
        """How many mini-batches the run has."""
        return sum(count for count, _ in self.schedule)
