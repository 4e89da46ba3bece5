"""The smallest strength of a change that makes the model predict a target stage: bracketing, then
bisection.

One search serves both counterfactuals and adversarial examples. It knows nothing of how images are
changed (`move`) or of the model behind `predict`, works on many eyes at once, and evaluates only
those still undecided. The model's answer need not be monotonic in the strength: the search finds
the first strength of a growing grid that reaches the target and refines that bracket, so a narrow
island of reaching strengths between two grid points can be missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dr_lib.perturbation.comparison import Images, change_measures
from dr_lib.vocabulary import STAGE_COUNT

LEGAL = (-1.0, 127 / 128)  # pixels 0 and 255 after scaling

Predict = Callable[[np.ndarray], np.ndarray]  # (n, y, x, 3) scaled float32 -> (n, 5) probabilities
Move = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # (rows, a strength for each) -> changed images of those rows


@dataclass(frozen=True)
class StrengthResult:
    """What a search found for each eye; a target not reached is a result too.

    Where `reached`: `strength` is the smallest found, `images` and `after` belong to it. Where not:
    they belong to the strength that attained `best_probability` of the target (0 and the original
    if no strength improved on it). `failed` eyes had a non-finite attribution, gradient, image or
    probability; they keep what was seen before that.
    """

    reached: Bool[np.ndarray, "image"]
    failed: Bool[np.ndarray, "image"]
    strength: Float[np.ndarray, "image"]
    best_probability: Float[np.ndarray, "image"]  # of the target, over all strengths tried
    before: Float[np.ndarray, "image stage"]
    after: Float[np.ndarray, "image stage"]
    images: Images


def strength_grid(smallest: float, largest: float, growth: float) -> tuple[float, ...]:
    """Strengths from `smallest` growing by the factor `growth`, ending with `largest` itself.

    >>> strength_grid(0.25, 3.0, 2.0)
    (0.25, 0.5, 1.0, 2.0, 3.0)
    """
    if not (0 < smallest <= largest and growth > 1):
        raise ValueError(
            f"strengths must satisfy 0 < smallest <= largest and growth > 1, not {smallest},"
            f" {largest} and {growth}"
        )
    grid = [smallest]
    while grid[-1] * growth < largest:
        grid.append(grid[-1] * growth)
    return tuple(grid) if grid[-1] == largest else (*grid, largest)


def search(
    predict: Predict,
    inputs: Images,
    move: Move,
    target_stage: int,
    *,
    grid: Sequence[float],
    bisections: int,
    failed: Bool[np.ndarray, "image"] | None = None,
    advanced: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> StrengthResult:
    """The smallest strength for each eye at which the model's most probable stage is
    `target_stage`.

    Parameters
    ----------
    predict : any number of images to the stages' probabilities
    inputs : (image, y, x, channel) scaled images; one already there needs strength 0
    move : rows and a strength for each to the changed images
    grid : strengths of the bracketing, growing
    bisections : of the bracket found
    failed : eyes not to be tried
    advanced : told after each step of the grid which rows go on and with what strength, before the
        next step is taken: a path that recomputes its direction needs to know
    """
    n = len(inputs)
    failed = np.zeros(n, bool) if failed is None else failed.copy()
    before = np.asarray(predict(inputs) if n else np.empty((0, STAGE_COUNT)), np.float32)
    failed |= ~np.isfinite(before).all(axis=1)
    reached = _predicts(before, target_stage)
    best = before[:, target_stage].astype(np.float64)
    strength, after, images = np.zeros(n), before.copy(), inputs.copy()
    low, high = np.zeros(n), np.full(n, np.nan)

    def attempt(rows: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        """Which rows reach the target at these strengths; the best seen so far is kept."""
        moved = move(rows, strengths)
        probabilities = np.asarray(predict(moved), np.float32)
        sane = np.isfinite(probabilities).all(axis=1) & np.isfinite(moved).all(axis=(1, 2, 3))
        failed[rows] |= ~sane & ~reached[rows]  # once reached, a broken refinement is only a miss
        hit = sane & _predicts(probabilities, target_stage)
        gain = sane & (probabilities[:, target_stage] > best[rows])
        best[rows[gain]] = probabilities[gain, target_stage]
        keep = hit | (gain & ~reached[rows])
        for seen, now in ((strength, strengths), (after, probabilities), (images, moved)):
            seen[rows[keep]] = now[keep]
        reached[rows[hit]] = True
        return hit

    active = np.flatnonzero(~reached & ~failed)
    for value in grid:
        if active.size == 0:
            break
        hits = attempt(active, np.full(active.size, float(value)))
        high[active[hits]] = value
        active = active[~hits & ~failed[active]]
        low[active] = value
        if advanced is not None and active.size:
            advanced(active, low[active])
    active = np.flatnonzero(np.isfinite(high))
    for _ in range(bisections if active.size else 0):
        middle = (low[active] + high[active]) / 2
        hits = attempt(active, middle)
        high[active[hits]], low[active[~hits]] = middle[hits], middle[~hits]
    return StrengthResult(reached, failed, strength, best, before, after, images)


def result_rows(
    image_ids: Sequence[str],
    method: str,
    target_stage: int,
    originals: Images,
    result: StrengthResult,
) -> list[dict]:
    """One row per eye for the tables `counterfactuals` and `adversarials`.

    Measures compare the original with `result.images`: for an eye not reached, with its best
    attempt. A failed eye's strength and measures are NaN, and it counts as not reached.
    """
    rows = []
    for i, image_id in enumerate(image_ids):
        measures = {"strength": float(result.strength[i])}
        measures |= change_measures(originals[i], result.images[i])
        if result.failed[i]:
            measures = dict.fromkeys(measures, np.nan)
        rows.append(
            {
                "image_id": image_id,
                "method": method,
                "target_stage": target_stage,
                "reached": bool(result.reached[i] and not result.failed[i]),
                "best_probability": float(result.best_probability[i]),
                **{
                    f"probability_{when}_stage{stage}": float(probability)
                    for when in ("before", "after")
                    for stage, probability in enumerate(getattr(result, when)[i])
                },
                **measures,
            }
        )
    return rows


def _predicts(probabilities: np.ndarray, stage: int) -> np.ndarray:
    # argmax of a row with NaN is the NaN's place: a broken row would pass for a reached target.
    return np.isfinite(probabilities).all(axis=1) & (probabilities.argmax(axis=1) == stage)
