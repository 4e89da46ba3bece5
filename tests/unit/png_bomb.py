"""A whole, valid PNG of nothing but zeros, written without making the zeros: a thousand times
smaller than its pixels.
"""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros_png(side: int, *extra: bytes) -> bytes:
    """A black grey-scale PNG of side² pixels; `extra` are chunks that stand before the image."""
    line = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = line.compress(bytes(side + 1)) + line.flush(
        zlib.Z_FULL_FLUSH
    )  # a block that can stand behind itself
    checksum = (side * (side + 1) % 65521) << 16 | 1  # Adler-32 of so many zeros
    data = b"\x78\xda" + packed * side + b"\x03\x00" + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        SIGNATURE
        + chunk(b"IHDR", header)
        + b"".join(extra)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )
