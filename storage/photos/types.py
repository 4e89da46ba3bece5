"""What the data folder is made of: photographs, labels, and problems with either."""

from typing import NamedTuple

from storage.ids import IMAGE_ID

PHOTO_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")


# A photograph is a few megabytes; a file of more would fill the memory before anyone could look at
# it.
MAX_PHOTO_BYTES = 512 * 2**20


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

    source: str | None
    image_id: str | None
    reason: str
    detail: str


def canonical_id(name: str) -> str | None:
    """The image id that a name stands for, the eye in lower case; None for a name that is none.

    >>> canonical_id("10_LEFT"), canonical_id("10_left.jpeg"), canonical_id("../10_left")
    ('10_left', '10_left', None)
    """
    stem = name.strip()
    for suffix in PHOTO_SUFFIXES:
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
    patient, _, eye = stem.rpartition("_")
    found = f"{patient}_{eye.lower()}"
    return found if IMAGE_ID.match(found) else None


class Photograph(NamedTuple):
    """One photograph: its id, "train" or "test" by its folder (or its label), its path, its size
    in bytes, its stamp.
    """

    image_id: str
    split_hint: str
    path: str
    bytes: int
    stamp: str
