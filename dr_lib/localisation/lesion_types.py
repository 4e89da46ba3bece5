"""Which lesion type a region most likely is, told by the channels that tell types apart (METHOD
§9).

A channel's AUC for a type, from the dissection (`channel_dissection`), says how far the type's
activations lie from the rest of the retina: for two normal distributions of equal spread AUC =
Φ(d / √2), d in standard deviations (Simpson & Fitter, Psychological Bulletin 80 (1973)). A region's
activation, in standard deviations of its own eye's retina, then has a likelihood under each type;
types are taken as equally frequent, and channels, one a type, as independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.attribution.quantities import softmax
from dr_lib.vocabulary import LESION_TYPES

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
