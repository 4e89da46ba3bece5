"""Changed images: `explanations/<explain_id>/counterfactuals-<pair>.zarr`, and the numbers of the
search that made each.

A pair of stages has a store of its own (`1-0-1`: of true stage 1, predicted as 0, to be 1), so that
one pair's results never push out another's. A method has a group of its own, whether it has been
asked for or not.
"""

import functools
from collections.abc import Sequence

from dr_lib.vocabulary import STAGE_QUANTITIES
from storage.arrays.specs import ArraySpec
from storage.contents.declared import declared

NUMBERS = ("reached", "failed", "strength", "best_probability", "probability")


def counterfactual_specs(
    counterfactuals: Sequence[str], adversarials: Sequence[str], size: int
) -> list[ArraySpec]:
    """The arrays of all methods; the difference is kept of counterfactuals only, since of an
    adversarial example it is noise.
    """
    arrays = functools.partial(
        declared,
        sizes={"y": size, "x": size, "channel": 3},
        labels={"stage": STAGE_QUANTITIES},
    )
    specs = arrays("original", "original")
    for method in (*counterfactuals, *adversarials):
        specs += arrays("changed", method)
    for method in counterfactuals:
        specs += arrays("difference", method)
    return specs
