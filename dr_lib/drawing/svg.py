"""The drawings of `figures` as SVG: words stay words, Hinton diagrams are squares, pictures are
embedded.

An SVG stands alone: it names no file and no address. Same input, same bytes.
"""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Shaped, UInt8

from dr_lib.drawing.figures import HALF_GRAY, PALETTES, Caption, Palette, hinton_squares, png

SANS = "Inter, system-ui, 'Segoe UI', Roboto, Arial, sans-serif"
INK, MUTED = "#18202a", "#626c76"


def panels_svg(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    captions: Sequence[Caption | str],
    *,
    title: str = "",
    size: int = 256,
) -> bytes:
    """The pictures in a row on white paper, each fitted into a square of `size`, a caption under
    each, a title on top.
    """
    gap, margin, head = 12, 20, (34 if title else 0)
    foot = 46 if any(isinstance(caption, Caption) and caption.note for caption in captions) else 26
    width, height = 2 * margin + len(images) * (size + gap) - gap, 2 * margin + head + size + foot
    body = [_text(title, margin, margin + 14, 16, weight=600)] if title else []
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        caption = Caption(caption) if isinstance(caption, str) else caption
        left, top = margin + place * (size + gap), margin + head
        data = base64.b64encode(png(image)).decode()
        body.append(
            f'<image x="{left}" y="{top}" width="{size}" height="{size}"'
            f' href="data:image/png;base64,{data}"/>'
        )
        body.append(_text(caption.text, left, top + size + 19, 14))
        if caption.note:
            body.append(_text(caption.note, left, top + size + 38, 12, colour=MUTED))
    return _document(width, height, body, background="#ffffff")


def hinton_svg(
    values: Shaped[np.ndarray, "..."],
    *,
    scale: float | int | None = None,
    cell_px: int = 24,
    palette: Palette = "green-red",
) -> bytes:
    """`figures.hinton` as squares: area ∝ |value|, colour the sign, on half-gray."""
    (rows, columns), squares = hinton_squares(values, scale=scale, cell_px=cell_px)
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTES[palette]]
    body = [
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}"'
        f' fill="{colours[0 if positive else 1]}"/>'
        for top, left, side, positive in squares
        if side
    ]
    return _document(
        columns * cell_px, rows * cell_px, body, background="#" + f"{HALF_GRAY:02x}" * 3
    )


def _text(words: str, x: int, y: int, size: int, *, colour: str = INK, weight: int = 400) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}"'
        f' fill="{colour}">{escape(words)}</text>'
    )


def _document(width: int, height: int, body: Sequence[str], *, background: str) -> bytes:
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0'
        f' {width} {height}"'
    )
    paper = f'<rect width="{width}" height="{height}" fill="{background}"/>'
    return f'{opening} font-family="{SANS}">{paper}{"".join(body)}</svg>\n'.encode()
