"""The report stage: gathers, renders, writes; and leaves everything alone when nothing it shows has changed."""

import hashlib
import json
from typing import Any

from dr_lib.report import render
from storage import Workspace
from storage.catalog import refresh
from tasks.recipe import Recipe
from tasks.report_data import gather
from tasks.runs import versions
from tasks.session import Session, StageResult
from tasks.settings import DataParams

STEP = "report"


def report(session: Session, recipe: Recipe, data: DataParams, config: dict[str, Any]) -> StageResult:
    """Writes report/<explain_id>/ unless nothing it shows has changed, and refreshes the SQL catalogue."""
    workspace = session.workspace
    explain_id = recipe.explain_id(workspace)
    folder = f"report/{explain_id}"
    index = workspace.files.url(f"{folder}/index.html")
    if workspace.is_local:
        refresh(workspace)
    shown_from = _fingerprint(workspace, recipe, config)
    if (workspace.files.read_json(f"{folder}/made-from.json") or {}).get("digest") == shown_from:
        shown = sum(name.startswith(f"{folder}/eyes/") for name in workspace.files.walk(folder))
        return StageResult(STEP, shown, 0, index)
    gathered = gather(workspace, recipe, data, config)
    pages = render(gathered)
    for name, content in pages.items():
        workspace.files.write(f"{folder}/{name}", content.encode() if isinstance(content, str) else content)
    for name in set(workspace.files.walk(folder)) - {f"{folder}/{page}" for page in pages}:
        workspace.files.remove(name)  # pages of eyes that are no longer shown
    workspace.files.write_json(f"{folder}/made-from.json", {"digest": shown_from})
    return StageResult(STEP, len(gathered.eyes), len(gathered.eyes), index)


def _fingerprint(workspace: Workspace, recipe: Recipe, config: dict[str, Any]) -> str:
    """Changes when anything shown may have: the tables' parts, the ledgers, the catalogue, the settings."""
    files = workspace.files
    explain_id = recipe.explain_id(workspace)
    names = [
        name
        for place in ("catalog", "tables", f"explanations/{explain_id}")
        for name in files.walk(place)
        if name.endswith((".parquet", ".json"))
    ]
    states = [(name, files.size(name), files.modified(name)) for name in names if "/tables/runs/" not in f"/{name}"]
    return hashlib.sha256(json.dumps([explain_id, states, config, versions()], sort_keys=True, default=str).encode()).hexdigest()
