"""What `model.json` says of a model beside its weights' hash: how it came to be, and how well it
grades.
"""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

from dr_lib.network.model import ModelParams
from storage import Workspace
from storage.contents.models import ModelRecord, update_record
from tasks.access.model_quality import MAIN
from tasks.run.recipe import Recipe, settings_of
from tasks.run.run_log import versions


def model_record(
    recipe: Recipe, origin: str, config: dict[str, Any], notes: dict[str, Any], **own: Any
) -> ModelRecord:
    """The record of a model.

    Parameters
    ----------
    origin: trained or imported. config: the whole configuration. notes, own: what only models of
        this origin have, in the record's notes and as its fields.
    """
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
