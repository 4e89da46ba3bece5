"""The report stage: draws the eyes on the workers, then gathers, renders and writes the pages;
leaves alone what has not changed."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dr_lib.network.model import BACKBONES
from dr_lib.report import DRAWING_VERSION, Folder, Head, Section, render
from storage import Workspace
from storage.admin.catalog import refresh
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.stores import explanation_store, whole
from tasks.execution.waves import run_in_waves
from tasks.report.data import Shown
from tasks.report.eyes import Place, draw_shard, gallery_rows, shards_to_draw
from tasks.report.sections import SECTIONS
from tasks.run.recipe import Recipe
from tasks.run.run_log import versions
from tasks.run.session import Session, StepResult
from tasks.run.settings import DataParams

STEP = "report"


def report(
    session: Session, recipe: Recipe, data: DataParams, config: dict[str, Any]
) -> StepResult:
    """Writes report/<explain_id>/: the files of eyes that changed, the pages if anything did;
    refreshes the SQL catalogue."""
    workspace = session.workspace
    model_id, explain_id = recipe.model_id(workspace), recipe.explain_id(workspace)
    place = Place(workspace.location, explain_id, data.every_source)
    index = workspace.files.url(f"{place.folder}/index.html")
    if workspace.is_local:
        refresh(workspace)
    store = explanation_store(workspace, explain_id)
    eyes = explained_eyes(workspace, model_id, store.image_ids)
    eyes["present"] = (
        workspace.photos().set_index("image_id")["present"].reindex(store.image_ids).to_numpy()
    )
    jobs = shards_to_draw(workspace, place, store, eyes)
    drawn = sum(
        run_in_waves(session.pool, STEP, draw_shard, jobs, images_of=lambda job: job.span.images)
    )
    shown_from = _fingerprint(workspace, recipe, config)
    done = np.asarray(explained_rows(whole(store, "pixels/status"), eyes))
    if (workspace.files.read_json(f"{place.folder}/made-from.json") or {}).get(
        "digest"
    ) == shown_from:
        return StepResult(STEP, len(done), drawn, index)
    gallery = gallery_rows(
        workspace, explain_id, eyes, done, store.shard_images, recipe.attribution.quantities
    )
    pages = _pages(Shown(workspace, recipe, data, config, model_id, explain_id, eyes, gallery))
    for name, content in pages.items():
        page = content.encode() if isinstance(content, str) else content
        workspace.files.write(f"{place.folder}/{name}", page, flush=False)
    workspace.files.flush(f"{place.folder}/{name}" for name in pages)
    for name in _pages_written(workspace, place.folder) - {
        f"{place.folder}/{page}" for page in pages
    }:
        workspace.files.remove(name)
    workspace.files.write_json(f"{place.folder}/made-from.json", {"digest": shown_from})
    return StepResult(STEP, len(done), drawn, index)


def _pages(shown: Shown) -> dict[str, bytes | str]:
    """Every file of the report but those of its eyes, by name."""
    folder = Folder()
    sections = [
        Section(name, title, content(shown, folder)) for name, (title, content) in SECTIONS.items()
    ]
    head = Head(
        workspace=shown.workspace.location,
        run_id=shown.run_id,
        model_id=shown.model_id,
        explain_id=shown.explain_id,
        model_name=BACKBONES[shown.recipe.model.backbone].title,
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return render(head, sections, folder, shown.gallery, shown.lead)


def _pages_written(workspace: Workspace, folder: str) -> set[str]:
    """Every file of the report but the eyes' own, of which there may be a hundred thousand."""
    files = {f"{folder}/{name}" for name in workspace.files.names(folder) if "." in name}
    for place in workspace.files.names(folder):
        if place != "eyes" and "." not in place:
            files |= set(workspace.files.walk(f"{folder}/{place}"))
    return files


def _fingerprint(workspace: Workspace, recipe: Recipe, config: dict[str, Any]) -> str:
    """Changes when anything shown may have: the tables' parts, the ledgers, the catalogue, the
    settings, the way of drawing.
    """
    files = workspace.files
    explain_id = recipe.explain_id(workspace)
    names = [
        name
        for place in ("catalog", "tables", f"explanations/{explain_id}")
        for name in files.walk(place)
        if name.endswith((".parquet", ".json"))
    ]
    states = [
        (name, files.size(name), files.modified(name))
        for name in names
        if "/tables/runs/" not in f"/{name}"
    ]
    shown_from = [DRAWING_VERSION, explain_id, states, config, versions()]
    return hashlib.sha256(json.dumps(shown_from, sort_keys=True, default=str).encode()).hexdigest()
