"""The training run: balanced mini-batches in, a trained model and its history out; killed anywhere, it goes on."""

import dataclasses
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Integer

from dr_lib.evaluation import quadratic_weighted_kappa
from dr_lib.model import STAGES, probabilities, scaled
from dr_lib.training.augment import augmented
from dr_lib.training.batches import BalancedBatches
from dr_lib.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from dr_lib.training.feed import Feed
from dr_lib.training.params import TrainingParams
from dr_lib.training.schedule import learning_rate_schedule

if TYPE_CHECKING:
    import keras

Fetch = Callable[[np.ndarray], np.ndarray]
HEAD = ("pooled", "dropout", "fc", "stage")
# Settings that change how fast or how safely a run goes, never its outcome: changing them must not forbid resuming.
OUTCOME_FREE = ("prefetch", "checkpoint_every")


class TrainingDiverged(RuntimeError):
    """The loss or a weight is no longer a finite number. The last checkpoint is from before and is kept."""

    def __init__(self, step: int, kept_step: int) -> None:
        self.step, self.kept_step = step, kept_step
        kept = f"the checkpoint after {kept_step} mini-batches is kept" if kept_step else "there was no checkpoint yet"
        super().__init__(f"training diverged at mini-batch {step} (the loss is not finite); {kept}: lower the learning rate")


@dataclass(frozen=True)
class StepReport:
    """One mini-batch done. `step` counts from 1 to `steps`; `waited_s` is the part of `step_s` spent waiting for pixels."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    validation_qwk: float | None
    best_qwk: float | None
    step_s: float
    waited_s: float


@dataclass
class History:
    """What happened, a row per mini-batch (`rows`), and which mini-batch the final weights are from (`chosen_step`).

    Times are those of this process: a resumed run counts only its own mini-batches. `wait_share` leaves out the first
    mini-batch, in which Keras compiles.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    resumed_step: int = 0
    chosen_step: int = 0
    best_qwk: float | None = None
    step_s: float = math.nan
    wait_share: float = math.nan


def train(
    model: "keras.Model",
    fetch: Fetch,
    stages: Integer[np.ndarray, "eye"],
    params: TrainingParams,
    *,
    validation_fetch: Fetch | None = None,
    validation_stages: Integer[np.ndarray, "validation_eye"] | None = None,
    checkpoint_dir: pathlib.Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> History:
    """Train `model` in place on balanced mini-batches; return its history.

    `fetch(indices)` returns the pixels (n, size, size, 3) uint8 of training eyes, `validation_fetch` those of validation
    eyes; indices count within `stages` and `validation_stages`. `fetch` is called in a background thread, at the same time
    as `validation_fetch` in this one. With validation and `keep_best` the model ends with the weights of the best kappa.

    With a `checkpoint_dir` a later call with the same model, stages and settings goes on where the last checkpoint was
    written. On a CPU with deterministic operations the final weights are those of an undisturbed run, bit for bit.
    Other settings keep their own checkpoints, in a folder of their own.

    Raises ValueError naming the stages that have no training eye, and TrainingDiverged when the loss is not finite.
    """
    batches = BalancedBatches(stages, params)
    run = _Run(model, params, batches, stages, checkpoint_dir)
    run.restore()
    labels = _smoothed(params.label_smoothing)

    def make(step: int) -> tuple[np.ndarray, np.ndarray]:
        indices = batches.batch(step)
        pixels = fetch(indices)
        if params.augment:
            pixels = augmented(pixels, (params.seed, 7, step))
        return scaled(pixels), labels[stages[indices]]

    times: list[tuple[float, float]] = []
    with Feed(make, run.step, params.steps, params.prefetch) as feed:
        begin, waited = time.perf_counter(), 0.0
        for inputs, targets in feed:
            loss = run.learn(inputs, targets)
            step_s, waited_s = time.perf_counter() - begin, feed.waited_s - waited
            times.append((step_s, waited_s))
            kappa = None
            if validation_fetch is not None and validation_stages is not None and run.due(params.validate_every):
                kappa = _validate(model, validation_fetch, validation_stages, params.batch_size)
            run.note(loss, kappa, step_s, waited_s)
            if kappa is not None or run.due(params.checkpoint_every):
                run.save()
            if on_step is not None:
                on_step(StepReport(run.step, params.steps, loss, run.rate(run.step - 1), kappa, run.best_qwk, step_s, waited_s))
            begin, waited = time.perf_counter(), feed.waited_s
    run.choose()
    settled = times[1:]
    total = sum(step_s for step_s, _ in settled)
    return History(
        rows=run.rows,
        steps=run.step,
        resumed_step=run.resumed_step,
        chosen_step=run.best_step if run.best_step and params.keep_best else run.step,
        best_qwk=run.best_qwk,
        step_s=total / len(settled) if settled else math.nan,
        wait_share=sum(waited_s for _, waited_s in settled) / total if settled else math.nan,
    )


class _Run:
    """The state that a checkpoint holds, beside the model it belongs to."""

    def __init__(
        self,
        model: "keras.Model",
        params: TrainingParams,
        batches: BalancedBatches,
        stages: np.ndarray,
        folder: pathlib.Path | None,
    ) -> None:
        self.model, self.params, self.batches = model, params, batches
        self.rate = learning_rate_schedule(params.schedule)
        self.step = self.resumed_step = self.saved_step = 0
        self.best_qwk: float | None = None
        self.best_step = 0
        self.best_weights: list[np.ndarray] | None = None
        self.rows: list[dict[str, Any]] = []
        self.folder = None if folder is None else folder / _fingerprint(model, params, stages)
        self.optimizer = _optimizer(model, params, self.rate(0))
        self.phase: str | None = None

    def learn(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """One mini-batch; the loss before its update. Raises TrainingDiverged when the loss is not finite."""
        phase = "head" if self.step < self.params.freeze_backbone_steps else "all"
        if phase != self.phase:
            _compile(self.model, self.optimizer, self.params, phase)
            self.phase = phase
        self.optimizer.learning_rate = self.rate(self.step)
        # Keras reports a running mean of the loss over calls unless it is told to forget.
        self.model.reset_metrics()
        loss = float(np.asarray(self.model.train_on_batch(inputs, targets, return_dict=True)["loss"]))
        self.step += 1
        if not math.isfinite(loss):
            raise TrainingDiverged(self.step, self.saved_step)
        return loss

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.params.steps

    def note(self, loss: float, kappa: float | None, step_s: float, waited_s: float) -> None:
        """Write down a mini-batch and whether its weights are the best so far (the earlier of two equals)."""
        rate = self.rate(self.step - 1)
        self.rows.append(
            {
                "step": self.step,
                "loss": loss,
                "learning_rate": rate,
                "validation_qwk": kappa,
                "step_s": step_s,
                "waited_s": waited_s,
            }
        )
        if kappa is not None and math.isfinite(kappa) and (self.best_qwk is None or kappa > self.best_qwk):
            self.best_qwk, self.best_step = kappa, self.step
            self.best_weights = self.model.get_weights()

    def save(self) -> None:
        """Write the checkpoint; a best one first, under a name of its own, so that a kill in between loses neither."""
        if self.folder is None:
            return
        arrays = [np.asarray(variable) for variable in self._variables()]
        if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            raise TrainingDiverged(self.step, self.saved_step)
        if self.best_step == self.step and self.best_weights is not None:
            write_checkpoint(self._best_file(self.step), Checkpoint(self.best_weights, {"step": self.step}))
        state = {"step": self.step, "best_qwk": self.best_qwk, "best_step": self.best_step, "rows": self.rows}
        write_checkpoint(self.folder / "checkpoint.npz", Checkpoint(arrays, state))
        self.saved_step = self.step
        for file in self.folder.glob("best-*.npz"):
            if file != self._best_file(self.best_step):
                file.unlink()

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        found = None if self.folder is None else read_checkpoint(self.folder / "checkpoint.npz")
        if found is None:
            return
        variables = self._variables()
        if [tuple(v.shape) for v in variables] != [array.shape for array in found.arrays]:
            raise ValueError(f"{self.folder} holds a checkpoint of another architecture: remove it to start afresh")
        for variable, array in zip(variables, found.arrays, strict=True):
            variable.assign(array)
        self.step = self.resumed_step = self.saved_step = found.state["step"]
        self.best_qwk, self.best_step, self.rows = (found.state[name] for name in ("best_qwk", "best_step", "rows"))
        best = read_checkpoint(self._best_file(self.best_step)) if self.best_step else None
        self.best_weights = None if best is None else best.arrays

    def choose(self) -> None:
        """Put the best weights back into the model, when asked for and known."""
        if self.params.keep_best and self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def _best_file(self, step: int) -> pathlib.Path:
        assert self.folder is not None
        return self.folder / f"best-{step:06d}.npz"

    def _variables(self) -> list[Any]:
        # `variables`, unlike `weights`, includes the dropout's random counters.
        return [*self.model.variables, *self.optimizer.variables]


def _optimizer(model: "keras.Model", params: TrainingParams, rate: float) -> Any:
    """An optimiser that knows every weight, also those that a first phase leaves alone."""
    import keras

    clip = params.clip_norm or None
    if params.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=clip)
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        # float16 gradients below 6e-8 would vanish: they are scaled up before and down after.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    _set_trainable(model, params, "all")
    optimizer.build(model.trainable_variables)
    return optimizer


def _compile(model: "keras.Model", optimizer: Any, params: TrainingParams, phase: str) -> None:
    import keras

    _set_trainable(model, params, phase)
    # Measured on CPU: TensorFlow's XLA takes half as long again as its plain kernels. Other backends need compilation.
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(), jit_compile=jit, auto_scale_loss=False)


def _set_trainable(model: "keras.Model", params: TrainingParams, phase: str) -> None:
    """Which layers learn. A layer of normalisation that does not learn keeps its running statistics, too."""
    import keras

    for layer in model.layers:
        in_head = layer.name.startswith(HEAD)
        frozen_norm = params.batch_norm == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = (phase == "all" or in_head) and not frozen_norm


def _smoothed(smoothing: float) -> Float32[np.ndarray, "stage 5"]:
    """Row s: the target probabilities of stage s."""
    return (np.eye(STAGES) * (1 - smoothing) + smoothing / STAGES).astype(np.float32)


def _validate(model: "keras.Model", fetch: Fetch, stages: np.ndarray, batch_size: int) -> float:
    """The quadratic weighted kappa of the model's likeliest stages; pixels are fetched batch by batch, memory stays flat."""
    predicted = [
        probabilities(model, fetch(np.arange(start, min(start + batch_size, len(stages)))), batch_size).argmax(axis=1)
        for start in range(0, len(stages), batch_size)
    ]
    return quadratic_weighted_kappa(stages, np.concatenate(predicted))


def _fingerprint(model: "keras.Model", params: TrainingParams, stages: np.ndarray) -> str:
    """12 hex digits of all that decides the outcome: settings, the eyes' stages in order, and the first weights."""
    settings = {name: value for name, value in dataclasses.asdict(params).items() if name not in OUTCOME_FREE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(stages, np.int64).tobytes())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:12]
