"""Which photographs belong together: eyes of one patient, and copies of one photograph, in whatever
sources they lie. What belongs together is one patient, and stands in one split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dr_lib.fundus.fingerprint import near_copies
from storage.photos.types import Photograph
from tasks.ingest.inspection import Finding


@dataclass(frozen=True)
class Kin:
    """What is known of a photograph by the others. patient_id: of all that belong together.
    copy_of: the first photograph that it is a copy of, itself excepted. excluded: an external
    source has a photograph of this patient.
    """

    patient_id: str
    copy_of: str | None
    excluded: bool


def kin_of(
    usable: Mapping[str, tuple[Photograph, Finding]],
    second_copies: Sequence[tuple[Photograph, str]],
    old: pd.DataFrame,
) -> dict[str, Kin]:
    """For every usable photograph what it belongs to.

    second_copies: photographs set aside, each with the id of the one whose bytes it repeats. old:
    the catalogue so far, whose patients keep their ids.
    """
    photographs = [photo for photo, _ in usable.values()]
    ids = list(usable)
    place = {image_id: number for number, image_id in enumerate(ids)}
    known = old.set_index("image_id")
    every = [*photographs, *(photo for photo, _ in second_copies)]
    copies = _copies(usable, place, known) + [
        (number, place[first])
        for number, (_, first) in enumerate(second_copies, len(ids))
        if first in place
    ]
    groups = _groups(len(every), [*copies, *_fellows(every)])
    # For each photograph the first one of its copies.
    first_copy = pd.Series(range(len(every))).groupby(_groups(len(every), copies)).transform("min")
    patients = known["patient_id"].to_dict()
    own = pd.DataFrame(
        {
            "external": [photo.use == "external" for photo in photographs],
            "position": known["position"].reindex(ids).fillna(math.inf).to_numpy(),
        }
    ).groupby(groups[: len(ids)])
    outside = own["external"].transform("any")
    found = {}
    for number, oldest in enumerate(own["position"].transform("idxmin")):
        # The catalogue knows the patient of a first copy that is gone by now.
        patient = photographs[oldest].patient or patients.get(ids[oldest]) or ids[oldest]
        first = first_copy[number]
        copy_of = None if first == number else ids[first]
        excluded = bool(outside[number]) and photographs[number].use != "external"
        found[ids[number]] = Kin(patient, copy_of, excluded)
    return found


def _copies(
    usable: Mapping[str, tuple[Photograph, Finding]], place: Mapping[str, int], known: pd.DataFrame
) -> list[tuple[int, int]]:
    """Pairs of copies: those that the catalogue holds, and those of photographs that are new."""
    prints = [finding.fingerprint or "" for _, finding in usable.values()]
    before = known["fingerprint"].to_dict()
    new = np.array(
        [before.get(name) != print_ for name, print_ in zip(usable, prints, strict=True)], bool
    )
    earlier = [
        (place[name], place[first])
        for name, first in known["copy_of"].dropna().items()
        if name in place and first in place
    ]
    return earlier + near_copies(prints, new)


def _fellows(photographs: Sequence[Photograph]) -> list[tuple[int, int]]:
    """Pairs of photographs of one patient."""
    first: dict[str, int] = {}
    return [
        (number, first.setdefault(photo.patient, number))
        for number, photo in enumerate(photographs)
        if photo.patient is not None
    ]


def _groups(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """For each of `count` things the number of its group, things of a pair being in one."""
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    return connected_components(links, directed=False)[1]
