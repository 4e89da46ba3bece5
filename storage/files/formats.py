"""Records on disk: frozen dataclasses that carry the version of their format.

A version is written into the file as `format`; a file without one was written before there were
versions, and is of the first. A program refuses what a newer one wrote, because it would misread
it. Who changes a format raises the version in its class and reads the older ones too.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self

from storage.errors import OtherFormat
from storage.files.files import Files, canonical_json

KEY = "format"
FIRST = 1


def check_format(value: Mapping[str, Any], known: int, where: str) -> None:
    """Raises OtherFormat, in one line, for a file of a version that this program cannot read."""
    version = value.get(KEY, FIRST)
    if version not in range(FIRST, known + 1):
        raise OtherFormat(
            f"{where} was written by a newer dr-explain (format {version}; this one reads up to"
            f" {known}): update dr-explain, or use another workspace"
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """A base of dataclasses that are JSON in a file.

    PARTS: fields that are such dataclasses themselves. notes: what the JSON says beyond the
    dataclass's fields, by name; it stands beside them there.
    """

    PARTS: ClassVar[Mapping[str, type["Part"]]] = {}
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """The dataclass in its JSON. Raises TypeError where a field is missing."""
        names = {each.name for each in fields(cls)} - {"notes"}
        own = {name: item for name, item in value.items() if name in names}
        own |= {name: part.of(own[name] or {}) for name, part in cls.PARTS.items() if name in own}
        return cls(**own, notes={name: value[name] for name in value if name not in names})

    def as_json(self) -> dict[str, Any]:
        """The fields that are not as by default, and the notes."""
        json = dict(self.notes)
        for each in fields(self):
            value = getattr(self, each.name)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if each.name != "notes" and value != default:
                json[each.name] = value.as_json() if each.name in self.PARTS else value
        return json


@dataclass(frozen=True, kw_only=True)
class Record(Part):
    """A base of dataclasses that are a file of their own, with the version of its format."""

    FORMAT: ClassVar[int] = FIRST

    @classmethod
    def parse(cls, value: Mapping[str, Any], where: str) -> Self:
        """The record in the JSON of the file at `where`. Raises OtherFormat."""
        check_format(value, cls.FORMAT, where)
        return cls.of({name: item for name, item in value.items() if name != KEY})

    @classmethod
    def read(cls, files: Files, name: str) -> Self | None:
        """The record in a file; None where it is absent, torn or empty. Raises OtherFormat."""
        value = files.read_json(name)
        return cls.parse(value, files.url(name)) if isinstance(value, dict) and value else None

    def write(self, files: Files, name: str) -> None:
        """Makes it a file; one that says so already, in whatever version, is left alone."""
        old = self.read(files, name)
        if not old or canonical_json(old.as_json()) != canonical_json(self.as_json()):
            files.write_json(name, self.as_json())

    def as_json(self) -> dict[str, Any]:
        return {KEY: self.FORMAT, **super().as_json()}
