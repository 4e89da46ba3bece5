"""Finding one of many models, explanations or preprocessings: by its id, or the latest."""

from collections.abc import Mapping
from typing import TypeVar

from storage.errors import NotThere
from storage.files.files import Files

LATEST = "latest"
T = TypeVar("T")


def pick(
    files: Files, there: Mapping[str, T], wanted: str, noun: str, nothing: str, command: str
) -> T:
    """The value with the id `wanted`; for "latest" the last one. Raises NotThere, naming those
    there are, or saying what to run where there are none.
    """
    if wanted == LATEST and there:
        return list(there.values())[-1]
    if wanted not in there:
        which = (
            f"no {noun} {wanted}; there are {', '.join(there)}" if there else f"no {nothing} yet"
        )
        raise NotThere(f"{files.location} holds {which}: run {command}")
    return there[wanted]
