"""Records of models, explanations or preprocessings: finding one of many, by its id or the latest,
and writing one that has changed.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from storage.errors import NotThere
from storage.files.files import Files, canonical_json

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


def update_json(
    files: Files, path: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]
) -> None:
    """Writes a JSON file that said `old`; one that says so already is not written again."""
    if canonical_json(old or {}) != canonical_json(new):
        files.write_json(path, dict(new))
