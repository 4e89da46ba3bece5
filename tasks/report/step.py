"""The step `report`: draws the eyes on the workers, then gathers, renders and writes the pages;
leaves alone what has not changed."""

from datetime import UTC, datetime
from typing import Any

from dr_lib.network.model import BACKBONES
from dr_lib.report import Head, render
from dr_lib.report.eyes import DRAWING_VERSION
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Section
from dr_lib.report.units import FOLDER
from storage import Workspace
from storage.admin.catalog import refresh
from storage.ids import content_id
from storage.layout import CATALOG, TABLES, explanation_path, report_path, table_folder
from storage.photos.sources import PhotoSources
from tasks.access.contact_sheets import Photos
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.stores import explanation_store, whole
from tasks.execution.waves import run_in_waves
from tasks.report.compare import compare_with_previous
from tasks.report.data import ReportData
from tasks.report.eyes import draw_shard, shards_to_draw
from tasks.report.sections import SECTIONS
from tasks.report.units import Atlas, cut_out
from tasks.run.recipe import Recipe
from tasks.run.run_log import versions
from tasks.run.session import Session, StepResult
from tasks.run.settings import DataParams

STEP = "report"


def report(
    session: Session, recipe: Recipe, data: DataParams, config: dict[str, Any]
) -> StepResult:
    """Writes report/<explain_id>/: the files of eyes that changed, the pages if anything did;
    compares the model with the one before it, and refreshes the SQL catalogue.

    Parameters
    ----------
    session: the run's workspace and workers.
    recipe: the settings whose explanation is shown.
    data: where the photographs lie.
    config: the whole configuration by section, shown as it is.

    Returns
    -------
    How many eyes are in the report, how many were drawn anew, and the address of index.html.
    """
    workspace, files, ids = (
        session.workspace,
        session.workspace.files,
        recipe.resolve(session.workspace),
    )
    folder = report_path(ids.explain_id)
    index = files.url(f"{folder}/index.html")
    store = explanation_store(workspace, ids.explain_id)
    eyes = explained_eyes(workspace, ids.model_id, store.image_ids)
    present = workspace.photos().set_index("image_id")["present"]
    eyes["present"] = present.reindex(store.image_ids).to_numpy()
    jobs = shards_to_draw(workspace, ids, data.every_source, store, eyes)
    drawn = sum(
        run_in_waves(session.pool, STEP, draw_shard, jobs, images_of=lambda job: job.span.images)
    )
    atlas = Atlas(ids, data.every_source)
    run_in_waves(
        session.pool,
        "units",
        cut_out,
        atlas.jobs(),
        images_of=lambda job: job.examples["image_id"].nunique(),
        collect=atlas.collect,
    )
    atlas.write()
    compare_with_previous(workspace, ids, session.pool)
    if workspace.is_local:
        refresh(workspace)
    explained = len(explained_rows(whole(store, "pixels/status"), eyes))
    result = StepResult(STEP, explained, drawn, index)
    digest = _fingerprint(workspace, ids.explain_id, config)
    if (files.read_json(f"{folder}/made-from.json") or {}).get("digest") == digest:
        return result
    photos = Photos(workspace, PhotoSources(data.every_source))
    content = _pages(ReportData(workspace, recipe, config, ids, photos, eyes))
    pages = {f"{folder}/{name}": text for name, text in content.items()}
    for name, text in pages.items():
        files.write(name, text.encode() if isinstance(text, str) else text, flush=False)
    files.flush(pages)
    for name in _pages_written(workspace, folder) - pages.keys():
        files.remove(name)
    files.write_json(f"{folder}/made-from.json", {"digest": digest})
    return result


def _pages(data: ReportData) -> dict[str, bytes | str]:
    """Every file of the report but those of its eyes, by name."""
    folder = Folder()
    sections = [
        Section(name, title, content(data, folder)) for name, (title, content) in SECTIONS.items()
    ]
    head = Head(
        workspace=data.workspace.location,
        run_id=data.run_id,
        model_id=data.ids.model_id,
        explain_id=data.ids.explain_id,
        model_name=BACKBONES[data.recipe.model.backbone].title,
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return render(head, sections, folder, data.gallery, data.lead)


def _pages_written(workspace: Workspace, folder: str) -> set[str]:
    """Every file of the report but the eyes' and the units' own, of which there may be a hundred
    thousand."""
    names = [name for name in workspace.files.names(folder) if name not in ("eyes", FOLDER)]
    places = [f"{folder}/{name}" for name in names]
    below = (workspace.files.walk(place) for place in places if "." not in place)
    return {place for place in places if "." in place}.union(*below)


def _fingerprint(workspace: Workspace, explain_id: str, config: dict[str, Any]) -> str:
    """Changes when anything shown may have: the tables' parts, the ledgers, the catalogue, the
    settings, the way of drawing.
    """
    files = workspace.files
    states = [
        (name, files.size(name), files.modified(name))
        for place in (CATALOG, TABLES, explanation_path(explain_id))
        for name in files.walk(place)
        if name.endswith((".parquet", ".json")) and not name.startswith(table_folder("runs") + "/")
    ]
    shown_from = [DRAWING_VERSION, explain_id, states, config, versions()]
    return content_id(shown_from)
