"""Ids are hashes of contents: the same settings always name the same folder, other settings
another one.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath

ID_DIGITS = 12  # 48 bits: two of a million settings collide with a chance of 1 in 560


def content_id(*parts) -> str:
    """Twelve hexadecimal digits naming the contents of `parts` (mappings, dataclasses, strings,
    numbers, lists).

    Independent of the order of keys, of tuples against lists, and of the process:

    >>> content_id({"size": 256, "blur": 1.0}) == content_id({"blur": 1.0, "size": 256})
    True
    >>> content_id("a", "b") == content_id("ab")
    False
    >>> content_id({"layers": ("stem", "fc1")})
    '5fe241e59284'

    Raises TypeError for a part that has no canonical form, ValueError for NaN.
    """
    return digest(*parts)[:ID_DIGITS]


def digest(*parts) -> str:
    """All 64 hexadecimal digits of `content_id`."""
    parsed = json.loads(
        json.dumps(parts, default=plain), parse_float=_number, parse_constant=_refused
    )
    return digest_bytes(json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode())


def digest_file(path: str | PurePath) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_bytes(data: bytes) -> str:
    """The sha256 of some bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def page_name(image_id: str) -> str:
    """The image id as the name of a file and a part of an address; unlike ids stay unlike.

    >>> page_name("10_left"), page_name("clinic/Weiß OD")
    ('10_left', 'clinic-Wei-OD-06d16b5b')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", image_id).strip(".-")
    return plain if plain == image_id else f"{plain}-{digest_bytes(image_id.encode())[:8]}"


def plain(value):
    """What JSON does not know as what it knows: dataclasses, mappings, sets, paths, times, numpy's
    types. Raises TypeError for anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _number(text: str) -> float | int:
    """1.0 and 1 are one setting: a TOML file may write either."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _refused(constant: str):
    raise ValueError(f"{float(constant)} has no place in an id")
