"""The layouts in which photographs and their stages are published: one layout is one entry.

A layout is recognised by the columns of its table, by the table's name where columns are shared or
absent, or by the folders' names. What a layout cannot say (a patient, an eye) stays unknown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.photos.names import EYEPACS_NAMES, NameRule


@dataclass(frozen=True)
class Columns:
    """The columns of a table, in lower case: that which names the photograph, that with its stage,
    and, if any, those that say whether it can be graded (0: no) and Kaggle's Usage.
    """

    image: str = "image"
    stage: str = "level"
    gradable: str = ""
    also: tuple[str, ...] = ()
    usage: str = "usage"

    def are_in(self, header: Sequence[str]) -> bool:
        return {self.image, self.stage, *self.also} <= set(header)


KAGGLES = Columns()
ANY_NAME = NameRule()


@dataclass(frozen=True)
class Layout:
    """One published layout.

    tables: the columns by which its tables are known. files: what a table's name must match (a
    regular expression; empty: any name). headless: rows of name and stage without a line of names.
    names: how its photographs are named. ungradable: stages that mean "cannot be graded".
    unlabelled: folders whose photographs have no stage by design, such as those with masks.
    """

    name: str
    tables: tuple[Columns, ...] = ()
    files: str = ""
    headless: bool = False
    names: NameRule = ANY_NAME
    ungradable: tuple[int, ...] = ()
    unlabelled: str = ""

    def columns_of(self, file_name: str, header: Sequence[str]) -> Columns | None:
        """The columns of this layout that a table has; None for a table of another layout."""
        if self.files and not re.fullmatch(self.files, file_name.lower()):
            return None
        return next((columns for columns in self.tables if columns.are_in(header)), None)


EYEPACS = Layout("eyepacs", (KAGGLES,), names=EYEPACS_NAMES)
FOLDERS_BY_CLASS = Layout("folders by class")
PRIVATE = Layout("columns named in the configuration")
UNLABELLED = Layout("photographs without labels")
# A stage's folder by its letters; a digit at the front of a folder's name counts before these.
CLASS_FOLDERS = {
    **dict.fromkeys(("nodr", "noapparentdr", "normal"), 0),
    **dict.fromkeys(("mild", "milddr", "mildnpdr"), 1),
    **dict.fromkeys(("moderate", "moderatedr", "moderatenpdr"), 2),
    **dict.fromkeys(("severe", "severedr", "severenpdr"), 3),
    **dict.fromkeys(("proliferative", "proliferate", "proliferatedr", "proliferativedr", "pdr"), 4),
}
# Special before general: the first layout that a table fits is its.
LAYOUTS = (
    EYEPACS,
    Layout(
        "messidor2",
        (
            Columns("id_code", "diagnosis", "adjudicated_gradable", also=("adjudicated_dme",)),
            Columns("image_id", "adjudicated_dr_grade", "adjudicated_gradable"),
        ),
    ),
    Layout(
        "idrid",
        (Columns("image name", "retinopathy grade"),),
        names=NameRule(split_in_id=True),
        unlabelled=r"a\. *segmentation",
    ),
    Layout("ddr", (Columns("id_code", "diagnosis"),), files=r"dr_grading\.csv", ungradable=(5,)),
    Layout(
        "ddr",
        files=r"(train|valid|test)\.txt",
        headless=True,
        names=NameRule(r"(?P<patient>\d{3}-\d{4})-\d{3}"),
        ungradable=(5,),
    ),
    Layout("aptos", (Columns("id_code", "diagnosis"),)),
)


def class_of(folder: str) -> int | None:
    """The stage that a folder of this name stands for, or None.

    >>> [class_of(name) for name in ("0", "No_DR", "3 - Severe", "Proliferate_DR", "2019", "train")]
    [0, 0, 3, 4, None, None]
    """
    if digit := re.fullmatch(r"([0-4])(?:\s*[-_.: ].*\D.*)?", folder.strip()):
        return int(digit[1])
    return CLASS_FOLDERS.get(re.sub("[^a-z]", "", folder.lower()))


def classes_of(folders: Iterable[str]) -> dict[str, int] | None:
    """For each folder of photographs its stage, where all of them are named after stages and there
    are two stages at least; None otherwise.

    >>> classes_of(["data/0", "data/Mild"]), classes_of(["data/0", "data/17"])
    ({'data/0': 0, 'data/Mild': 1}, None)
    """
    found = {folder: class_of(folder.rpartition("/")[2]) for folder in folders}
    stages = {folder: stage for folder, stage in found.items() if stage is not None}
    return stages if len(stages) == len(found) and len(set(stages.values())) > 1 else None
