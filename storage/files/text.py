"""Text files: as other programs write them, in UTF-8 or UTF-16, with a byte order mark or without
one; and the tables that come with this program.
"""

import codecs
import importlib.resources
import tomllib
from typing import Any

# UTF-32's little-endian mark begins with UTF-16's.
MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def decoded(data: bytes) -> str:
    """The text in a file's bytes, without its byte order mark. Raises UnicodeDecodeError where it
    is none of UTF-8 and UTF-16.

    >>> {
    ...     decoded("image".encode(encoding))
    ...     for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
    ... }
    {'image'}
    """
    for encoding, marks in MARKS.items():
        if data.startswith(marks):
            return data.decode(encoding)
    # Tables and configurations begin in ASCII, which UTF-16 pads with zeros.
    if len(data) > 1 and (data[0] == 0) != (data[1] == 0):
        return data.decode("utf-16-le" if data[0] else "utf-16-be")
    return data.decode("utf-8-sig")


def shipped_toml(package: str, name: str) -> dict[str, Any]:
    """The TOML file of that name that lies beside a package's modules."""
    text = importlib.resources.files(package).joinpath(name).read_text("utf-8")
    return tomllib.loads(text)
