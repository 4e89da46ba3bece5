"""One of every kind of odd or bad input in a data folder, each with what becomes of it."""

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.unit.fundus_drawing import Eye
from tests.unit.png_bomb import zeros_png

ACCEPTED = "accepted"


@dataclass(frozen=True)
class Kind:
    """A kind of input. `outcome`: a reason, or ACCEPTED; `detail`: a pattern in what the reject
    says; `step`: who finds out.

    `content` is written to `file`, or `make` makes it there; `labels` are rows of trainLabels.csv.
    `{id}` is the kind's own id.
    """

    name: str
    outcome: str = ACCEPTED
    detail: str = ""
    content: bytes | None = None
    make: Callable[[Path], None] | None = None
    step: str = "ingest"
    file: str = "train/{id}.jpeg"
    labels: tuple[str, ...] = ("{id},0",)
    mark: str = "{id}"


def saved(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


EYE = Eye(height=300, width=400, centre_y=149.5, centre_x=199.5, diameter=260.0)
PIXELS = EYE.draw()
GREY = PIXELS.mean(axis=2).astype(np.uint8)
PLAIN = saved(PIXELS, "JPEG", quality=95)
GRAIN = np.random.default_rng(0).integers(0, 30, (300, 400, 3), np.uint8)
GRAINY = saved(PIXELS // 2 + GRAIN, "JPEG")  # enough bits that a cut leaves out a part of the image
LYING = Image.Exif()
LYING[0x0112] = 6


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS = [
    Kind("a plain photograph", content=PLAIN),
    Kind("a PNG named .jpeg", content=saved(PIXELS, "PNG")),
    Kind("a JPEG named .png", content=saved(PIXELS, "JPEG", quality=94), file="train/{id}.png"),
    Kind("grey", content=saved(GREY, "JPEG")),
    Kind("grey of 16 bits", content=saved(GREY.astype(np.uint16) * 257, "PNG"), file="train/{id}.png"),
    Kind(
        "colour of 16 bits",
        content=cv2.imencode(".png", PIXELS[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
        file="train/{id}.png",
    ),
    Kind("CMYK", content=saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)),
    Kind(
        "transparent where there is no retina",
        content=saved(np.dstack([PIXELS, np.where(GREY > 0, 255, 0).astype(np.uint8)]), "PNG"),
        file="train/{id}.png",
    ),
    Kind("lying on its side, says its EXIF", content=saved(np.ascontiguousarray(np.rot90(PIXELS)), "JPEG", quality=95, exif=LYING)),
    Kind("an eye in capital letters", content=saved(PIXELS, "JPEG", quality=93), file="train/{id}.JPG", labels=("{id}.jpeg,0",)),
    Kind("empty", "empty", "holds no bytes", content=b""),
    Kind("a text", "not_an_image", "starts with the bytes b'not a p", content=b"not a photograph"),
    Kind("a JPEG whose header is damaged", "corrupt", "header is damaged", content=b"\xff\xd8\xff" + bytes(100)),
    Kind("a decompression bomb", "too_large", "more than 178 megapixels", content=zeros_png(20_000)),
    Kind("an absurdly large file", "too_large", "536,870,913 bytes", make=lambda path: path.touch() or os.truncate(path, 2**29 + 1)),
    Kind("a copy of another photograph", "duplicate_content", "the same file as 100_left", content=PLAIN),
    Kind("a second file of an id", "duplicate_id", "train/100_left.jpeg has the same id", content=b"x", file="more/100_left.png", labels=()),
    Kind("an extension of no photograph", "wrong_extension", "expected one of .jpeg", content=PLAIN + b"\0", file="train/{id}.gif"),
    Kind("a name that is no eye's", "wrong_name", "expected <patient>_left", content=PLAIN + b"\0\0", file="train/eye {id}.jpeg", labels=()),
    Kind("a folder with a photograph's name", "not_a_file", "a folder", make=Path.mkdir),
    Kind("a pipe", "not_a_file", "a device, pipe or socket", make=os.mkfifo),
    Kind("a link that leads outside", "outside_folder", "leads outside the data folder", make=_link("/etc/hostname")),
    Kind("a link to nothing", "broken_link", "a link to gone.jpeg, which is not there", make=_link("gone.jpeg")),
    Kind("one that may not be read", "unreadable", "no permission", content=PLAIN + b"\0\0\0", file="train/{id}.jpg"),
    Kind("a photograph without a label", "no_label", "no row of the label files", content=PLAIN + bytes(4), labels=()),
    Kind("a label without a photograph", "no_photograph", "no photograph of this id"),
    Kind("a level of 5", "stage_out_of_range", "level '5' is not one of", content=PLAIN + bytes(5), labels=("{id},5",)),
    Kind("a level of −1", "stage_out_of_range", "level '-1' is not one of", content=PLAIN + bytes(6), labels=("{id},-1",)),
    Kind("a level that is no number", "malformed_row", "level 'mild' is not a number", content=PLAIN + bytes(7), labels=("{id},mild",)),
    Kind("a row with a field too many", "malformed_row", "3 fields where the first line has 2", labels=("{id},0,1",)),
    Kind("a label given twice", "repeated_label", "gave stage 0 before this one's 3", content=PLAIN + bytes(8), labels=("{id},0", "{id},3")),
    Kind("an id that leads outside", "outside_folder", "leads outside the data folder", labels=("../../{id},0",), mark="../../"),
    Kind("a row that names no eye", "wrong_name", "names no eye", labels=("someone {id},0",)),
    Kind("cut short", "truncated", "ends before its image does", content=GRAINY[: len(GRAINY) // 2], step="preprocess"),
    Kind(
        "damaged in the middle",
        "corrupt",
        "a part of the image is missing",
        content=GRAINY[: len(GRAINY) // 2] + b"\xff\xd9",
        step="preprocess",
    ),
    Kind("too large for the limit in megapixels", "too_large", "13000×13000 px", content=zeros_png(13_000), step="preprocess"),
    Kind("tiny", "too_small", "40×30 px; each side needs at least 64", content=saved(PIXELS[::10, ::10], "PNG"), step="preprocess"),
    Kind(
        "animated",
        "animated",
        "2 frames in one file",
        content=saved(Image.fromarray(PIXELS), "PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())]),
        file="train/{id}.png",
        step="preprocess",
    ),
    Kind(
        "pixels that are no integers",
        "unsupported",
        "floating-point",
        content=saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        file="train/{id}.tiff",
        step="preprocess",
    ),
    Kind("black", "no_retina", "", content=saved(np.zeros((300, 400, 3), np.uint8), "JPEG"), step="preprocess"),
    Kind("no eye, but a grey wall", "no_retina", "", content=saved(np.full((300, 400, 3), 90, np.uint8), "PNG"), step="preprocess"),
]  # fmt: skip


def id_of(kind: Kind) -> str:
    return f"{100 + KINDS.index(kind)}_left"


def lay_out(folder: Path) -> Path:
    """Every kind in one data folder in Kaggle's layout."""
    rows = ["image,level"]
    for kind in KINDS:
        image_id = id_of(kind)
        path = folder / kind.file.format(id=image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind.content is not None:
            path.write_bytes(kind.content)
        if kind.make:
            kind.make(path)
        rows += [row.format(id=image_id) for row in kind.labels]
    (folder / "trainLabels.csv").write_text("\n".join(rows) + "\n")
    return folder


def about(kind: Kind, text: str) -> bool:
    """Whether a reject's texts speak of this kind's input."""
    return re.search(rf"(?<!\d){re.escape(kind.mark.format(id=id_of(kind)))}", text) is not None
