"""The report: a static folder that opens from disk or any web server.

index.html shows the run; each section has a page of its own; eyes.html holds every explained eye,
filtered and in pages; eye.html#<key> is one of them, unit.html#<layer>/<unit> one channel. `render`
makes all that but the eyes' own files; those (two an eye) come from `eye_files`, eye by eye and
wherever there is a core. Nothing is fetched from the network. This package must not know where the
folder lies: the caller writes the files.
"""

import inspect
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dr_lib import formatting
from dr_lib.drawing import figures
from dr_lib.drawing.plots import STAGE_COLOURS
from dr_lib.formatting import quantity, unbroken
from dr_lib.report.entry import EyeEntry
from dr_lib.report.eyes import STEPS, figure_a, fitted, grades
from dr_lib.report.gallery import chunk_names, gallery_files, ordered
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section, table
from dr_lib.vocabulary import STAGE_NAMES

if TYPE_CHECKING:
    import jinja2
    from jinja2.environment import TemplateModule

HERE = pathlib.Path(__file__).parent
TEMPLATES = [HERE / "templates"]
ASSETS = ("report.css", "report.js", "draw.js", "gallery.js", "eye.js", "units.js")


@dataclass(frozen=True)
class Head:
    """What ran, as every page names it."""

    title: str = "Diabetic retinopathy, explained"
    workspace: str = "WORKSPACE"
    run_id: str = ""
    model_id: str = ""
    explain_id: str = ""
    model_name: str = "The model"
    when: str = ""


def render(
    head: Head,
    sections: Sequence[Section],
    folder: Folder,
    gallery: pd.DataFrame | None = None,
    lead: tuple[EyeEntry, str] | None = None,
) -> dict[str, bytes | str]:
    """Every file of a report but those of its eyes. Same data, same bytes.

    Parameters
    ----------
    head: what ran.
    sections: in the order in which they are shown.
    folder: with the pictures of the sections.
    gallery: every explained eye, columns key (the name of its files below eyes/, such as
        00000/10_left), image_id, stage, predicted, gap (relative), share (of the lesion map that
        lies in its regions), symmetry (stage 0 against 4), patient; any of the last four may be
        missing.
    lead: the eye of the opening figure, with its key.

    Returns
    -------
    Contents by name relative to the report's folder; text as str (UTF-8).

    Raises
    ------
    ValueError: two sections would write the same file.
    """
    for name in ASSETS:
        folder.add(f"assets/{name}", (HERE / "assets" / name).read_text(encoding="utf-8"))
    eyes = pd.DataFrame() if gallery is None or gallery.empty else ordered(gallery)
    for name, script in gallery_files(eyes).items() if len(eyes) else ():
        folder.add(name, script)
    shared = {
        **_shared(head),
        "sections": sections,
        "explained": len(eyes),
        "chunks": chunk_names(len(eyes)),
        "known": {name for name in eyes if eyes[name].notna().any()},
    }
    templates = _templates()

    def part(template: str, values: Mapping[str, Any], root: str = "") -> "TemplateModule":
        given = shared | {**values, "root": root}
        return templates.get_template(f"sections/{template}.html.j2").make_module(given)

    def page(name: str, template: str, root: str = "", **values: object) -> None:
        text = templates.get_template(template).render(shared, here=name, root=root, **values)
        folder.add(name, unbroken(text))

    parts = {section.id: part(section.id, section.content.values) for section in sections}
    page("index.html", "index.html.j2", parts=parts, lead=_lead(folder, lead))
    page("eye.html", "eye.html.j2")
    if "units/index.js" in folder.files:
        page("unit.html", "unit.html.j2")
    for section in sections:
        template = "gallery.html.j2" if section.page == "eyes.html" else "section.html.j2"
        page(section.page, template, title=section.title, part=parts[section.id])
        for below in section.content.below:
            made = part(below.template, below.values, "../")
            page(
                below.address, "section.html.j2", "../", title=below.title, part=made, above=section
            )
    return folder.files


def render_page(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """A page that stands alone, with what it needs beside it: templates/<name>.html.j2, which is
    given `values`. Contents by file."""
    text = _templates().get_template(f"{name}.html.j2").render(_shared(Head()), root="", **values)
    assets = {f"assets/{file}": (HERE / "assets" / file).read_text("utf-8") for file in ASSETS[:2]}
    return assets | {f"{name}.html": unbroken(text)}


def render_words(name: str, **values: Any) -> list[str]:
    """The blocks of templates/<name>.txt.j2, which lines of three dashes part."""
    text = _templates().get_template(f"{name}.txt.j2").render(_shared(Head()), **values)
    return text.split("---\n")


def _shared(head: Head) -> dict[str, Any]:
    """What every template may use."""
    functions = dict(inspect.getmembers(formatting, inspect.isfunction))
    return {"head": head, "tabulated": table, **functions, **_drawing()}


def _lead(folder: Folder, lead: tuple[EyeEntry, str] | None) -> SimpleNamespace | None:
    """Fig (a) of the opening eye, panel by panel and as one file; None where it lacks a part."""
    if lead is None:
        return None
    eye, key = lead
    panels = fitted(figure_a(eye), len(eye.fundus))
    if len(panels) < len(figure_a(eye)):
        return None
    strip = folder.strip("lead", panels, eye.image_id, grades(eye))
    return SimpleNamespace(eye=eye, key=key, strip=strip, toward=quantity(eye.layers[0].quantity))


def _templates() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: ".html" in (name or ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda cell: type(cell).__name__.lower()
    return environment


def _drawing() -> dict[str, object]:
    """What templates and scripts need to draw as Python does."""
    # feColorMatrix: rows of five, the offset last; alpha (the fourth row) stays.
    matrix = np.eye(4, 5)
    matrix[:3, :3] = figures.recolouring().round(6)
    return {
        "recolouring": "  ".join(" ".join(f"{value:g}" for value in row) for row in matrix),
        "drawing": {
            "palettes": figures.PALETTES,
            "darkened": figures.DARKENED,
            "opacity": figures.OPACITY,
            "gamma": figures.GAMMA,
            "steps": STEPS,
        },
        "stages": list(zip(range(len(STAGE_NAMES)), STAGE_NAMES, STAGE_COLOURS, strict=True)),
    }
