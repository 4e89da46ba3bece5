"""A mask's pixels by lesion type, from every form in which masks are published."""

import io

import numpy as np
import pytest
from PIL import Image

from dr_lib.localisation import UnusableMask
from dr_lib.localisation.masks import (
    annotated_planes,
    colour_planes,
    merged,
    snapped,
    type_plane,
)
from dr_lib.synthetic import MASK_COLOURS

PLANE = np.zeros((12, 20), bool)
PLANE[2:5, 3:9] = True


def encoded(pixels, kind="PNG", mode=None, palette=None):
    image = Image.fromarray(pixels, mode) if mode else Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def forms():
    index = PLANE.astype(np.uint8)
    gray = 255 * index
    rgba = np.dstack([gray // 2, 0 * gray, 0 * gray, np.full_like(gray, 255)])
    palette = [0, 0, 0, 76, 0, 0] + [0] * 762
    return {
        "gray": encoded(gray, "TIFF"),
        "one bit": encoded(PLANE, "TIFF"),
        "sixteen bit": encoded(index.astype(np.uint16) * 900, "PNG"),
        "RGBA": encoded(rgba, "TIFF"),
        "palette": encoded(index, "TIFF", palette=palette),
        "number 1": encoded(index, "PNG"),
    }


@pytest.mark.parametrize("form", forms())
def test_what_is_not_black_is_the_lesion_in_every_form(form):
    assert np.array_equal(type_plane(forms()[form]), PLANE)


def test_a_jpeg_is_cut_at_half_so_that_its_noise_is_no_lesion():
    gray = np.zeros((64, 64), np.uint8)
    gray[16:48, 16:48] = 255
    assert type_plane(encoded(gray, "JPEG")).sum() == pytest.approx(1024, abs=20)


def test_an_inverted_mask_and_one_that_is_no_picture_are_refused():
    with pytest.raises(UnusableMask, match="inverted: 92 % of it is lesion"):
        type_plane(encoded(255 * (~PLANE).astype(np.uint8)))
    with pytest.raises(UnusableMask, match="no image that can be decoded"):
        type_plane(b"")


def test_colours_become_planes_and_colours_between_are_snapped():
    pixels = np.zeros((12, 20, 3), np.uint8)
    pixels[2:5, 3:9] = MASK_COLOURS["hard_exudate"]
    pixels[7, 7] = (250, 3, 0)
    planes = colour_planes(encoded(pixels))
    assert sorted(planes) == ["haemorrhage", "hard_exudate"]
    assert np.array_equal(planes["hard_exudate"], PLANE)
    assert np.argwhere(planes["haemorrhage"]).tolist() == [[7, 7]]
    assert colour_planes(encoded(np.zeros((5, 5, 3), np.uint8))) == {}


def test_every_colour_of_the_palette_is_snapped_to_itself():
    colours = np.array([list(MASK_COLOURS.values())], np.uint8)
    assert snapped(colours)[0].tolist() == list(range(1, len(MASK_COLOURS) + 1))


@pytest.mark.parametrize("what", ["photograph", "numbers"])
def test_a_photograph_or_numbers_of_types_in_place_of_colours_are_refused(what):
    noise = np.random.default_rng(0).integers(40, 200, (40, 40, 3)).astype(np.uint8)
    numbers = np.random.default_rng(0).integers(0, 5, (40, 40)).astype(np.uint8)
    with pytest.raises(UnusableMask, match="not_a_mask"):
        colour_planes(encoded(noise if what == "photograph" else numbers))


def annotation(segmentation, lesion="haemorrhage"):
    return {"id": 1, "lesion": lesion, "segmentation": segmentation}


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    """From the left edge of pixel 3 to the right edge of pixel 8, and of rows 2 to 4."""
    planes = annotated_planes([annotation([[3, 2, 9, 2, 9, 5, 3, 5]])], (12, 20))
    assert np.array_equal(planes["haemorrhage"], PLANE)


def test_a_polygon_without_a_pixels_centre_keeps_the_pixel_in_its_middle():
    planes = annotated_planes([annotation([[4.1, 6.1, 4.3, 6.1, 4.3, 6.3]])], (12, 20))
    assert np.argwhere(planes["haemorrhage"]).tolist() == [[6, 4]]


def test_runs_go_down_the_columns_compressed_or_not():
    flat = PLANE.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    assert lengths[:4] == [38, 3, 9, 3]
    plain = {"size": [12, 20], "counts": lengths}
    assert np.array_equal(annotated_planes([annotation(plain)], (12, 20))["haemorrhage"], PLANE)
    compressed = {"size": [12, 20], "counts": _compressed(lengths)}
    found = annotated_planes([annotation(compressed)], (12, 20))["haemorrhage"]
    assert np.array_equal(found, PLANE)
    with pytest.raises(UnusableMask, match="does not fit an image of 21 × 12"):
        annotated_planes([annotation(plain)], (12, 21))


def _compressed(lengths):
    """COCO's text of runs: each from the third on as a difference, 5 bits a character."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - lengths[place - 2] if place > 2 else length
        while True:
            code, value = value & 31, value >> 5
            more = value != -1 if code & 16 else value != 0
            text += chr(48 + code + (32 if more else 0))
            if not more:
                break
    return text


def test_an_annotation_without_an_outline_is_refused():
    with pytest.raises(UnusableMask, match="no_outline: annotation 1 has no segmentation"):
        annotated_planes([annotation([])], (12, 20))


def test_types_of_several_files_are_kept_apart_and_one_types_files_are_joined():
    other = np.roll(PLANE, 5, axis=0)
    planes = merged([{"haemorrhage": PLANE}, {"haemorrhage": other}, {"hard_exudate": PLANE}])
    assert np.array_equal(planes["haemorrhage"], PLANE | other)
    assert np.array_equal(planes["hard_exudate"], PLANE)
    with pytest.raises(UnusableMask, match="two masks of haemorrhage differ in size"):
        merged([{"haemorrhage": PLANE}, {"haemorrhage": PLANE[:5]}])
