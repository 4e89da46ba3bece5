"""Finding one of many models, explanations or preprocessings: by its id, or the latest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self, TypeVar

from storage.errors import NotThere
from storage.files.files import Files
from storage.files.formats import Record

LATEST = "latest"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Dated(Record):
    """A record that says when it was first written; of its kind there is one in each folder."""

    created: str = ""

    @classmethod
    def by_id(cls, files: Files, folder: str, name: str) -> dict[str, Self]:
        """Those in the folders below `folder`, by the folder's name, oldest first. Raises
        OtherFormat.
        """
        read = {each: cls.read(files, f"{folder}/{each}/{name}") for each in files.names(folder)}
        there = {each: record for each, record in read.items() if record}
        return dict(sorted(there.items(), key=lambda item: (item[1].created, item[0])))

    def save(self, files: Files, name: str) -> None:
        """Makes it a file; keeps the time of the first writing."""
        old = self.read(files, name)
        created = old.created if old else datetime.now(UTC).isoformat()
        replace(self, created=created).write(files, name)


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
