"""The layouts in which photographs and their stages are published: one layout is one entry of
published.toml.

A layout is recognised by the columns of its table, by the table's name where columns are shared or
absent, or by the folders' names. What a layout cannot say (a patient, an eye) stays unknown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from storage.photos.names import PUBLISHED, NameRule, meanings


@dataclass(frozen=True)
class Columns:
    """The columns of a table, in lower case: that which names the photograph, that with its stage,
    and, if any, that which says whether it can be graded (0: no). also: others that it must have.
    """

    image: str = "image"
    stage: str = "level"
    gradable: str = ""
    also: tuple[str, ...] = ()

    def are_in(self, header: Sequence[str]) -> bool:
        return {self.image, self.stage, *self.also} <= set(header)


KAGGLES = Columns()
ANY_NAME = NameRule()


@dataclass(frozen=True)
class Layout:
    """One published layout.

    tables: the columns by which its tables are known. files: what a table's name must match (a
    regular expression). headless: rows of name and stage without a line of names.
    names: how its photographs are named. ungradable: stages that mean "cannot be graded".
    unlabelled: folders whose photographs have no stage by design, such as those with masks.
    """

    name: str
    tables: tuple[Columns, ...] = ()
    files: str = ".*"
    headless: bool = False
    names: NameRule = ANY_NAME
    ungradable: tuple[int, ...] = ()
    unlabelled: str = ""

    def has_no_stage_at(self, path: str) -> bool:
        """Whether the photograph at this path has no stage by design."""
        folders = path.lower().split("/")[:-1]
        return any(folder and re.fullmatch(self.unlabelled, folder) for folder in folders)


LAYOUTS = TypeAdapter(tuple[Layout, ...]).validate_python(PUBLISHED["layouts"])
EYEPACS = LAYOUTS[0]
FOLDERS_BY_CLASS = Layout("folders by class")
UNLABELLED = Layout("photographs without labels")
STAGE_FOLDERS = meanings("stage_folders")


def class_of(folder: str) -> int | None:
    """The stage that a folder of this name stands for, or None.

    >>> [class_of(name) for name in ("0", "No_DR", "3 - Severe", "Proliferate_DR", "2019", "train")]
    [0, 0, 3, 4, None, None]
    """
    if digit := re.fullmatch(r"([0-4])(?:\s*[-_.: ].*\D.*)?", folder.strip()):
        return int(digit[1])
    stage = STAGE_FOLDERS.get(re.sub("[^a-z]", "", folder.lower()))
    return None if stage is None else int(stage)


def classes_of(folders: Iterable[str]) -> dict[str, int] | None:
    """For each folder of photographs its stage, where all of them are named after stages and there
    are two stages at least; None otherwise.

    >>> classes_of(["data/0", "data/Mild"]), classes_of(["data/0", "data/17"])
    ({'data/0': 0, 'data/Mild': 1}, None)
    """
    found = {folder: class_of(folder.rpartition("/")[2]) for folder in folders}
    stages = {folder: stage for folder, stage in found.items() if stage is not None}
    return stages if len(stages) == len(found) and len(set(stages.values())) > 1 else None
