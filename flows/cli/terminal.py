"""Output to a terminal or a pipe that is not UTF-8: what it cannot show is written plainly, and
never an error at the end.
"""

import codecs
import io
import sys

PLAIN = {
    "–": "-",
    "−": "-",
    "·": "-",
    "…": "...",
    "×": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "²": "2",
    "°": " deg",
}
_HANDLER = "dr-plain"


def plain(error: UnicodeError) -> tuple[str, int]:
    """What an encoder writes in the place of characters that it does not know.

    >>> codecs.register_error("plain", plain)
    >>> "0.8 (0.7–0.9) für κ".encode("ascii", "plain")
    b'0.8 (0.7-0.9) f\\\\xfcr \\\\u03ba'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    escaped = (
        PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in unknown
    )
    return "".join(escaped), error.end


def accept_any_encoding() -> None:
    """From now on whatever this process prints can be printed."""
    codecs.register_error(_HANDLER, plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
