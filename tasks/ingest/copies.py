"""Which photographs belong together: eyes of one patient, and copies of one photograph, in whatever
sources they lie. What belongs together is one patient, and stands in one split.
"""

import collections
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
    copy_of: str | None = None
    excluded: bool = False


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
    place = {photo.image_id: number for number, photo in enumerate(photographs)}
    known = old.set_index("image_id")
    copies = _copies(usable, place, known)
    every = [*photographs, *(photo for photo, _ in second_copies)]
    exact = [
        (len(photographs) + number, place[first])
        for number, (_, first) in enumerate(second_copies)
        if first in place
    ]
    groups = _groups(len(every), [*copies, *exact, *_fellows(every)])
    members = collections.defaultdict(list)
    for number in range(len(photographs)):
        members[groups[number]].append(number)
    first_copy = _first_of(_groups(len(every), [*copies, *exact]))
    positions, patients = known["position"].to_dict(), known["patient_id"].to_dict()

    def age(number: int) -> tuple[bool, int]:
        position = positions.get(photographs[number].image_id)
        return position is None, number if position is None else position

    found = {}
    for group in members.values():
        outside = any(photographs[number].use == "external" for number in group)
        oldest = min(group, key=age)
        name, patient = photographs[oldest].image_id, photographs[oldest].patient
        if patient is None:
            patient = patients.get(name)  # of a first copy that is gone by now
        for number in group:
            photo = photographs[number]
            first = first_copy[number]
            found[photo.image_id] = Kin(
                patient or name,
                None if first == number else photographs[first].image_id,
                outside and photo.use != "external",
            )
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


def _first_of(groups: np.ndarray) -> np.ndarray:
    """For each thing the first one of its group."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]
