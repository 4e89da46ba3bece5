"""Every kind of file is decoded to upright RGB, or refused by name; a bomb is refused before it
is decoded.
"""

import io
import struct
import tracemalloc
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from dr_lib.fundus.photo import Photo, UnreadablePhoto, decode, inspect
from tests.unit.png_bomb import chunk, zeros_png

RED, GREEN = (200, 20, 20), (20, 160, 40)


def picture(height: int = 96, width: int = 160) -> np.ndarray:
    """Red above, green below, with a black frame: upside down or mirrored it is another picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[8 : height // 2, 8:-40] = RED
    pixels[height // 2 : -8, 8:-40] = GREEN
    return pixels


def saved(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reason_of(data: bytes, **limits) -> str:
    with pytest.raises(UnreadablePhoto) as error:
        decode(data, **limits)
    assert error.value.detail
    return error.value.reason


def near(photo: Photo, pixels: np.ndarray, tolerance: float = 6) -> bool:
    return (
        photo.pixels.shape == pixels.shape
        and float(np.abs(photo.pixels.astype(int) - pixels).mean()) < tolerance
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM"])
def test_the_content_decides_about_the_format(format):
    data = saved(picture(), format)
    header = inspect(data)
    assert (header.format, header.width_px, header.height_px) == (format, 160, 96)
    photo = decode(data)
    assert near(photo, picture())
    assert photo.reduction == 1


def test_a_machine_without_memory_is_no_corrupt_photograph(monkeypatch):
    """What OpenCV raises where the pixels of a JPEG cannot be allocated."""

    def full(*_):
        error = cv2.error("imdecode")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 48000000 bytes"
        raise error

    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(MemoryError, match="Failed to allocate"):
        decode(saved(picture(), "JPEG"))


def test_a_single_frame_gif_is_decoded():
    assert near(
        decode(
            saved(Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE), "GIF")
        ),
        picture(),
    )


def test_grey_becomes_rgb():
    grey = picture().mean(axis=2).astype(np.uint8)
    for format in ("JPEG", "PNG"):
        assert near(decode(saved(grey, format)), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_become_eight_by_their_high_byte():
    grey = picture().mean(axis=2).astype(np.uint16)
    photo = decode(saved(grey * 256 + 17, "PNG"))
    assert np.array_equal(photo.pixels, np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2))
    colour = cv2.imencode(".png", (picture()[..., ::-1].astype(np.uint16) * 257))[1].tobytes()
    assert np.array_equal(decode(colour).pixels, picture())


def test_cmyk_becomes_rgb():
    assert near(
        decode(saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)),
        picture(),
        tolerance=12,
    )


def test_transparent_pixels_become_black():
    alpha = np.full((96, 160, 1), 255, np.uint8)
    alpha[:, 80:] = 0
    white = np.concatenate([np.full((96, 160, 3), 255, np.uint8), alpha], axis=2)
    photo = decode(saved(white, "PNG"))
    assert (photo.pixels[:, :80] == 255).all()
    assert (photo.pixels[:, 80:] == 0).all()


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, 1)),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, -1)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_honoured(orientation, stored, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(np.ascontiguousarray(stored(picture())), format, exif=exif)
    assert near(decode(data), picture())
    header = inspect(data)
    assert (header.width_px, header.height_px) == (160, 96)


@pytest.mark.parametrize(
    ("height", "reduction"),
    [
        (500, 1),
        (1100, 1),
        (1102, 2),
        (2202, 2),
        (2204, 4),
    ],  # 0.93 of the shorter side, over the reduction, is at least 512
)
def test_a_jpeg_is_reduced_as_far_as_leaves_a_usual_retina_large_enough(height, reduction):
    photo = decode(saved(picture(height, height + 8), "JPEG"))
    assert photo.reduction == reduction
    assert photo.pixels.shape[:2] == (-(-height // reduction), -(-(height + 8) // reduction))


def test_max_reduction_limits_the_reduction():
    assert decode(saved(picture(2300, 2300), "JPEG"), max_reduction=1).reduction == 1


def test_a_reduced_and_turned_jpeg_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(1200, 1300)
    photo = decode(saved(np.ascontiguousarray(np.rot90(upright)), "JPEG", exif=exif))
    assert photo.reduction == 2
    assert near(photo, upright[::2, ::2])


def test_no_bytes_are_empty():
    assert reason_of(b"") == "empty"


@pytest.mark.parametrize(
    "data", [b"image,level\n10_left,0\n", b"<html></html>", b"\0" * 5000, b"%PDF-1.7 \n"]
)
def test_other_files_are_not_an_image(data):
    assert reason_of(data) == "not_an_image"


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_file_that_ends_early_is_refused(share, format):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    data = saved(noise, format)
    assert reason_of(data[: int(share * len(data))]) in ("truncated", "corrupt")


def test_a_jpeg_that_ends_early_is_called_truncated():
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    for progressive in (False, True):
        data = saved(noise, "JPEG", progressive=progressive)
        assert reason_of(data[: len(data) // 2]) == "truncated"


def test_a_jpeg_whose_data_is_cut_out_or_overwritten_is_corrupt():
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    data = saved(noise, "JPEG")
    middle = len(data) // 2
    assert (
        reason_of(data[:middle] + b"\xff\xd9") == "corrupt"
    )  # half of the picture, properly ended: the rest would be grey
    garbage = np.random.default_rng(1).integers(0, 256, 3000).astype(np.uint8).tobytes()
    assert reason_of(data[:middle] + garbage + data[middle + 3000 :]) == "corrupt"


def test_a_damaged_header_is_corrupt():
    assert reason_of(b"\xff\xd8\xff" + b"\0" * 100) == "corrupt"


def test_a_photograph_with_grey_in_every_corner_is_no_damaged_one():
    grey = np.full((96, 160, 3), 128, np.uint8)
    grey[30:60, 30:60] = RED
    assert near(decode(saved(grey, "JPEG")), grey)


@pytest.fixture
def no_decoder(monkeypatch):
    """Makes every decoder of pixels an error."""

    def called(*_, **__):
        raise AssertionError("pixels are being decoded")

    monkeypatch.setattr(cv2, "imdecode", called)
    monkeypatch.setattr(ImageFile.ImageFile, "load", called)


def test_the_bombs_below_are_whole_images():
    assert near(decode(zeros_png(200)), np.zeros((200, 200, 3)), tolerance=0.01)


@pytest.mark.parametrize(
    "side", [13_000, 20_000]
)  # below and above the limit at which Pillow itself refuses
def test_a_decompression_bomb_is_refused_before_a_pixel_is_decoded(side, no_decoder):
    bomb = zeros_png(side)
    assert len(bomb) < side**2 / 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(bomb) == "too_large"


def test_a_jpeg_that_states_an_absurd_size_is_refused_before_a_pixel_is_decoded(no_decoder):
    huge = bytearray(saved(picture(), "JPEG"))
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    assert reason_of(bytes(huge)) == "too_large"


@pytest.mark.parametrize(
    ("kind", "start"),
    [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")],
)
def test_a_bomb_beside_the_pixels_does_not_go_off(kind, start, no_decoder):
    """Texts and colour profiles of a PNG are compressed too; without a limit, 50 MB of them
    would be unpacked with the header.
    """
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(10**6)) for _ in range(50)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(UnreadablePhoto) as error:
        inspect(zeros_png(100, chunk(kind, start + text)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.value.reason == "corrupt"
    assert peak < 8 * 2**20  # Pillow unpacks one MiB, which is copied twice


def test_size_limits_are_settings():
    data = saved(picture(), "PNG")
    assert reason_of(data, max_megapixels=0.01) == "too_large"
    assert reason_of(data, min_side_px=97) == "too_small"
    assert decode(data, min_side_px=96).pixels.shape[1] == 160


def test_a_tiny_image_is_too_small():
    assert reason_of(saved(picture(40, 60), "PNG")) == "too_small"


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(format):
    frames = [Image.fromarray(np.roll(picture(), 10 * k, axis=1)) for k in range(3)]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert reason_of(data) == "animated"


def test_floating_point_pixels_are_unsupported():
    assert (
        reason_of(saved(Image.fromarray(picture().mean(axis=2).astype(np.float32)), "TIFF"))
        == "unsupported"
    )
