"""What a run leaves on Prefect's page to look at: contact sheets, plots and tables.

A picture travels inside a markdown artifact, as a data URI. Prefect's image artifact would show it
too, but prints its whole address under it, which here is the picture itself. Pictures are kept in
Prefect's database, so they are small, and a step leaves them only when it had work to do. What
the steps themselves leave is left nowhere outside a run.
"""

import base64
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from dr_lib.drawing.sheets import before_after_sheet, set_aside_sheet, small_jpeg
from dr_lib.formatting import duration, label, number, with_interval
from storage import Workspace
from storage.photos.sources import PhotoSources
from tasks.access.contact_sheets import Photos, flagged, flagged_text, samples, set_aside
from tasks.access.model_quality import graded_rows, model_plots
from tasks.run.progress import inside_run
from tasks.run.recipe import Recipe
from tasks.run.session import StepResult
from tasks.run.settings import DataParams

SHEET_BYTES = 200_000
REJECTS_SHOWN = 500
# Set by `dr serve` for the runs it starts: the folder whose pages it serves, and the address of
# that folder.
SERVED_REPORT = "DR_SERVED_REPORT"
REPORT_ADDRESS = "DR_REPORT_ADDRESS"


def show_picture(
    key: str, data: bytes, kind: Literal["jpeg", "png"], title: str, text: str = ""
) -> None:
    """A picture with its words. key: lower-case letters, digits and dashes; Prefect keeps the
    history of a key together.
    """
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    create_markdown_artifact(f"{text}\n\n![{title}]({uri})".strip(), key=key, description=title)


def show_result(workspace: Workspace, result: StepResult) -> None:
    """What a step did, in words, and where its results are."""
    text = (
        f"**{result.step}**: {result.message}\n\n{result.images:,} images, {result.new_images:,} of"
        f" them new, in {duration(result.seconds)}; workspace `{workspace.location}`"
    )
    create_markdown_artifact(
        text, key=f"{result.step}-result", description=f"{result.step}: {result.message}"
    )


def show_summary(results: Sequence[StepResult]) -> None:
    """A table of all steps of a run: what each did and how long it took."""
    rows = [result.row for result in results]
    create_table_artifact(rows, key="pipeline-summary", description="What each step did")


def show_report(workspace: Workspace, index: str) -> None:
    """A link to the report. `dr serve` serves the report of its workspace to browsers; elsewhere
    the link is the file's.

    index: the report's page in the workspace, a path or a URL.
    """
    link, served = index, os.environ.get(SERVED_REPORT, "")
    if workspace.is_local:
        page = Path(os.path.abspath(index))
        link = page.as_uri()
        if served and page.is_relative_to(served):
            link = f"{os.environ[REPORT_ADDRESS]}/{page.relative_to(served).as_posix()}"
    create_link_artifact(
        link, link_text="Open the report", key="report-link", description=f"The report: {index}"
    )


def show_comparison(rows: pd.DataFrame, page: str) -> None:
    """A table of how two models or explanations differ."""
    if inside_run():
        create_table_artifact(
            rows.map(number).to_dict("records"),
            key="model-differences",
            description=f"Compared with the model before; more: {page}",
        )


def show_rejects(workspace: Workspace, step: str) -> None:
    """A table of what the step set aside and why; nothing where it set nothing aside."""
    rejects = workspace.rejects()
    rejects = rejects[rejects["step"] == step]
    if not inside_run() or rejects.empty:
        return
    counted = ", ".join(
        f"{count:,} {label(reason).lower()}"
        for reason, count in Counter(rejects["reason"]).most_common()
    )
    shown = rejects[["reason", "image_id", "path", "detail"]].fillna("")[:REJECTS_SHOWN]
    more = f"; the first {REJECTS_SHOWN} here, all in catalog/rejects.parquet"
    create_table_artifact(
        shown.to_dict("records"),
        key=f"{step}-rejects",
        description=f"{len(rejects):,} set aside: {counted}"
        + more * (len(rejects) > REJECTS_SHOWN),
    )


def show_photographs(workspace: Workspace, recipe: Recipe, data: DataParams) -> None:
    """Contact sheets: some photographs before and after preprocessing, the flagged ones, and
    those set aside.
    """
    if not inside_run():
        return
    photos = Photos(workspace, PhotoSources(data.every_source))
    chosen = samples(workspace, recipe, photos)
    if chosen:
        _show_sheet("samples", before_after_sheet(chosen), "Before and after preprocessing")
    worst = flagged(workspace, recipe, photos)
    if worst:
        text = flagged_text(workspace, recipe)
        _show_sheet("flagged", before_after_sheet(worst), "Flagged, the worst first", text)
    aside = set_aside(workspace, photos)
    if aside:
        _show_sheet("set-aside", set_aside_sheet(aside), "Set aside, with the reason")


def _show_sheet(name: str, sheet: Any, title: str, text: str = "") -> None:
    show_picture(f"preprocess-{name}", small_jpeg(sheet, SHEET_BYTES), "jpeg", title, text)


def show_model(workspace: Workspace, model_id: str) -> None:
    """The model's plots, and a table of its measures on the test split with their 95 %
    intervals.
    """
    if not inside_run():
        return
    for drawn in model_plots(workspace, model_id):
        show_picture(
            f"train-{drawn.name}",
            drawn.plot.png,
            "png",
            drawn.caption,
            f"Model `{model_id}`. {drawn.note}",
        )
    rows: list[dict[str, Any]] = [
        {
            "measure": label(row["metric"]),
            "value (95 % interval)": with_interval(row["value"], row["low"], row["high"]),
        }
        for row in graded_rows(workspace, model_id)
    ]
    if rows:
        create_table_artifact(
            rows, key="train-evaluation", description=f"Model {model_id} on the test split"
        )
