"""The training run: balanced mini-batches in, a trained model and its history out. Killed anywhere,
it continues from its last checkpoint.
"""

import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer, Shaped

from dr_lib.evaluation.metrics import Evaluation, evaluate
from dr_lib.network.model import probabilities, scaled
from dr_lib.training.augment import augmented
from dr_lib.training.batches import BalancedBatches
from dr_lib.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from dr_lib.training.feed import Feed, feed_workers
from dr_lib.training.optimizer import compile_phase, optimizer_of
from dr_lib.training.params import TrainingParams, outcome_settings
from dr_lib.vocabulary import STAGE_COUNT

if TYPE_CHECKING:
    import keras


Fetch = Callable[[np.ndarray], np.ndarray]
# What a checkpoint holds beside its arrays: attributes of `_Run`.
STATE = ("step", "best_score", "best_qwk", "best_step", "rows")
LAST, BEST = "checkpoint.npz", "best-{:06d}.npz"


class TrainingDiverged(RuntimeError):
    """The loss or a weight is no longer a finite number. The last checkpoint is from before and
    is kept.
    """

    def __init__(self, step: int, kept_step: int) -> None:
        kept = (
            f"the checkpoint after {kept_step} mini-batches is kept"
            if kept_step
            else "there was no checkpoint yet"
        )
        super().__init__(
            f"training diverged at mini-batch {step} (the loss is not finite); {kept}: lower the"
            " learning rate"
        )


@dataclass(frozen=True)
class StepReport:
    """A mini-batch that was trained on.

    step: its number, from 1.
    loss: its mean over the mini-batch, before the update.
    validation_qwk, validation_score: the kappa, and what `best_by` names, of a validation after it.
    best_qwk: the kappa of the best validation so far, whatever it is the best by.
    step_s, waited_s: its seconds, and the part of them spent waiting for pixels.
    """

    step: int
    loss: float
    learning_rate: float
    validation_qwk: float | None
    validation_score: float | None
    step_s: float
    waited_s: float
    best_qwk: float | None


@dataclass(frozen=True)
class History:
    """What happened in a run.

    rows: a row per mini-batch, the fields of `StepReport` but the last.
    resumed_step: mini-batches done before this process went on.
    chosen_step: the mini-batch after which the final weights stood. best_qwk: see `StepReport`.
    step_s, wait_share: mean seconds of a mini-batch, and the share of them spent waiting for
        pixels; of this process' mini-batches but the first, in which Keras compiles.
    """

    rows: list[dict[str, Any]]
    resumed_step: int
    chosen_step: int
    best_qwk: float | None
    step_s: float
    wait_share: float


def train(
    model: "keras.Model",
    fetch: Fetch,
    stages: Integer[np.ndarray, "eye"],
    params: TrainingParams,
    *,
    sources: Shaped[np.ndarray, "eye"] | None = None,
    validation_fetch: Fetch | None = None,
    validation_stages: Integer[np.ndarray, "validation_eye"] | None = None,
    checkpoint_dir: pathlib.Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> History:
    """Train `model` in place on balanced mini-batches (METHOD §3).

    Parameters
    ----------
    model: from `fundus` (n, size, size, 3) to `stage` (n, 5). With validation and `keep_best` it
        ends with the weights of the best validation.
    fetch: indices -> the pixels (n, size, size, 3) uint8 of these training eyes; called in
        background threads, at the same time as `validation_fetch` in this one.
    stages: (eye,) 0 … 4, of the training eyes.
    sources: (eye,) where each training eye comes from, for `params.balance_sources`.
    validation_fetch, validation_stages: the same of validation eyes.
    checkpoint_dir: where a later call with the same model, stages and settings goes on after a
        kill. On a CPU with deterministic operations the final weights are those of an undisturbed
        run, bit for bit. Other settings keep their own checkpoints, in a folder of their own.
    on_step: called after every mini-batch.

    Returns
    -------
    History: `model` holds the weights of its `chosen_step`.

    Raises
    ------
    ValueError: naming the stages that have no training eye.
    TrainingDiverged: when the loss is not finite.
    """
    batches = BalancedBatches(stages, params, sources)
    run = _Run(model, params, stages, sources, checkpoint_dir)
    run.restore()
    certain = 1 - params.label_smoothing
    # Row s: the target probabilities of stage s.
    labels = np.eye(STAGE_COUNT) * certain + params.label_smoothing / STAGE_COUNT
    labels = labels.astype(np.float32)

    def make(step: int) -> tuple[np.ndarray, np.ndarray]:
        indices = batches.batch(step)
        pixels = fetch(indices)
        if params.augment:
            pixels = augmented(pixels, (params.seed, 7, step), params.other_cameras)
        return scaled(pixels), labels[stages[indices]]

    with Feed(make, run.step, params.steps, params.prefetch, feed_workers()) as feed:
        begin, waited = time.perf_counter(), 0.0
        for inputs, targets in feed:
            loss = run.learn(inputs, targets)
            step_s, waited_s = time.perf_counter() - begin, feed.waited_s - waited
            graded = None
            validates = validation_fetch is not None and validation_stages is not None
            if validates and run.due(params.validate_every):
                graded = run.validate(validation_fetch, validation_stages)
            report = run.note(loss, graded, step_s, waited_s)
            if graded is not None or run.due(params.checkpoint_every):
                run.save()
            if on_step is not None:
                on_step(report)
            begin, waited = time.perf_counter(), feed.waited_s
    run.choose()
    timed = run.rows[run.resumed_step + 1 :]
    total = sum(row["step_s"] for row in timed)
    return History(
        rows=run.rows,
        resumed_step=run.resumed_step,
        chosen_step=run.best_step if run.best_step and params.keep_best else run.step,
        best_qwk=run.best_qwk,
        step_s=total / len(timed) if timed else math.nan,
        wait_share=sum(row["waited_s"] for row in timed) / total if timed else math.nan,
    )


class _Run:
    """The state that a checkpoint holds, beside the model it belongs to."""

    def __init__(
        self,
        model: "keras.Model",
        params: TrainingParams,
        stages: np.ndarray,
        sources: np.ndarray | None,
        folder: pathlib.Path | None,
    ) -> None:
        self.model, self.params = model, params
        self.rate = params.rate
        self.step = self.resumed_step = self.saved_step = 0
        self.best_score: float | None = None
        self.best_qwk: float | None = None
        self.best_step = 0
        self.best_weights: list[np.ndarray] | None = None
        self.rows: list[dict[str, Any]] = []
        told_apart = sources if params.balance_sources else None
        self.folder = (
            None if folder is None else folder / _fingerprint(model, params, stages, told_apart)
        )
        self.optimizer = optimizer_of(model, params, self.rate(0))
        self.average = AveragedWeights(model, params.average_decay)
        self.phase: str | None = None

    def learn(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """One mini-batch; the loss before its update. Raises TrainingDiverged when the loss is
        not finite.
        """
        phase = "head" if self.step < self.params.freeze_backbone_steps else "all"
        if phase != self.phase:
            compile_phase(self.model, self.optimizer, self.params, phase)
            self.phase = phase
        self.optimizer.learning_rate = self.rate(self.step)
        # Keras reports a running mean of the loss over calls unless it is told to forget.
        self.model.reset_metrics()
        logs = self.model.train_on_batch(inputs, targets, return_dict=True)
        loss = float(np.asarray(logs["loss"]))
        self.step += 1
        if not math.isfinite(loss):
            raise TrainingDiverged(self.step, self.saved_step)
        self.average.follow(self.model, self.step)
        return loss

    def validate(self, fetch: Fetch, stages: np.ndarray) -> Evaluation:
        """The grades of the weights that would be kept now; pixels are fetched batch by batch, so
        that memory does not grow with the eyes.
        """
        size = self.params.batch_size
        batches = np.split(np.arange(len(stages)), range(size, len(stages), size))
        raw = self.model.get_weights()
        self.model.set_weights(self.average.arrays or raw)
        try:
            parts = [probabilities(self.model, fetch(indices), size) for indices in batches]
        finally:
            self.model.set_weights(raw)
        grades = np.concatenate(parts)
        if not np.isfinite(grades).all():
            raise TrainingDiverged(self.step, self.saved_step)
        return evaluate(stages, grades)

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.params.steps

    def note(
        self, loss: float, graded: Evaluation | None, step_s: float, waited_s: float
    ) -> StepReport:
        """Writes down a mini-batch and whether its weights are the best so far (the earlier of
        two equals).
        """
        kappa = score = None
        if graded is not None:
            kappa, by = graded.values["qwk"], self.params.best_by
            score = graded.ranking if by == "auc" else graded.values[by]
        row = {
            "step": self.step,
            "loss": loss,
            "learning_rate": self.rate(self.step - 1),
            "validation_qwk": kappa,
            "validation_score": score,
            "step_s": step_s,
            "waited_s": waited_s,
        }
        self.rows.append(row)
        best = -math.inf if self.best_score is None else self.best_score
        if score is not None and math.isfinite(score) and score > best:
            self.best_score, self.best_qwk, self.best_step = score, kappa, self.step
            self.best_weights = self._kept_weights()
        return StepReport(**row, best_qwk=self.best_qwk)

    def save(self) -> None:
        """Write the checkpoint; a best one first, under a name of its own, so that a kill in
        between loses neither.
        """
        if self.folder is None:
            return
        arrays = [np.asarray(array) for array in (*self._variables(), *self.average.arrays)]
        if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            raise TrainingDiverged(self.step, self.saved_step)
        best_file = self.folder / BEST.format(self.best_step)
        if self.best_step == self.step and self.best_weights is not None:
            write_checkpoint(best_file, Checkpoint(self.best_weights, {"step": self.step}))
        state = {name: getattr(self, name) for name in STATE}
        write_checkpoint(self.folder / LAST, Checkpoint(arrays, state))
        self.saved_step = self.step
        for file in self.folder.glob(BEST.replace("{:06d}", "*")):
            if file != best_file:
                file.unlink()

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        if self.folder is None or not (saved := read_checkpoint(self.folder / LAST)):
            return
        variables = self._variables()
        shapes = [tuple(array.shape) for array in (*variables, *self.average.arrays)]
        if shapes != [array.shape for array in saved.arrays]:
            raise ValueError(
                f"{self.folder} holds a checkpoint of another architecture: remove it to start"
                " afresh"
            )
        for variable, array in zip(variables, saved.arrays, strict=False):
            variable.assign(array)
        for mean, array in zip(self.average.arrays, saved.arrays[len(variables) :], strict=True):
            mean[...] = array
        for name in STATE:
            setattr(self, name, saved.state[name])
        self.resumed_step = self.saved_step = self.step
        if self.best_step:
            best = read_checkpoint(self.folder / BEST.format(self.best_step))
            self.best_weights = None if best is None else best.arrays

    def choose(self) -> None:
        """Put the best weights back into the model, when asked for and known; otherwise the last
        ones, averaged or not.
        """
        best = self.best_weights if self.params.keep_best else None
        self.model.set_weights(self._kept_weights() if best is None else best)

    def _kept_weights(self) -> list[np.ndarray]:
        """A copy of the weights that are graded: the averaged ones where there are any."""
        return [mean.copy() for mean in self.average.arrays] or self.model.get_weights()

    def _variables(self) -> list[Any]:
        # `variables`, unlike `weights`, includes the dropout's random counters.
        return [*self.model.variables, *self.optimizer.variables]


def _fingerprint(
    model: "keras.Model", params: TrainingParams, stages: np.ndarray, sources: np.ndarray | None
) -> str:
    """12 hex digits of all that decides the outcome: settings, the eyes' stages (and sources, where
    they matter) in order, and the first weights.
    """
    digest = hashlib.sha256(json.dumps(outcome_settings(params), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(stages, np.int64).tobytes())
    if sources is not None:
        digest.update("\n".join(map(str, sources)).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:12]


# Every mini-batch would cost 5 % of an Inception V3's step on two cores; neighbours differ by far
# less than the mean smooths.
AVERAGE_EVERY = 5


class AveragedWeights:
    """The exponentially weighted mean of a model's weights after mini-batches 1, 6, 11, …; the
    start has no part in it. It is steadier than those of any one mini-batch (Polyak averaging):
    with sixteen eyes in each, of which one or two are mild, the raw weights' grades jump from one
    validation to the next, and the best of them on a few eyes are lucky rather than good.

    Weights of k mini-batches ago count `decay^k` times as much as the newest. The running
    statistics of normalisation are averaged along: those of the raw weights would not fit the mean
    ones. (Keras' own `use_ema` leaves them out, starts from the random head, and does not work
    behind a scaled loss.) A pure function of the weights and the step, so that `arrays` is all that
    a checkpoint needs. With decay 0 there is no mean, and `arrays` is empty.
    """

    def __init__(self, model: "keras.Model", decay: float) -> None:
        self._decay = decay**AVERAGE_EVERY
        weights = model.get_weights() if decay else []
        self.arrays: list[np.ndarray] = [np.array(weight) for weight in weights]

    def follow(self, model: "keras.Model", step: int) -> None:
        """Take in the weights after mini-batch `step`, counted from 1."""
        if (step - 1) % AVERAGE_EVERY or not self.arrays:
            return
        seen = (step - 1) // AVERAGE_EVERY + 1
        # What makes the shares decay^k and their sum 1 from the first on: 1, then 1/(1 + d), …,
        # towards 1 − d.
        share = (1 - self._decay) / (1 - self._decay**seen)
        for mean, weight in zip(self.arrays, model.get_weights(), strict=True):
            mean += np.asarray(share * (weight - mean), mean.dtype)
