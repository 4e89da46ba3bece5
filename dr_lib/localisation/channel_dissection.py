"""Which lesion a channel of a layer answers to: the AUC of its activation map against masks, one
lesion type at a time; and which type a region most likely is, told by the channels that tell types
apart (METHOD §9).

After Bau et al., "Network dissection" (CVPR 2017), with AUC in place of overlap: no threshold has
to be chosen, and a channel that is quieter on a lesion shows as well (below 0.5). The map h − h' is
taken at the layer's own resolution: a unit speaks for the pixels nearest to its centre, so the AUC
is that of the map enlarged by nearest neighbour, over the pixels of the visible disc. Ties, of
which a ReLU makes many, count half.

A channel's AUC for a type says how far the type's activations lie from the rest of the retina: for
two normal distributions of equal spread AUC = Φ(d / √2), d in standard deviations (Simpson &
Fitter, Psychological Bulletin 80 (1973)). A region's activation, in standard deviations of its own
eye's retina, then has a likelihood under each type; types are taken as equally frequent, and
channels, one a type, as independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from dr_lib.attribution.quantities import softmax
from dr_lib.attribution.receptive import receptive_field
from dr_lib.evaluation.patient_bootstrap import PatientBootstrap, interval_95
from dr_lib.evaluation.ratio import ratio
from dr_lib.network.layers import split_at
from dr_lib.settings import Limit, PositiveInt, Settings
from dr_lib.vocabulary import LESION_TYPES

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ChannelDissectionParams(Settings):
    """layers: convolutional ones whose channels are judged. limit: eyes with masks at most (0:
    all). resamples: of patients.
    """

    layers: tuple[str, ...] = ("stem", "mixed2")
    limit: Limit = 64
    resamples: PositiveInt = 500


class ChannelMaps:
    """The activation maps of a convolutional layer's channels, and which unit speaks for each
    pixel.
    """

    def __init__(self, model: "keras.Model", layer: str) -> None:
        self._lower, _ = split_at(model, layer)
        side = int(model.inputs[0].shape[1])
        self._start = np.asarray(
            self._lower(np.zeros((1, side, side, 3), np.float32), training=False)
        )[0]
        self.has_places = self._start.ndim == 3  # a dense unit has none
        if self.has_places:
            field = receptive_field(self._lower)
            self.cells = unit_cells(side, self._start.shape[:2], field.stride, field.centre)

    def of(self, x: Float[np.ndarray, "side side 3"]) -> Float[np.ndarray, "rows columns channel"]:
        """h − h' of one scaled fundus."""
        return np.asarray(self._lower(x[None], training=False))[0] - self._start


class Agreement(NamedTuple):
    """AUCs of one layer's channels on one eye, each (channel, lesion): NaN for a type that the
    eye has not got.
    """

    against_rest: Float64[
        np.ndarray, "channel lesion"
    ]  # all other visible pixels, other lesions among them
    against_others: Float64[np.ndarray, "channel lesion"]  # pixels of the other lesion types only


def unit_cells(
    size: int, units: tuple[int, int], stride: tuple[int, int], centre: tuple[float, ...]
) -> Int[np.ndarray, "y x"]:
    """For every pixel the flat index of the unit with the nearest centre; unit (i, j) has its
    centre at centre + (i, j) · stride.

    >>> unit_cells(4, (2, 2), (2, 2), (0.5, 0.5)).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    """
    y, x = (
        np.clip(
            np.floor((np.arange(size) - centre[axis]) / stride[axis] + 0.5), 0, units[axis] - 1
        ).astype(int)
        for axis in (0, 1)
    )
    return y[:, None] * units[1] + x[None, :]


def agreement(
    maps: Float[np.ndarray, "rows columns channel"],
    masks: Mapping[str, Bool[np.ndarray, "_ _"]],
    cells: Int[np.ndarray, "y x"],
    inside: Bool[np.ndarray, "y x"],
) -> Agreement:
    """How well each channel's map finds each lesion type of one eye. Raises ValueError for masks of
    another size than `cells`.

    inside: the pixels that are judged.
    """
    count, channels = maps.shape[0] * maps.shape[1], maps.shape[2]

    def units(pixels: np.ndarray) -> np.ndarray:
        return np.bincount(cells[inside & pixels], minlength=count).astype(np.float64)

    kinds = np.stack([units(mask) for mask in masks.values()])
    total, lesion = units(inside), units(np.logical_or.reduce(list(masks.values())))
    weights = np.concatenate([kinds, total - kinds, np.maximum(lesion - kinds, 0)])
    flat = maps.reshape(count, channels)
    aucs = np.full((2, channels, len(kinds)), np.nan)
    for channel in range(channels):
        _, level = np.unique(flat[:, channel], return_inverse=True)
        summed = np.stack([np.bincount(level, weights=row) for row in weights])
        positive, rest, against = np.split(summed, 3)
        aucs[0, channel], aucs[1, channel] = _auc(positive, rest), _auc(positive, against)
    return Agreement(*aucs)


def _auc(
    positive: Float64[np.ndarray, "lesion level"], negative: Float64[np.ndarray, "lesion level"]
) -> np.ndarray:
    """Weighted AUC from the weights at each level of the score, lowest first; a tie counts half;
    NaN without both sides.
    """
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return ratio((positive * below).sum(axis=1), pairs)


def unit_rows(
    layer: str,
    kinds: Sequence[str],
    against_rest: Float64[np.ndarray, "eye channel lesion"],
    against_others: Float64[np.ndarray, "eye channel lesion"],
    patients: Shaped[np.ndarray, "eye"],
    params: ChannelDissectionParams,
) -> list[dict]:
    """One row per channel for the table `units`: means over eyes, 95 % intervals over patients, the
    best type and how it holds.

    The best type is the one whose mean AUC is furthest from 0.5. Being the best of several flatters
    it, so `lesion_auc_held_out` chooses it on every second patient and measures it on the others.
    """
    bootstrap = PatientBootstrap(patients, seed=0)
    patient = bootstrap.patient
    means = _means(against_rest, bootstrap.weights(params.resamples))  # (resample, channel, lesion)
    whole, apart = (
        _means(part, np.ones((1, len(patient))))[0] for part in (against_rest, against_others)
    )
    choosing, measuring = (
        _means(against_rest, (patient % 2 == half)[None].astype(np.float64))[0] for half in (0, 1)
    )
    eyes = np.isfinite(against_rest).any(axis=1).sum(axis=0)
    rows = []
    for channel, values in enumerate(whole):
        row = {
            "layer": layer,
            "unit": channel,
            "study": "lesions",
            "images": len(against_rest),
            **{f"auc_{kind}": float(value) for kind, value in zip(kinds, values, strict=True)},
        }
        best = _furthest(values)
        if best is not None:
            low, high = interval_95(means[:, channel, best])
            first = _furthest(choosing[channel])
            row |= {
                "best_lesion": kinds[best],
                "lesion_auc": float(values[best]),
                "lesion_auc_low": low,
                "lesion_auc_high": high,
                "lesion_auc_held_out": (
                    np.nan if first is None else float(measuring[channel, first])
                ),
                "lesion_auc_others": float(apart[channel, best]),
                "lesion_images": int(eyes[best]),
            }
        rows.append(row)
    return rows


def _means(values: np.ndarray, weights: Float64[np.ndarray, "draw eye"]) -> np.ndarray:
    """Means over eyes under each draw's weights, eyes without the type left out; NaN where none
    is left.
    """
    finite = np.isfinite(values)
    total = np.tensordot(weights, np.where(finite, values, 0.0), 1)
    count = np.tensordot(weights, finite.astype(np.float64), 1)
    return ratio(total, count)


def _furthest(values: np.ndarray) -> int | None:
    """The type whose AUC is furthest from 0.5; None where there is none, or a channel that never
    changes.
    """
    distance = np.nan_to_num(np.abs(values - 0.5), nan=0.0)
    return int(distance.argmax()) if distance.max(initial=0) > 0 else None


CERTAIN = 0.02  # AUCs nearer to 0 and 1 say no more: a few eyes cannot tell them apart
LEAST_OTHERS = 0.1  # |AUC − 0.5| against other lesions, from which on a channel tells a type
LEAST_HELD_OUT = 0.05  # the same on patients that had no say in the choice, against the retina


@dataclass(frozen=True)
class TypeChannels:
    """The channels that tell types apart: one for each of `types`.

    layers, channels: where each is. distance (type, channel): how far the type's activations lie
    from the retina's, in standard deviations.
    """

    types: tuple[str, ...]
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    distance: Float64[np.ndarray, "type channel"]

    def probabilities(
        self, activations: Float[np.ndarray, "region channel"]
    ) -> Float64[np.ndarray, "region type"]:
        """The probability of each type for regions with these mean activations, in standard
        deviations of their eye's retina.

        >>> pair = TypeChannels(
        ...     ("a", "b"), ("stem",) * 2, (0, 1), np.array([[2.0, 0.0], [0.0, 2.0]])
        ... )
        >>> pair.probabilities(np.array([[1.0, 1.0]])).tolist()
        [[0.5, 0.5]]
        """
        away = activations[:, None, :] - self.distance[None]
        return softmax(-0.5 * (away**2).sum(axis=2))


def type_channels(units: Sequence[Mapping[str, Any]]) -> TypeChannels | None:
    """The channel that tells each type best, of the rows of the table `units` (study lesions); None
    where fewer than two types have one.

    A channel counts if it tells its best type from other lesions, and if the type it was chosen for
    on one half of the patients held on the other half.
    """
    from scipy.special import ndtri

    best: dict[str, tuple[float, Mapping[str, Any]]] = {}
    for row in units:
        lesion, side = row["best_lesion"], np.sign(row["lesion_auc"] - 0.5)
        others, held_out = (
            side * (row[f"lesion_auc_{against}"] - 0.5) for against in ("others", "held_out")
        )
        least, _ = best.get(lesion, (0.0, row))
        if others >= LEAST_OTHERS and held_out >= LEAST_HELD_OUT and others > least:
            best[lesion] = others, row
    types = tuple(name for name in LESION_TYPES if name in best)
    if len(types) < 2:
        return None
    rows = [best[name][1] for name in types]
    aucs = np.array([[row[f"auc_{name}"] for row in rows] for name in types], np.float64)
    return TypeChannels(
        types,
        tuple(str(row["layer"]) for row in rows),
        tuple(int(row["unit"]) for row in rows),
        np.sqrt(2) * ndtri(np.clip(np.nan_to_num(aucs, nan=0.5), CERTAIN, 1 - CERTAIN)),
    )
