"""Which lesion masks lie at a place, in the layouts in which the world publishes them.

- A picture a lesion type, as IDRiD (`IDRiD_01_MA.tif` in `1. Microaneurysms/`), DDR
  (`EX/007-0004-100.tif`) and others have it: the type is told by the file's last word or by a
  folder's name.
- A picture of colours for all types (`10_left.png`), as `dr synthesise` makes it.
- An annotation file in COCO's form (`instances.json`).

Only names, and the annotation file's text, are looked at here; what a mask means is decided in
`dr_lib.localisation`. A type that is not known is named and never taken for another.
"""

import functools
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import Refused
from storage.files.text import decoded
from storage.photos.names import PUBLISHED, meanings
from storage.photos.recognition import is_mask
from storage.photos.types import Problem

PICTURES = (".png", ".tif", ".tiff", ".gif", ".bmp", ".jpg", ".jpeg")
LOSSY = (".jpg", ".jpeg")
NOT_TRIED = UNKNOWN_TYPE, NO_PHOTOGRAPH = "unknown_lesion_type", "mask_without_photograph"
COCO_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"image_id", "category_id"},
    "categories": {"id", "name"},
}
LAST_WORD = re.compile(r"(.+)[_\-. ]([^_\-. ]+)$")
LESION_NAMES = meanings("lesions")
NOISE = set(PUBLISHED["mask_words"]["beside"])
# Folders that say nothing of a type: photographs, and parts of a data set.
PLAIN = {"", *PUBLISHED["mask_words"]["folders"]}


@dataclass(frozen=True)
class MaskFile:
    """A file that says something of one photograph's lesions.

    path: of the file. lesion: the type that all of it shows; empty for a picture of colours and for
    an annotation file, in which `image` is the number of the photograph.
    """

    path: str
    lesion: str = ""
    image: int | str | None = None


@dataclass(frozen=True)
class MaskIndex:
    """The masks at a place, or at several. files: by photograph's id. unused: what is not used: a
    mask or annotation of a type that is not known (its detail is the type's name), and those of no
    photograph of the catalogue.
    """

    files: Mapping[str, tuple[MaskFile, ...]]
    unused: tuple[Problem, ...] = ()

    @property
    def unknown(self) -> Counter[str]:
        """How many masks or annotations are of a type that is not known, by its name."""
        return Counter(one.detail for one in self.unused if one.reason == UNKNOWN_TYPE)

    @property
    def strangers(self) -> int:
        """How many masks are of no photograph."""
        return sum(one.reason == NO_PHOTOGRAPH for one in self.unused)

    def stamp(self, image_id: str) -> str:
        """What changes with a photograph's masks, their sizes and modification times; empty where
        it has none.
        """
        states = [os.stat(file.path) for file in self.files.get(image_id, ())]
        return ",".join(f"{state.st_size}:{state.st_mtime_ns}" for state in states)


def lesion_type(name: str) -> str:
    """The lesion type that a folder, a file's last word or a category means; empty where it is not
    known.

    >>> lesion_type("1. Microaneurysms"), lesion_type("SoftExudate_Masks"), lesion_type("drusen")
    ('microaneurysm', 'soft_exudate', '')
    """
    return LESION_NAMES.get(_key(name), "")


def _key(name: str) -> str:
    words = re.findall(r"[a-z]+", name.lower())
    kept = [word for word in words if len(word) > 1 and word.removesuffix("s") not in NOISE]
    return "".join(kept).removesuffix("s")


def masks_inside(root: pathlib.Path) -> pathlib.Path | None:
    """The folder in which a published data set keeps its masks beside its photographs: `masks`, or
    as IDRiD and DDR name it; None where there is none with pictures.
    """
    if (root / "masks").is_dir():
        return root / "masks"
    named = (
        pathlib.Path(parent, folder)
        for parent, folders, _ in os.walk(root)
        for folder in sorted(folders)
        if is_mask(f"{folder}/")
    )
    pictures = (
        folder
        for folder in named
        if any(path.suffix.lower() in PICTURES for path in folder.rglob("*"))
    )
    return next(pictures, None)


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
    unused: list[Problem] = []

    def take(stem: str, mask: MaskFile, strange: str = "") -> None:
        if stem not in ids:
            unused.append(Problem(mask.path, None, NO_PHOTOGRAPH, f"no photograph {stem} is here"))
        elif strange:
            unused.append(Problem(mask.path, ids[stem], UNKNOWN_TYPE, strange))
        else:
            files.setdefault(ids[stem], []).append(mask)

    pictures = [path for path in paths if path.suffix.lower() in PICTURES]
    # How many folders below the root the folders lie that are named by lesion types.
    depths = (
        depth
        for path in pictures
        for depth, folder in enumerate(path.relative_to(root).parts[:-1])
        if lesion_type(folder)
    )
    depth = next(depths, -1)
    named = [_named(path, root, depth, ids) for path in pictures]
    typed = any(mask.lesion for _, mask, _ in named)
    for stem, mask, strange in named:
        # A photograph may lie with its masks; no mask of colours survives a JPEG.
        if mask.lesion or strange or not (typed or mask.path.lower().endswith(LOSSY)):
            take(stem, mask, strange)
    for path in paths:
        if path.suffix.lower() == ".json" and (document := _coco(path)):
            stems = {image["id"]: _stem(image) for image in document["images"]}
            for number, stem in stems.items():
                take(stem, MaskFile(str(path), "", number))
            for one in document["annotations"]:
                if not one["lesion"] and (stem := stems.get(one["image_id"])) in ids:
                    take(stem, MaskFile(str(path)), one["name"])
    return MaskIndex({name: tuple(found) for name, found in files.items()}, tuple(unused))


def joined(indexes: Sequence[MaskIndex]) -> MaskIndex:
    """The masks at several places, each of photographs of its own, as one."""
    return MaskIndex(
        {name: files for index in indexes for name, files in index.files.items()},
        tuple(one for index in indexes for one in index.unused),
    )


def annotations(path: str, image: int | str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """(height, width) of one image of a COCO file, and its annotations of known types, each with
    the key `lesion`.
    """
    document = _coco(pathlib.Path(path))
    size = next(one for one in document["images"] if one["id"] == image)
    found = [one for one in document["annotations"] if one["image_id"] == image and one["lesion"]]
    return (int(size["height"]), int(size["width"])), found


def _named(
    path: pathlib.Path, root: pathlib.Path, depth: int, ids: Mapping[str, str]
) -> tuple[str, MaskFile, str]:
    """What a picture's place says: the photograph's name, the mask with its lesion type if that is
    known, and what the type is called if it is not.
    """
    stem, word = path.stem, ""
    last = LAST_WORD.match(stem)
    if stem not in ids and last and (last[1] in ids or lesion_type(last[2])):
        stem, word = last.groups()
    folder = next(iter(path.relative_to(root).parts[:-1][depth:]), "")
    lesion = lesion_type(word) or lesion_type(folder)
    meant = folder if _key(folder) not in PLAIN else ""
    return stem, MaskFile(str(path), lesion), "" if lesion else word or meant


def _coco(path: pathlib.Path) -> dict[str, Any]:
    return _parsed(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _parsed(path: str, modified_ns: int) -> dict[str, Any]:
    """An annotation file in COCO's form, each annotation with the `name` of its category and the
    `lesion` type that this means (or empty); empty for any other file.
    """
    try:
        document = json.loads(decoded(pathlib.Path(path).read_bytes()))
    except ValueError:
        return {}
    parts = document if isinstance(document, dict) else {}
    if not all(
        isinstance(items := parts.get(part), list)
        and all(isinstance(item, dict) and keys <= item.keys() for item in items)
        for part, keys in COCO_KEYS.items()
    ):
        return {}
    names = {one["id"]: one["name"] for one in document["categories"]}
    for one in document["annotations"]:
        one["name"] = str(names.get(one["category_id"], one["category_id"]))
        one["lesion"] = lesion_type(one["name"])
    return document


def _stem(image: Mapping[str, Any]) -> str:
    return pathlib.PurePosixPath(str(image["file_name"]).replace("\\", "/")).stem
