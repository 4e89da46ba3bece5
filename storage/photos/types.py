"""What the data folders are made of: sources, photographs, labels, and problems with them."""

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

# A photograph is a few megabytes; a file of more would fill the memory before anyone could look at
# it.
MAX_PHOTO_BYTES = 512 * 2**20
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FOLDERS = "folders"

Use = Literal["train", "external"]
# A shell replaces ~ at the start of a word only, not behind the = of a setting.
Location = Annotated[str, AfterValidator(os.path.expanduser)]


@dataclass(frozen=True)
class Source:
    """One source of photographs, as the configuration describes it; what is left out is recognised.

    photos: folder or zip. name: goes before the image ids where there are several sources. labels:
    a table, or "folders" where a photograph's folder is its stage. masks: where its lesion masks
    lie. patient: a regular expression with the groups patient and eye for the whole name of a
    photograph; each image is its own patient where it does not match. use: photographs of an
    "external" source are never learnt from or validated on. image_column, stage_column: the two
    columns of a table of one's own. ids: "path" where the same names repeat in several folders.
    """

    photos: Location
    name: str = ""
    labels: Location = ""
    masks: Location = ""
    patient: str = ""
    use: Use = "train"
    image_column: str = ""
    stage_column: str = ""
    ids: Literal["name", "path"] = "name"

    def __post_init__(self):
        if self.name and not SOURCE_NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r} of a source is made of letters, digits, '.', '_' and '-'"
            )
        if bool(self.image_column) != bool(self.stage_column):
            raise ValueError("image_column and stage_column of a source are given together")
        if self.patient:
            try:
                groups = re.compile(self.patient).groupindex
            except re.error as error:
                raise ValueError(
                    f"patient = {self.patient!r} is no regular expression: {error}"
                ) from None
            if "patient" not in groups:
                raise ValueError(f"patient = {self.patient!r} has no group (?P<patient>…)")


class Label(NamedTuple):
    """One row of a label file: the stage a person gave an image."""

    image_id: str
    stage: int
    split_hint: str
    usage: str | None
    source: str


class Problem(NamedTuple):
    """Something set aside: where it stood, whose it is (where known), a short code, and what was
    found.
    """

    path: str | None
    image_id: str | None
    reason: str
    detail: str


class Photograph(NamedTuple):
    """One photograph: its id, its published split (by its folder or its label), its path, its
    size in bytes, its stamp; whose eye, and which, as far as the name says; its source.
    """

    image_id: str
    split_hint: str
    path: str
    bytes: int
    stamp: str
    patient: str | None = None
    eye: str | None = None
    source: str = ""
    use: Use = "train"

    @property
    def look(self) -> tuple[str, int, str]:
        """How the file looks from outside: path, bytes, stamp."""
        return self.path, self.bytes, self.stamp
