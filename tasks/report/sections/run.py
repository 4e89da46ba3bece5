"""The run: its steps and their pace, what failed, the ids that name its numbers, versions and
settings."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dr_lib.report import Folder
from dr_lib.report.section import Code, Content, Facts, Heading, Missing, Share, table
from storage.arrays.store import ShardedStore
from tasks.access.stores import explanation_store, fundus_store
from tasks.report.data import Shown
from tasks.run.progress import duration
from tasks.run.run_log import versions


def content(shown: Shown, folder: Folder) -> Content:
    """How long each step took when it last had work, and how far the run has come."""
    last = shown.last_work
    failures = _failures(shown)
    failed = f"{len(failures):,} did not work" if failures else "nothing failed"
    took = (
        f"{len(last)} steps took {duration(last['seconds'].sum())}"
        if len(last)
        else "No step is timed yet"
    )
    ids = {
        "Run": shown.run_id,
        "Model": shown.model_id,
        "Preprocessing": shown.recipe.preprocess_id,
    }
    ids |= {"Explanations": shown.explain_id, "Workspace": shown.workspace.location}
    return Content(
        f"{took}; {failed}.",
        (
            (
                table(_times(last), "Steps, how long each took, and its pace"),
                table(_how_far(shown), "How far"),
                Heading("What did not work") if failures else None,
                table(failures, "What did not work, and why"),
                Facts([(name, value) for name, value in ids.items() if value]),
                Facts(sorted(versions().items()), folded="Versions"),
                (
                    Code("\n".join(_settings(shown.config)), "Configuration", folded=True)
                    if shown.config
                    else None
                ),
            )
            if len(last)
            else (
                Missing(
                    "No step has been timed yet. The whole pipeline runs with", "dr run CONFIG.toml"
                ),
                table(failures),
            )
        ),
    )


def _times(last: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "step": row.stage,
            "time": Share(duration(row.seconds), 100 * row.seconds / last["seconds"].max()),
            "images": int(row.new_images),
            "images_a_minute": row.new_images * 60 / row.seconds,
        }
        for row in last.itertuples()
    ]


def _how_far(shown: Shown) -> list[dict[str, Any]]:
    """What there is of each kind, of how many."""
    workspace = shown.workspace
    here = int(workspace.photos()["present"].sum())
    fundi, explained = (
        fundus_store(workspace, shown.recipe.preprocess_id),
        explanation_store(workspace, shown.explain_id),
    )
    graded = workspace.count("predictions", model_id=shown.model_id)
    return [
        {"what": "photographs", "there": here, "of": here + len(workspace.rejects())},
        {"what": "fundi", "there": _finished(fundi), "of": fundi.images},
        {"what": "graded eyes", "there": graded, "of": here},
        {"what": "explained eyes", "there": len(shown.gallery), "of": explained.images},
    ]


def _finished(store: ShardedStore) -> int:
    return sum(len(entry.image_ids) for entry in store.records())


def _failures(shown: Shown) -> list[dict[str, Any]]:
    """Steps whose last run failed, and eyes that could not be explained, each with its reason."""
    last = shown.runs.drop_duplicates("stage", keep="last")
    rows = [
        {"what": f"dr {row.stage}", "reason": row.message}
        for row in last.itertuples()
        if row.state == "failed"
    ]
    for entry in explanation_store(shown.workspace, shown.explain_id).records():
        rows += [{"what": name, "reason": reason} for name, reason in entry.record.failed.items()]
    return rows


def _settings(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name, value in config.items():
        lines += (
            _settings(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else [f"{prefix}{name} = {value!r}"]
        )
    return lines
