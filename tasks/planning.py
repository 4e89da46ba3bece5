"""What a run would do now, for `dr plan`: counts from the catalogue, time from the rates of earlier runs. Writes nothing."""

from typing import Any

from storage import Workspace, open_workspace
from storage.arrays import spans
from storage.source import PhotoSource
from tasks.attribute import chosen_images
from tasks.errors import UserError
from tasks.progress import duration
from tasks.recipe import Recipe
from tasks.settings import StorageParams
from tasks.stores import explanation_store, fundus_store, whole


def plan_rows(location: str, photos: str, recipe: Recipe, storage: StorageParams) -> list[dict[str, Any]]:
    """A row a stage: images in all, images still to do, shards, uncompressed bytes to write, expected time."""
    workspace = open_workspace(location)
    catalogue = workspace.photos()
    found = len(PhotoSource(photos).photographs())
    new_photos = max(found - int(catalogue["present"].sum()), 0)
    rows = [_row(workspace, "ingest", found, new_photos, 0, 0, storage)]
    done = _finished(workspace, recipe)
    fundus_bytes = 3 * recipe.preprocess.size**2
    rows.append(_row(workspace, "preprocess", found, max(found - done, 0), found, fundus_bytes, storage))
    model = recipe.find_model(workspace)
    rows.append(
        {**_row(workspace, "train", found, 0 if model else found, 0, 0, storage), "time": _training_time(workspace, recipe)}
    )
    if catalogue.empty:
        unknown = _row(workspace, "attribute", 0, 0, 0, 0, storage)
        return [*rows, {**unknown, "time": "unknown before dr ingest"}]
    chosen = len(chosen_images(catalogue[catalogue["present"]], recipe.attribution))
    explained = _explained(workspace, recipe) if model else 0
    map_bytes = 4 * recipe.preprocess.size**2 * (len(recipe.attribution.quantities) + 2 * len(recipe.attribution.layers))
    rows.append(_row(workspace, "attribute", chosen, max(chosen - explained, 0), chosen, map_bytes, storage))
    return rows


def _row(
    workspace: Workspace, stage: str, images: int, to_do: int, sharded: int, bytes_each: int, storage: StorageParams
) -> dict[str, Any]:
    rate = seconds_per_image(workspace, stage)
    time = "nothing to do" if not to_do else duration(rate * to_do) if rate else "unknown before a first run"
    shards = len(spans(sharded, storage.shard_images)) if sharded else ""
    return {
        "stage": stage,
        "images": images,
        "to do": to_do,
        "shards": shards,
        "MB before compression": round(to_do * bytes_each / 1e6),
        "time": time,
    }


def _training_time(workspace: Workspace, recipe: Recipe) -> str:
    """From the pace of the newest model of the same trunk."""
    if recipe.find_model(workspace):
        return "nothing to do"
    pace = [
        record["step_seconds"] for record in workspace.models() if record["architecture"]["backbone"] == recipe.model.backbone
    ]
    return duration(pace[-1] * recipe.training.steps) if pace and pace[-1] else "unknown before a first run"


def seconds_per_image(workspace: Workspace, stage: str) -> float | None:
    """From the last run of the stage that had work, or None."""
    runs = workspace.frame("runs", stage=stage, state="completed")
    runs = runs[runs["new_images"] > 0].sort_values("started")
    return float(runs.iloc[-1]["seconds"] / runs.iloc[-1]["new_images"]) if len(runs) else None


def _finished(workspace: Workspace, recipe: Recipe) -> int:
    try:
        return int((whole(fundus_store(workspace, recipe.preprocess_id), "status") > 0).sum())
    except FileNotFoundError:
        return 0


def _explained(workspace: Workspace, recipe: Recipe) -> int:
    try:
        store = explanation_store(workspace, recipe.explain_id(workspace))
        return int((whole(store, "pixels/status") > 0).sum())
    except (FileNotFoundError, UserError):
        return 0
