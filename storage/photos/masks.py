"""Which lesion masks lie at a place, in the layouts in which the world publishes them.

- A picture a lesion type, as IDRiD (`IDRiD_01_MA.tif` in `1. Microaneurysms/`), DDR
  (`EX/007-0004-100.tif`) and others have it: the type is told by the file's last word or by a
  folder's name.
- A picture of colours for all types (`10_left.png`), as `dr synthesise` makes it.
- An annotation file in COCO's form (`instances.json`).

Only names, and the annotation file's text, are looked at here; what a mask means is decided in
`dr_lib.localisation`. A type that is not known is counted by its name and never taken for another.
"""

import functools
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage.errors import Refused
from storage.files.text import decoded

PICTURES = (".png", ".tif", ".tiff", ".gif", ".bmp", ".jpg", ".jpeg")
LOSSY = (".jpg", ".jpeg")
COCO_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"image_id", "category_id"},
    "categories": {"id", "name"},
}
LAST_WORD = re.compile(r"(.+)[_\-. ]([^_\-. ]+)$")
NOISE = {"mask", "label", "groundtruth", "gt", "segmentation", "annotation", "lesion"}
# Folders that say nothing of a type: photographs, and parts of a data set.
PLAIN = {"", "image", "originalimage", "original", "photo", "photograph"}
PLAIN |= {
    "train",
    "training",
    "trainingset",
    "valid",
    "validation",
    "test",
    "testing",
    "testingset",
}
# What the lesion types are called by the data sets, in letters only, without a plural's s.
NAMES: dict[str, str] = {
    "microaneurysm": "microaneurysm",
    "ma": "microaneurysm",
    "haemorrhage": "haemorrhage",
    "hemorrhage": "haemorrhage",
    "hemohedge": "haemorrhage",  # FGADR's spelling
    "he": "haemorrhage",
    "hardexudate": "hard_exudate",
    "exudate": "hard_exudate",
    "ex": "hard_exudate",
    "softexudate": "soft_exudate",
    "cottonwoolspot": "soft_exudate",
    "cws": "soft_exudate",
    "se": "soft_exudate",
    "newvessel": "new_vessels",
    "neovascularization": "new_vessels",
    "neovascularisation": "new_vessels",
    "nv": "new_vessels",
    "preretinalhaemorrhage": "preretinal_haemorrhage",
    "preretinalhemorrhage": "preretinal_haemorrhage",
    "opticdisc": "optic_disc",
    "opticdisk": "optic_disc",
    "od": "optic_disc",
}


@dataclass(frozen=True)
class MaskFile:
    """A file that says something of one photograph's lesions.

    path: of the file. lesion: the type that all of it shows; empty for a picture of colours and for
    an annotation file, in which `image` is the number of the photograph.
    """

    path: str
    lesion: str = ""
    image: int | str | None = None

    @property
    def stamp(self) -> str:
        """What changes with the file: its size and modification time."""
        state = os.stat(self.path)
        return f"{state.st_size}:{state.st_mtime_ns}"


@dataclass(frozen=True)
class MaskIndex:
    """The masks at a place. files: by photograph's id. unknown: how many masks or annotations are
    of a type that is not known, by its name. strangers: masks of no photograph of the catalogue.
    """

    location: str
    files: Mapping[str, tuple[MaskFile, ...]]
    unknown: Mapping[str, int] = field(default_factory=dict)
    strangers: int = 0

    def stamp(self, image_id: str) -> str:
        """What changes with a photograph's masks; empty where it has none."""
        return ",".join(file.stamp for file in self.files.get(image_id, ()))


def lesion_type(name: str) -> str:
    """The lesion type that a folder, a file's last word or a category means; empty where it is not
    known.

    >>> lesion_type("1. Microaneurysms"), lesion_type("SoftExudate_Masks"), lesion_type("drusen")
    ('microaneurysm', 'soft_exudate', '')
    """
    return NAMES.get(_key(name), "")


def _key(name: str) -> str:
    words = re.findall(r"[a-z]+", name.lower())
    kept = [word for word in words if len(word) > 1 and word.removesuffix("s") not in NOISE]
    return "".join(kept).removesuffix("s")


def find_masks(location: str | os.PathLike, photographs: Mapping[str, str]) -> MaskIndex:
    """The masks at a folder, or in a COCO annotation file.

    Parameters
    ----------
    location
        Looked through with all folders below it.
    photographs
        Each photograph's id and the path of its file; masks are found by its name.

    Raises
    ------
    Refused
        Where nothing lies there, or an annotation file cannot be read.
    """
    root = pathlib.Path(location)
    if not root.exists():
        raise Refused(f"{location}: no such folder or annotation file; give where the masks lie")
    if root.is_file() and not _coco(root):
        raise Refused(
            f"{location}: is no annotation file in COCO's form (images, annotations, categories);"
            " give one, or a folder of masks"
        )
    ids = {pathlib.PurePosixPath(path).stem: image_id for image_id, path in photographs.items()}
    ids |= {image_id.rpartition("/")[2]: image_id for image_id in photographs}
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    files: dict[str, list[MaskFile]] = {}
    unknown: Counter[str] = Counter()
    strangers = 0
    pictures = [path for path in paths if path.suffix.lower() in PICTURES]
    depth = _depth_of_types(root, pictures)
    named = {path: _named(path, root, depth, ids) for path in pictures}
    typed = any(one.lesion for one in named.values())
    for path, one in named.items():
        if not one.lesion and not one.strange and (typed or path.suffix.lower() in LOSSY):
            continue  # a photograph that lies with its masks; no mask of colours survives a JPEG
        if one.stem not in ids:
            strangers += 1
        elif one.strange:
            unknown[one.strange] += 1
        else:
            files.setdefault(ids[one.stem], []).append(MaskFile(str(path), one.lesion))
    for path in paths:
        if path.suffix.lower() == ".json" and (document := _coco(path)):
            strangers += _annotated(path, document, ids, files, unknown)
    return MaskIndex(
        str(location),
        {name: tuple(found) for name, found in files.items()},
        dict(sorted(unknown.items())),
        strangers,
    )


def joined(indexes: Iterable[MaskIndex]) -> MaskIndex:
    """The masks at several places, each of photographs of its own, as one."""
    places = list(indexes)
    unknown: Counter[str] = Counter()
    for place in places:
        unknown.update(place.unknown)
    return MaskIndex(
        " and ".join(place.location for place in places),
        {name: files for place in places for name, files in place.files.items()},
        dict(sorted(unknown.items())),
        sum(place.strangers for place in places),
    )


def annotations(path: str, image: int | str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """(height, width) of one image of a COCO file, and its annotations of known types, each with
    the key `lesion`.
    """
    document = _coco(pathlib.Path(path))
    kinds = _categories(document)
    size = next(one for one in document["images"] if one["id"] == image)
    found = [
        one | {"lesion": kinds[one["category_id"]][1]}
        for one in document["annotations"]
        if one["image_id"] == image and kinds[one["category_id"]][1]
    ]
    return (int(size["height"]), int(size["width"])), found


def _depth_of_types(root: pathlib.Path, pictures: Iterable[pathlib.Path]) -> int | None:
    """How many folders below the root the folders lie that are named by lesion types, or None."""
    for path in pictures:
        for depth, folder in enumerate(path.relative_to(root).parts[:-1]):
            if lesion_type(folder):
                return depth
    return None


class _Named(NamedTuple):
    """What a picture's place says: the photograph's name, the lesion type if it is known, and what
    the type is called if it is not.
    """

    stem: str
    lesion: str = ""
    strange: str = ""


def _named(
    path: pathlib.Path, root: pathlib.Path, depth: int | None, ids: Mapping[str, str]
) -> _Named:
    stem, word = path.stem, ""
    last = LAST_WORD.match(stem)
    if stem not in ids and last and (last[1] in ids or lesion_type(last[2])):
        stem, word = last.groups()
    if lesion := lesion_type(word):
        return _Named(stem, lesion)
    folders = path.relative_to(root).parts[:-1]
    place = -1 if depth is None else depth
    folder = folders[place] if len(folders) > max(place, 0) else ""
    if lesion := lesion_type(folder):
        return _Named(stem, lesion)
    meant = folder if _key(folder) not in PLAIN else ""
    return _Named(stem, "", word or meant)


def _coco(path: pathlib.Path) -> dict[str, Any]:
    return _parsed(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _parsed(path: str, modified_ns: int) -> dict[str, Any]:
    """An annotation file in COCO's form; empty for any other."""
    try:
        document = json.loads(decoded(pathlib.Path(path).read_bytes()))
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    for part, keys in COCO_KEYS.items():
        items = document.get(part)
        if not isinstance(items, list):
            return {}
        if not all(isinstance(item, dict) and keys <= item.keys() for item in items):
            return {}
    return document


def _categories(document: Mapping[str, Any]) -> dict[Any, tuple[str, str]]:
    """For each category that is used its name and the lesion type that it means (or empty)."""
    names = {one["id"]: str(one["name"]) for one in document["categories"]}
    used = {one["category_id"] for one in document["annotations"]}
    return {
        number: (names.get(number, str(number)), lesion_type(names.get(number, "")))
        for number in used
    }


def _annotated(
    path: pathlib.Path,
    document: Mapping[str, Any],
    ids: Mapping[str, str],
    files: dict[str, list[MaskFile]],
    unknown: Counter[str],
) -> int:
    """Adds an annotation file's images; returns how many are of no photograph."""
    strangers, known = 0, set()
    for image in document["images"]:
        stem = pathlib.PurePosixPath(str(image["file_name"]).replace("\\", "/")).stem
        if stem in ids:
            known.add(image["id"])
            files.setdefault(ids[stem], []).append(MaskFile(str(path), "", image["id"]))
        else:
            strangers += 1
    kinds = _categories(document)
    for one in document["annotations"]:
        name, lesion = kinds[one["category_id"]]
        if one["image_id"] in known and not lesion:
            unknown[name] += 1
    return strangers
