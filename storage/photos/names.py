"""What a photograph's name says: its id, whose eye it shows, and which eye. No other place cuts
names.

An id is the file's name without its ending, in Unicode's composed form (NFC), so that a name typed
on another system is the same id. Whatever could climb out of a folder or hide a file is no id.
"""

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from storage.files.text import shipped_toml
from storage.photos.archive import archive_stem

PHOTO_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MAX_ID_BYTES = 160  # a file system takes 255, of which a report's page needs some
PATIENT_AND_EYE = r"(?P<patient>.+)_(?P<eye>left|right)"
SPLIT_FOLDER = re.compile(
    r"(?:[a-z0-9]{1,2}\. *)?(train|valid|val|test)(?:ing|ation)?(?:[ _-]?(?:set|images?|data))?"
)
PUBLISHED = shipped_toml("storage.photos", "published.toml")


def meanings(kind: str) -> dict[str, str]:
    """For each word of one kind in published.toml what it means."""
    return {word: meaning for meaning, words in PUBLISHED[kind].items() for word in words}


EYE_WORDS = meanings("eyes")


class Whose(NamedTuple):
    """A photograph's patient (None: the name does not say) and eye (None: likewise)."""

    patient: str | None
    eye: str | None


def without_suffix(name: str) -> str:
    """A file's name without a photograph's ending; other dots belong to the name.

    >>> without_suffix("Weiß 12.03.2019.JPG"), without_suffix("Weiß 12.03.2019")
    ('Weiß 12.03.2019', 'Weiß 12.03.2019')
    """
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in PHOTO_SUFFIXES else name


def safe_id(name: str) -> str | None:
    """The name as an id, or None for one that is unsafe in a path.

    >>> safe_id(" Weiß 12.03.2019 OD "), safe_id(".."), safe_id("a\\tb"), safe_id("a/b")
    ('Weiß 12.03.2019 OD', None, None, None)
    """
    found = unicodedata.normalize("NFC", name.strip())
    hidden = found.startswith(".") or "/" in found or "\\" in found
    unprintable = any(unicodedata.category(letter)[0] == "C" for letter in found)
    too_long = len(found.encode(errors="replace")) > MAX_ID_BYTES
    return None if not found or hidden or unprintable or too_long else found


def match_key(image_id: str) -> str:
    """What two names must differ in to be two photographs: neither case nor normal form counts.

    >>> match_key("IMG_1") == match_key("img_1")
    True
    """
    return unicodedata.normalize("NFC", image_id).casefold()


def split_of(folder: str) -> str:
    """The published split that a folder stands for: `train`, `validation`, `test`, or nothing.

    >>> [split_of(name) for name in ("data/train.zip/train", "b. Testing Set", "valid", "trains")]
    ['train', 'test', 'validation', '']
    """
    for part in reversed(folder.lower().split("/")):
        if found := SPLIT_FOLDER.fullmatch(archive_stem(part)):
            return "validation" if found[1] in ("valid", "val") else found[1]
    return ""


@dataclass(frozen=True)
class NameRule:
    """How the photographs of a source are named.

    pattern: a regular expression with the group `patient` and, if the name says it, `eye`; it has
    to match the whole name without its ending, or the whole path. required: a name that does not
    match is none of the data set's. by_path: the folders belong to the id, where names repeat in
    them. split_in_id: `train_` or `test_` goes before the name, where both splits count from 1.
    """

    pattern: str = PATIENT_AND_EYE
    required: bool = False
    by_path: bool = False
    split_in_id: bool = False

    def image_id(self, path: str) -> str | None:
        """The id of the photograph at this path, or of that which a table names so; None for none.

        >>> NameRule(required=True).image_id("train/10_LEFT.jpeg")
        '10_left'
        >>> NameRule(by_path=True).image_id("Weiß/2019/rechts.jpg")
        'Weiß_2019_rechts'
        """
        folder, _, name = path.rpartition("/")
        stem = without_suffix(name.strip())
        if self.required:
            patient, _, eye = stem.rpartition("_")
            found = f"{patient}_{eye.lower()}"
            return found if re.fullmatch(self.pattern, found) else None
        if self.by_path and folder:
            stem = f"{folder.replace('/', '_')}_{stem}"
        split = split_of(folder) if self.split_in_id else ""
        if split and not stem.lower().startswith(("train_", "test_", "validation_")):
            stem = f"{split}_{stem}"
        return safe_id(stem)

    def whose(self, path: str) -> Whose:
        """Whose eye the photograph at this path shows, and which one, as far as its name says.

        >>> NameRule(r"(?P<patient>.+) .+ (?P<eye>OD|OS)").whose("b/Weiß 12.03.2019 OD.jpg")
        Whose(patient='Weiß', eye='right')
        """
        whole = unicodedata.normalize("NFC", without_suffix(path.strip()))
        pattern = unicodedata.normalize("NFC", self.pattern)
        for name in (whole.rpartition("/")[2], whole):
            if found := re.fullmatch(pattern, name, re.IGNORECASE):
                groups = found.groupdict()
                eye = EYE_WORDS.get((groups.get("eye") or "").casefold())
                return Whose((groups.get("patient") or "").strip() or None, eye)
        return Whose(None, None)
