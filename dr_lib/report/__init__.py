"""The report: a static folder that opens from disk or any web server.

index.html shows the run; eyes.html every explained eye, filtered and in pages; eye.html#<key> one
of them. `render` makes all that but the eyes' own files; those (two an eye) come from `eye_files`,
eye by eye and wherever there is a core. Nothing is fetched from the network. This package must not
know where the folder lies: the caller writes the files.
"""

import pathlib
from typing import Any

import numpy as np

from dr_lib.drawing import figures
from dr_lib.drawing.plots import STAGE_COLOURS, STAGE_NAMES
from dr_lib.report.data import (
    BeforeAfter,
    Citation,
    CounterfactualSection,
    DataSection,
    EyeEntry,
    GallerySection,
    GroupMap,
    GroupSection,
    HintonEntry,
    LayerMaps,
    LinearitySection,
    Localisation,
    ModelSection,
    NeuronEntry,
    OutcomeMap,
    ReportData,
    RunSummary,
    SetAside,
    StageTime,
    Triptych,
    UnitEntry,
    UnitEye,
)
from dr_lib.report.eyes import DRAWING_VERSION, STEPS, eye_files, eye_sheet
from dr_lib.report.gallery import chunk_names, gallery_files, ordered
from dr_lib.report.glance import glance, lead_view
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from dr_lib.report.sections import SECTIONS
from dr_lib.report.sections.model import model_plots
from dr_lib.report.sections.photographs import before_after_sheet, set_aside_sheet
from dr_lib.report.words import label, number, quantity, slugs, with_interval

__all__ = [
    "DRAWING_VERSION",
    "SECTIONS",
    "BeforeAfter",
    "Citation",
    "CounterfactualSection",
    "DataSection",
    "EyeEntry",
    "GallerySection",
    "GroupMap",
    "GroupSection",
    "HintonEntry",
    "LayerMaps",
    "LinearitySection",
    "Localisation",
    "ModelSection",
    "NeuronEntry",
    "OutcomeMap",
    "ReportData",
    "RunSummary",
    "Section",
    "SetAside",
    "StageTime",
    "Triptych",
    "UnitEntry",
    "UnitEye",
    "before_after_sheet",
    "eye_files",
    "eye_sheet",
    "label",
    "model_plots",
    "render",
    "set_aside_sheet",
    "slugs",
    "with_interval",
]

HERE = pathlib.Path(__file__).parent
ASSETS = ("report.css", "report.js", "draw.js", "gallery.js", "eye.js")


def render(report: ReportData) -> dict[str, bytes | str]:
    """Every file of report/<explain_id>/ but those of `eye_files`, by its name relative to that
    folder; text as str (UTF-8).

    Same data, same bytes. Names of files come from image ids, reduced to safe characters.
    """
    folder = Folder()
    for name in ASSETS:
        folder.add(f"assets/{name}", (HERE / "assets" / name).read_text(encoding="utf-8"))
    gallery = report.parts.get("eyes", GallerySection())
    eyes = None if gallery.eyes is None or gallery.eyes.empty else ordered(gallery.eyes)
    if eyes is not None:
        for name, script in gallery_files(eyes).items():
            folder.add(name, script)
    count = 0 if eyes is None else len(eyes)
    views = {
        section.id: section.view(
            folder, report.parts[section.id] if section.id in report.parts else section.nothing()
        )
        for section in SECTIONS
    }
    pages = [("index.html", "Overview"), ("eyes.html", "All eyes")]
    pages += [(f"{one.page}.html", one.page_title) for one in SECTIONS if one.page_title]
    shared: dict[str, object] = {
        "report": report,
        "root": "",
        "pages": pages,
        "views": views,
        "sections": SECTIONS,
        "explained": count,
    }
    shared |= {
        "chunks": chunk_names(count),
        "has": set() if eyes is None else set(eyes.columns[eyes.notna().any()]),
    }
    templates = _templates()

    def page(name: str, template: str, **more: object) -> None:
        folder.add(
            name, templates.get_template(template).render(**(shared | {"here": name} | more))
        )

    page("index.html", "index.html.j2", lead=lead_view(folder, report.lead), tiles=glance(report))
    page("eyes.html", "gallery.html.j2")
    page("eye.html", "eye.html.j2")
    for name, title in pages[2:]:
        page(name, "sections.html.j2", title=title)
    for unit in views["linearity"].pages:
        page(unit.page, "unit.html.j2", unit=unit, root="../")
    return folder.files


def _templates():
    import jinja2

    made: Any = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # feColorMatrix: rows of five, the offset last; alpha stays.
    rows = np.hstack([figures.recolouring(), np.zeros((3, 2))]).round(6).tolist() + [
        [0, 0, 0, 1, 0]
    ]
    made.globals.update(
        recolouring="  ".join(" ".join(f"{value:g}" for value in row) for row in rows),
        drawing={
            "palettes": figures.PALETTES,
            "darkened": figures.DARKENED,
            "opacity": figures.OPACITY,
            "gamma": figures.GAMMA,
            "steps": STEPS,
        },
        stages=list(zip(range(len(STAGE_NAMES)), STAGE_NAMES, STAGE_COLOURS, strict=True)),
    )
    made.filters.update(number=number, quantity=quantity)
    return made
