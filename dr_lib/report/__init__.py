"""The report: `render(ReportData)` gives every file of a static folder that opens from disk or any web server.

index.html shows the run; eyes/<image>.html one explained eye each; figures/ holds every drawing as PNG (plots as SVG and
PNG), assets/ one stylesheet and one script. Nothing is fetched from the network, and without the script everything is still
there to read. This package must not know where the folder lies: the caller writes the files.
"""

import pathlib

import numpy as np

from dr_lib.figures import recolouring
from dr_lib.plots import STAGE_COLOURS, STAGE_NAMES
from dr_lib.report import sections
from dr_lib.report.data import (
    BeforeAfter,
    Citation,
    CounterfactualSection,
    DataSection,
    EyeEntry,
    GroupMap,
    HintonEntry,
    LinearitySection,
    Localisation,
    ModelSection,
    NeuronEntry,
    ReportData,
    RunSummary,
    SetAside,
    StageTime,
    Triptych,
)
from dr_lib.report.eyes import eye_view
from dr_lib.report.model import model_plots, model_view
from dr_lib.report.photographs import before_after_sheet, data_view, set_aside_sheet
from dr_lib.report.pictures import Folder, table
from dr_lib.report.words import label, number, quantity, records, slugs, with_interval

__all__ = [
    "BeforeAfter",
    "Citation",
    "CounterfactualSection",
    "DataSection",
    "EyeEntry",
    "GroupMap",
    "HintonEntry",
    "LinearitySection",
    "Localisation",
    "ModelSection",
    "NeuronEntry",
    "ReportData",
    "RunSummary",
    "SetAside",
    "StageTime",
    "Triptych",
    "before_after_sheet",
    "label",
    "model_plots",
    "render",
    "set_aside_sheet",
    "with_interval",
]

HERE = pathlib.Path(__file__).parent


def render(report: ReportData) -> dict[str, bytes | str]:
    """Every file of report/<explain_id>/ by its name relative to that folder; text as str (write it as UTF-8).

    Same data, same bytes. Names of files come from image ids, reduced to safe characters.
    """
    folder = Folder()
    for name in ("report.css", "report.js"):
        folder.add(f"assets/{name}", (HERE / "assets" / name).read_text(encoding="utf-8"))
    eyes = [eye_view(folder, eye, slug) for eye, slug in zip(report.eyes, slugs(e.image_id for e in report.eyes), strict=True)]
    templates = _templates()
    index = templates.get_template("index.html.j2").render(
        report=report,
        root="",
        eyes=eyes,
        explained=report.eyes_explained or len(eyes),
        lead=sections.lead(report, eyes),
        tiles=sections.glance(report),
        run=sections.run_view(report),
        data=data_view(folder, report),
        model=model_view(folder, report.model),
        groups=sections.groups_view(folder, report),
        heatmap_stats=table(records(report.heatmap_stats), limit=60),
        localisation=sections.localisation_view(folder, report),
        counterfactuals=sections.counterfactual_view(folder, report),
        linearity=sections.linearity_view(folder, report),
        tables=table(records(report.citation.tables)),
    )
    folder.add("index.html", index)
    page = templates.get_template("eye.html.j2")
    for at, eye in enumerate(eyes):
        before, after = eyes[at - 1] if at else None, eyes[at + 1] if at + 1 < len(eyes) else None
        folder.add(eye.page, page.render(report=report, root="../", eye=eye, before=before, after=after))
    return folder.files


def _templates():
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # feColorMatrix: rows of five, the offset last; alpha stays.
    rows = np.hstack([recolouring(), np.zeros((3, 2))]).round(6).tolist() + [[0, 0, 0, 1, 0]]
    made.globals.update(
        recolouring="  ".join(" ".join(f"{value:g}" for value in row) for row in rows),
        stages=list(zip(range(len(STAGE_NAMES)), STAGE_NAMES, STAGE_COLOURS, strict=True)),
    )
    made.filters.update(number=number, quantity=quantity)
    return made
