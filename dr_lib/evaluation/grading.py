"""Ensembles and other decisions of the same network: many poses of a fundus, both eyes of a
patient, thresholds chosen on validation.

Attribution explains the network's own probabilities, so nothing here changes those: these grades
are measured beside the network's. How much the fellow eye counts, and where a stage ends and the
next begins, is chosen on validation eyes alone and then applied to all.

This module must not know where probabilities are stored, nor which split an eye is in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Integer, Shaped, UInt8

from dr_lib.evaluation.bootstrap_metrics import ROUNDING, kappa_of
from dr_lib.evaluation.calibration import Method
from dr_lib.evaluation.metrics import evaluate
from dr_lib.evaluation.patient_bootstrap import PatientBootstrap
from dr_lib.settings import Settings
from dr_lib.vocabulary import STAGE_COUNT

Poses = Literal[1, 2, 4, 8]
Decision = Literal["likeliest", "thresholds"]
# Shares of the fellow eye that are tried: at a half both eyes of a patient get the same grade.
FELLOW_SHARES = tuple(step / 20 for step in range(11))
# Places tried for each threshold where there are more eyes than that: a hundredth of the eyes
# apart, nearer than the best places of resampled patients are to each other.
CANDIDATES = 100
# Fundi whose poses are computed together: in eight poses 25 MB at 256 px.
FUNDI_AT_ONCE = 16
# A threshold's best place jumps from one eye to the next; the mean over resampled patients does
# not.
RESAMPLES = 100


@dataclass(frozen=True)
class GradingParams(Settings):
    """Which other grades of the model are measured; by default none.

    poses: over how many poses of the disc the probabilities are averaged: 1 as it is, 2 also
        mirrored, 4 the quarter turns, 8 both. A disc may lie any way round, so they are all the
        same eye; none needs interpolation.
    fellow_eye: mix in the probabilities of the patient's other eye, whose stage agrees with QWK
        0.85, with the share (at most a half) that best ranks the validation eyes.
    calibration: correct the probabilities on validation eyes: "temperature" makes them as sure as
        they are right, "bias_corrected" also as common as each stage is, which a model trained on
        balanced mini-batches does not know (`dr_lib.evaluation.calibration`).
    decision: the "likeliest" stage, or "thresholds" on the expected stage that give validation eyes
        the best quadratic weighted kappa. A model trained on balanced mini-batches calls the rare
        stages too often; and a mild eye, whose stage is hardly ever the likeliest, gets a band of
        its own between the healthy and the moderate.
    """

    poses: Poses = 1
    fellow_eye: bool = False
    calibration: Method = "none"
    decision: Decision = "likeliest"


def posed(
    pixels: UInt8[np.ndarray, "image y x 3"], number: int
) -> UInt8[np.ndarray, "image y x 3"]:
    """The discs in pose `number` of 8: quarter-turned `number // 2` times, mirrored first when it
    is odd. No interpolation.

    The first two are the disc and its mirror image; even numbers are the four quarter turns.
    """
    mirrored = pixels[:, :, ::-1] if number % 2 else pixels
    return np.ascontiguousarray(np.rot90(mirrored, number // 2, axes=(1, 2)))


def averaged_probabilities(
    predict: Callable[[np.ndarray], np.ndarray],
    pixels: UInt8[np.ndarray, "image y x 3"],
    poses: int,
) -> Float32[np.ndarray, "image 5"]:
    """The mean of the probabilities of several poses of each fundus.

    Parameters
    ----------
    predict: (n, size, size, 3) uint8 fundi -> (n, 5) probabilities.
    poses: 1, 2, 4 or 8, as in `GradingParams`.
    """
    numbers = range(0, 8, 2) if poses == 4 else range(poses)
    mean = np.empty((len(pixels), STAGE_COUNT), np.float32)
    # All poses of a few fundi at once: `predict` fills up its last batch, and a shard with two
    # held-out eyes would fill eight.
    for start in range(0, len(pixels), FUNDI_AT_ONCE):
        few = pixels[start : start + FUNDI_AT_ONCE]
        grades = predict(np.concatenate([posed(few, number) for number in numbers]))
        mean[start : start + len(few)] = grades.reshape(poses, len(few), STAGE_COUNT).mean(
            axis=0, dtype=np.float64
        )
    return mean


def fellows(patients: Shaped[np.ndarray, "eye"]) -> Int64[np.ndarray, "eye"]:
    """The row of each eye's fellow; the eye's own row where the patient has one eye only (or more
    than two).

    >>> fellows(np.array(["b", "a", "b", "c"]))
    array([2, 1, 0, 3])
    """
    result = np.arange(len(patients), dtype=np.int64)
    _, patient, count = np.unique(patients, return_inverse=True, return_counts=True)
    paired = np.flatnonzero(count[patient] == 2)
    paired = paired[np.argsort(patient[paired], kind="stable")]
    result[paired] = paired.reshape(-1, 2)[:, ::-1].ravel()
    return result


def with_fellow(
    probabilities: Float[np.ndarray, "eye 5"], fellow: Integer[np.ndarray, "eye"], share: float
) -> Float[np.ndarray, "eye 5"]:
    """(1 − share) of an eye's own probabilities and `share` of its fellow's (rows `fellow`)."""
    return (1 - share) * probabilities + share * probabilities[fellow]


def fellow_share(
    stages: Integer[np.ndarray, "eye"],
    probabilities: Float[np.ndarray, "eye 5"],
    fellow: Integer[np.ndarray, "eye"],
    graded: Bool[np.ndarray, "eye"],
) -> float:
    """The share of FELLOW_SHARES whose mixture ranks the `graded` eyes best.

    Parameters
    ----------
    stages: 0 … 4; those of eyes that are not graded are not looked at.
    fellow: the row of each eye's fellow (`fellows`).
    graded: which eyes decide.

    Returns
    -------
    The share with the largest `Evaluation.ranking`, the smallest of equals; 0 where there is
    nothing to rank.
    """
    scores = [
        evaluate(stages[graded], with_fellow(probabilities, fellow, share)[graded]).ranking
        for share in FELLOW_SHARES
    ]
    return 0.0 if np.isnan(scores).any() else FELLOW_SHARES[int(np.argmax(scores))]


def expected_stage(probabilities: Float[np.ndarray, "eye 5"]) -> Float64[np.ndarray, "eye"]:
    """Σ s · P(s), from 0 to 4."""
    return probabilities.astype(np.float64) @ np.arange(STAGE_COUNT)


def decided(
    expected: Float[np.ndarray, "eye"], thresholds: Float[np.ndarray, "4"]
) -> Int64[np.ndarray, "eye"]:
    """The stage of each expected stage: the number of thresholds at or below it.

    >>> decided(np.array([0.2, 0.5, 3.9]), np.array([0.5, 1.5, 2.5, 3.5]))
    array([0, 1, 4])
    """
    return np.searchsorted(np.asarray(thresholds, np.float64), expected, side="right").astype(
        np.int64
    )


def kappa_thresholds(
    stages: Integer[np.ndarray, "eye"],
    expected: Float[np.ndarray, "eye"],
    patients: Shaped[np.ndarray, "eye"],
) -> Float64[np.ndarray, "4"]:
    """Four rising thresholds on the expected stage: the mean of those with the best kappa on
    resampled patients.

    Parameters
    ----------
    stages, expected: the true stages 0 … 4 and the expected ones of validation eyes.
    patients: whose eye each is.

    Raises
    ------
    ValueError: without eyes.

    Notes
    -----
    Winners of Kaggle's competition chose theirs on thousands of eyes. On a few dozen the best
    thresholds fit the eyes rather than the model: of simulated models with 64 validation eyes,
    kappa on other eyes was 0.64 ± 0.06 with the best thresholds themselves and 0.69 ± 0.02 with
    this mean (thresholds for the best mean sensitivity of the stages: 0.58, and stage 1 caught no
    more often).
    """
    if not len(stages):
        raise ValueError("thresholds are chosen on validation eyes, and there is none with a stage")
    places = np.unique(expected)
    if len(places) > CANDIDATES:
        places = np.unique(np.quantile(expected, np.linspace(0, 1, CANDIDATES), method="nearest"))
    # Between neighbours, so that no eye lies on a threshold; one above all eyes, for a stage that
    # is never called.
    places = np.append((places[1:] + places[:-1]) / 2, places[-1] + 1e-6)
    below = (expected[:, np.newaxis] < places).astype(np.float64)
    of_stage = np.eye(5)[stages]
    best = []
    for weights in PatientBootstrap(patients, seed=0).weights(RESAMPLES):
        weighted = weights[:, np.newaxis] * of_stage
        best.append(places[_best_cuts(weighted.T @ below, weighted.sum(axis=0))])
    return np.mean(best, axis=0)


def _best_cuts(
    below: Float64[np.ndarray, "stage place"], total: Float64[np.ndarray, "stage"]
) -> list[int]:
    """The four places with the best kappa, found by moving one at a time until none has a better
    place between its neighbours.

    `below`: eyes of each stage below each place; `total`: of each stage.
    """
    last = below.shape[1] - 1
    cuts, best = [last * (number + 1) // 5 for number in range(4)], -np.inf
    improved = True
    while improved:
        improved = False
        for number in range(4):
            low, high = cuts[number - 1] if number else 0, cuts[number + 1] if number < 3 else last
            tried = np.repeat([cuts], high - low + 1, axis=0)
            tried[:, number] = np.arange(low, high + 1)
            kappas = _kappas(below, total, tried)
            place = int(np.argmax(kappas))
            # Only for the better: among equals a threshold stays where it is, and the search ends.
            if kappas[place] > best + ROUNDING:
                best, cuts, improved = float(kappas[place]), tried[place].tolist(), True
    return cuts


def _kappas(below: np.ndarray, total: np.ndarray, cuts: Int64[np.ndarray, "try 4"]) -> np.ndarray:
    """Kappa of each row of four places; −infinity where it is undefined."""
    inner = np.moveaxis(below[:, cuts], 1, 0)
    whole = np.broadcast_to(total[:, np.newaxis], (len(cuts), 5, 1))
    kappas = kappa_of(np.diff(inner, axis=2, prepend=0, append=whole))
    return np.where(np.isfinite(kappas), kappas, -np.inf)
