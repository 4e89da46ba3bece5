"""What `model.json` says of a model beside its weights' hash: how it came to be, and how well it
grades.
"""

import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dr_lib.network.model import ModelParams
from dr_lib.training import History, TrainingParams
from storage import Workspace
from storage.contents.models import ModelRecord, update_record
from tasks.access.model_quality import MAIN
from tasks.run.recipe import Recipe, settings_of, weights_identity
from tasks.run.run_log import versions


@dataclass(frozen=True)
class LearnedFrom:
    """Digests of what a model was trained on: the photographs and their splits, the labels."""

    manifest: str
    labels: str


def imported_record(recipe: Recipe, config: dict[str, Any], file: str) -> ModelRecord:
    """The record of a model that was trained elsewhere; config: the whole configuration."""
    return _record(recipe, "imported", config, {"file": file}, imported_for=[recipe.training_id])


def trained_record(
    recipe: Recipe,
    config: dict[str, Any],
    data: LearnedFrom,
    eyes: Mapping[str, int],
    history: History,
) -> ModelRecord:
    """The record of a model trained here; config: the whole configuration; eyes: by split."""
    notes = {
        "backbone_weights_identity": weights_identity(recipe.model),
        "seed": {"model": recipe.model.seed, "training": recipe.training.seed},
        "training": settings_of(TrainingParams, recipe.training),
        "eyes": eyes,
        "chosen_step": history.chosen_step,
        "best_validation_qwk": history.best_qwk,
        "input_wait_share": history.wait_share,
    }
    return _record(
        recipe,
        "trained",
        config,
        notes,
        training_id=recipe.training_id,
        manifest=data.manifest,
        labels=data.labels,
        least_quality=recipe.least_quality,
        step_seconds=history.step_s,
    )


def _record(
    recipe: Recipe, origin: str, config: dict[str, Any], notes: dict[str, Any], **own: Any
) -> ModelRecord:
    return ModelRecord(
        preprocess_id=recipe.preprocess_id,
        architecture=settings_of(ModelParams, recipe.model),
        **own,
        notes={
            "origin": origin,
            "preprocess": recipe.preprocess_settings,
            "versions": {
                **versions(),
                "dr-explain": importlib.metadata.version("dr-explain"),
                "python": platform.python_version(),
            },
            "git_commit": git_commit(),
            "configuration": config,
            **notes,
        },
    )


def git_commit() -> str | None:
    """The commit of this code, with -dirty where files were changed since; None for code that is
    in no repository.
    """
    this_file = pathlib.Path(__file__)
    commands = (
        # Fails for an installed copy inside the repository of something else.
        ["git", "ls-files", "--error-unmatch", this_file.name],
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    )
    try:
        for command in commands:
            done = subprocess.run(
                command,
                cwd=this_file.parent,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=5,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def record_metrics(workspace: Workspace, model_id: str) -> None:
    """Copies the main numbers of the table `evaluation` into the model's record: by split and
    metric, with their intervals.
    """
    rows = workspace.frame("evaluation", model_id=model_id)
    rows = rows[(rows["stratum"] == "all") & rows["metric"].isin(MAIN)]
    metrics = {}
    for split, measured in rows.sort_values(["split", "metric"]).groupby("split"):
        intervals = measured.set_index("metric")[["value", "low", "high"]].astype(float)
        metrics[split] = {"images": int(measured["images"].iloc[0])} | intervals.to_dict("index")
    update_record(workspace.files, model_id, metrics=metrics)
