"""From a file's bytes to RGB pixels, or a named reason why not.

A photograph is refused from its header where that is possible, before any pixel is decoded: an
image of 10¹⁰ pixels fits into a few kilobytes. JPEGs, nearly all of what fundus cameras write, are
decoded at 1/2, 1/4 or 1/8 of their size where that leaves enough of the retina: libjpeg then
computes fewer coefficients, which is several times faster than decoding and shrinking. The file's
name and extension are never looked at.
"""

import io
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")  # Pillow's names
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError)  # Pillow's, of damaged files
LARGEST_MEGAPIXELS = 178.0  # Pillow itself refuses more

# IMREAD_REDUCED_COLOR_* mean BGR and may not be combined with RGB; these are the bits of the
# reduction alone
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class UnusablePhoto(ValueError):
    """A photograph to be set aside: `reason` is a short code for tables, `detail` says more to a
    person.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class UnreadablePhoto(UnusablePhoto):
    """Bytes that are not a photograph this project can use.

    `reason` is a short code for tables: empty, not_an_image, truncated, corrupt, too_large,
    too_small, animated or unsupported; `detail` says more to a person.

    >>> error = UnreadablePhoto("empty", "the file holds no bytes")
    >>> error.reason, str(error)
    ('empty', 'empty: the file holds no bytes')
    """


class UngradablePhoto(UnusablePhoto):
    """A photograph without a retina that can be located.

    `reason` is a short code for tables (`no_retina`, `no_border`, `not_round`, `two_eyes`,
    `wide_field`); `detail` says more to a person.

    >>> error = UngradablePhoto("no_retina", "the photograph is black")
    >>> error.reason, str(error)
    ('no_retina', 'no_retina: the photograph is black')
    """


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright: `pixels` (H, W, 3) uint8 RGB may be smaller than the original
    by `reduction` (1, 2, 4 or 8).
    """

    pixels: UInt8[np.ndarray, "y x 3"]
    reduction: int


@dataclass(frozen=True)
class Header:
    """What a file's header says: its format, upright size, Pillow's colour mode, and number of
    frames.
    """

    format: str
    width_px: int
    height_px: int
    mode: str
    frames: int


def inspect(data: bytes) -> Header:
    """The header of an image file; no pixel is decoded. Raises UnreadablePhoto (empty,
    not_an_image, corrupt, too_large).
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise UnreadablePhoto("empty", "the file holds no bytes")
    try:
        # Of large images and odd metadata; `decode` has limits of its own.
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            # A PNG's getexif would decode the whole image to reach a late chunk: a decompression
            # bomb's chance.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            # The camera lay on its side; of a TIFF Pillow states the upright size already.
            lying = exif.get(0x0112, 1) in (5, 6, 7, 8) and image.format != "TIFF"
            frames = (
                1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            )  # MPO: a JPEG with a preview
    except Image.DecompressionBombError:
        raise UnreadablePhoto(
            "too_large", f"its header states more than {LARGEST_MEGAPIXELS:g} megapixels"
        ) from None
    except UnidentifiedImageError:
        if any(data.startswith(start) for start in (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")):
            raise UnreadablePhoto(
                "corrupt", "it starts like an image, but its header is damaged"
            ) from None
        raise UnreadablePhoto(
            "not_an_image", f"no image format starts with the bytes {data[:8]!r}"
        ) from None
    except UNDECODABLE as error:
        raise UnreadablePhoto("corrupt", f"its header cannot be read: {error}") from None
    width_px, height_px = image.size[::-1] if lying else image.size
    return Header(
        "JPEG" if image.format == "MPO" else str(image.format),
        width_px,
        height_px,
        image.mode,
        frames,
    )


def decode(
    data: bytes,
    *,
    diameter_px: int = 512,
    max_reduction: int = 8,
    max_megapixels: float = 150.0,
    min_side_px: int = 64,
) -> Photo:
    """The photograph in a file's bytes; a JPEG is reduced as far as still leaves a usual retina
    `diameter_px` across.

    Grey becomes RGB, 16 bits become 8, CMYK and palettes become RGB, transparent pixels black, and
    EXIF's orientation is applied. Raises UnreadablePhoto; the class lists the reasons. Raises
    MemoryError where the machine has no room for it.
    """
    header = inspect(data)
    width_px, height_px = header.width_px, header.height_px
    if width_px * height_px > max_megapixels * 1e6:
        raise UnreadablePhoto(
            "too_large",
            f"its header states {width_px}×{height_px} px, over {max_megapixels:g} megapixels",
        )
    if min(width_px, height_px) < min_side_px:
        raise UnreadablePhoto(
            "too_small", f"{width_px}×{height_px} px; each side needs at least {min_side_px} px"
        )
    if header.frames > 1:
        raise UnreadablePhoto(
            "animated", f"{header.frames} frames in one file; save the one that is meant by itself"
        )
    if header.format == "JPEG" and header.mode in ("RGB", "L"):
        # Before decoding only the frame is known. In 644 EyePACS photographs the retina is 0.89 to
        # 1.5 times as wide as the frame's shorter side; expecting too little costs a few
        # milliseconds, too much a second decoding.
        expected_px = 0.93 * min(height_px, width_px)
        reduction = reduction_to(diameter_px, expected_px, max_reduction)
        return Photo(_decode_jpeg(data, reduction), reduction)
    return Photo(_decode_with_pillow(data), 1)


def reduction_to(diameter_px: float | int, expected_px: float, max_reduction: int) -> int:
    """The largest reduction (1, 2, 4 or 8) that leaves a retina `diameter_px` across, if it is
    `expected_px` across in the photograph.
    """
    reduction = 1
    while reduction < max_reduction and expected_px / (2 * reduction) >= diameter_px:
        reduction *= 2
    return reduction


def _decode_jpeg(data, reduction):
    """Upright RGB pixels of a JPEG at 1/`reduction` of its size."""
    try:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), _REDUCED[reduction] | cv2.IMREAD_COLOR_RGB
        )
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # the machine's, not the photograph's
            raise MemoryError(error.err) from None
        raise UnreadablePhoto("corrupt", f"its JPEG data cannot be decoded: {error.err}") from None
    again = "copy the file again from its source"
    if pixels is None:  # OpenCV's answer to a file that ends too early
        if data.rfind(b"\xff\xd9") < data.rfind(
            b"\xff\xda"
        ):  # no end of image after the last start of scan
            raise UnreadablePhoto("truncated", f"the file ends before its image does; {again}")
        raise UnreadablePhoto("corrupt", f"its JPEG data cannot be decoded; {again}")
    # Where bits are damaged libjpeg loses its place, and fills what it cannot decode, up to the
    # last pixel, with exactly this grey. A photograph that is grey on purpose is so in all its
    # corners.
    corners = (pixels[:2, :2], pixels[:2, -2:], pixels[-2:, :2], pixels[-2:, -2:])
    grey = [bool((corner == 128).all()) for corner in corners]
    if any(grey) and not all(grey):
        raise UnreadablePhoto(
            "corrupt", f"its JPEG data is damaged: a part of the image is missing; {again}"
        )
    return pixels


def _decode_with_pillow(data):
    """Upright RGB pixels of any other format."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore"):
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=FORMATS))
            if image.mode.startswith(
                "I"
            ):  # 16-bit grey: Pillow's own conversion would clip it at 255
                image = Image.fromarray(
                    (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
                )
            if image.mode == "F":
                raise UnreadablePhoto(
                    "unsupported",
                    "its pixels are floating-point numbers; save it with 8 or 16 bits a channel",
                )
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            return np.array(image.convert("RGB"))
    except UnreadablePhoto:
        raise
    except UNDECODABLE as error:
        reason = "truncated" if "truncated" in str(error) else "corrupt"
        raise UnreadablePhoto(reason, f"it cannot be decoded: {error}") from None
