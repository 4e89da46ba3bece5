"""Changed images: `explanations/<explain_id>/counterfactuals-<pair>.zarr`, and the numbers of the
search that made each.

A pair of stages has a store of its own (`1-0-1`: of true stage 1, predicted as 0, to be 1), so that
one pair's results never push out another's. A method has a group of its own, whether it has been
asked for or not.
"""

from collections.abc import Sequence

import numpy as np

from dr_lib.vocabulary import STAGE_QUANTITIES
from storage.arrays.specs import ArraySpec
from storage.contents.explanations import MAP_BITS

NUMBERS = ("reached", "failed", "strength", "best_probability", "probability")


def change_specs(
    counterfactuals: Sequence[str], adversarials: Sequence[str], size: int
) -> list[ArraySpec]:
    """The arrays of all methods; the difference is kept of counterfactuals only, since of an
    adversarial example it is noise.
    """
    probability, labels = ("image", "stage"), {"stage": STAGE_QUANTITIES}
    specs = [
        ArraySpec(
            "original/probability",
            probability,
            (len(STAGE_QUANTITIES),),
            "float32",
            np.nan,
            "probabilities before",
            "probability",
            "of each stage for the eye as it is",
            labels=labels,
        )
    ]
    for method in (*counterfactuals, *adversarials):
        specs += _numbers(method, labels)
        specs.append(
            _pixels(
                f"{method}/image",
                size,
                "changed image",
                "the eye at the strength given; not reached: best attempt",
            )
        )
    specs += [
        _pixels(
            f"{method}/difference",
            size,
            "difference",
            "changed image minus the eye as it is",
            bits=MAP_BITS,
        )
        for method in counterfactuals
    ]
    return specs


def _numbers(method: str, labels: dict[str, tuple[str, ...]]) -> list[ArraySpec]:
    def one(name, dtype, fill, long_name, units, description):
        return ArraySpec(
            f"{method}/{name}", ("image",), (), dtype, fill, long_name, units, description
        )

    return [
        one(
            "reached",
            "bool",
            False,
            "target reached",
            "",
            "whether the model predicts the target stage for the changed image",
        ),
        one(
            "failed",
            "bool",
            False,
            "failed",
            "",
            "whether attribution, gradient or probabilities were not finite",
        ),
        one(
            "strength",
            "float32",
            np.nan,
            "strength",
            "",
            "smallest that reached the target, or that of the best attempt",
        ),
        one(
            "best_probability",
            "float32",
            np.nan,
            "best probability",
            "probability",
            "the target's, at any strength tried",
        ),
        ArraySpec(
            f"{method}/probability",
            ("image", "stage"),
            (len(STAGE_QUANTITIES),),
            "float32",
            np.nan,
            "probabilities after",
            "probability",
            "of each stage for the changed image",
            labels=labels,
        ),
    ]


def _pixels(
    path: str, size: int, long_name: str, description: str, bits: int | None = None
) -> ArraySpec:
    dims = ("image", "y", "x", "channel")
    text = f"{description}; (pixel − 128) / 128"
    return ArraySpec(
        path,
        dims,
        (size, size, 3),
        "float32",
        np.nan,
        long_name,
        "input units",
        text,
        mantissa_bits=bits,
    )
