"""Resamples of patients, each with all their eyes.

The two eyes of a patient agree so often that intervals over eyes would be too narrow. Every
interval in the project comes from here.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float64, Shaped

from dr_lib.evaluation.ratio import ratio

# Resamples at a time: a thousand weights for each of 50,000 eyes at once would take gigabytes.
CHUNK = 50


class PatientBootstrap:
    """Draws as many patients as there are, with replacement; the same seed gives the same draws.

    `patient` (eye,) holds the patients as numbers from 0, `patients` how many there are.

    Parameters
    ----------
    patients: (eye,) whose eye it is.
    one_by_one: draw patients one after another, which takes another stream of random numbers than
        drawing how often each occurs.
    """

    def __init__(
        self, patients: Shaped[np.ndarray, "eye"], seed: int, one_by_one: bool = False
    ) -> None:
        _, self.patient = np.unique(patients, return_inverse=True)
        self.patients = int(self.patient.max(initial=-1)) + 1
        self._one_by_one, self._random = one_by_one, np.random.default_rng(seed)

    def weights(self, resamples: int) -> Float64[np.ndarray, "resample eye"]:
        """How often each eye occurs in each of the next resamples."""
        count = self.patients
        if self._one_by_one:
            drawn = (self._random.integers(count, size=count) for _ in range(resamples))
            times = np.stack([np.bincount(numbers, minlength=count) for numbers in drawn])
        else:
            shares = np.full(count, 1 / max(count, 1))
            times = self._random.multinomial(count, shares, size=resamples)
        return times[:, self.patient].astype(np.float64)

    def chunks(self, resamples: int) -> Iterator[Float64[np.ndarray, "resample eye"]]:
        """The same weights, at most CHUNK resamples at a time."""
        for start in range(0, resamples, CHUNK):
            yield self.weights(min(CHUNK, resamples - start))


def interval_95(sample: Float[np.ndarray, "resample"]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile, without the resamples that leave the measure undefined
    (NaN); NaN where all do.
    """
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def with_intervals(
    measured: Callable[[np.ndarray], np.ndarray],
    patients: Shaped[np.ndarray, "eye"],
    resamples: int = 1000,
) -> Float64[np.ndarray, "3 measure"]:
    """The values of some measures, and both ends of their 95 % intervals over patients.

    Parameters
    ----------
    measured: makes (resample, measure) of how often each eye counts, (resample, eye).
    """
    bootstrap = PatientBootstrap(patients, 0)
    once = np.ones((1, len(bootstrap.patient)))
    weights = itertools.chain([once], bootstrap.chunks(resamples))
    value, *drawn = np.concatenate([measured(part) for part in weights])
    return np.array([value, *np.transpose([*map(interval_95, np.transpose(drawn))])])


def mean_intervals(
    values: Shaped[np.ndarray, "eye measure"],
    patients: Shaped[np.ndarray, "eye"],
    resamples: int = 1000,
) -> Float64[np.ndarray, "3 measure"]:
    """The means over the eyes in which a measure is known (not NaN) with their intervals; NaN where
    it is known in none.
    """
    known = np.isfinite(values).astype(np.float64)
    filled = np.where(known > 0, values, 0.0)
    return with_intervals(lambda part: ratio(part @ filled, part @ known), patients, resamples)
