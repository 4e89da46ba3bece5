"""The run: its steps and their pace, what failed, the ids that name its numbers, versions and
settings."""

from typing import Any

import pandas as pd

from dr_lib.formatting import duration
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Share
from tasks.report.data import ReportData
from tasks.run.run_log import versions


def content(data: ReportData, folder: Folder) -> Content:
    """How long each step took when it last had work, and how far the run has come."""
    settings = pd.json_normalize(data.config).to_dict("records")[0]
    ids = {
        "Run": data.run_id,
        "Model": data.ids.model_id,
        "Preprocessing": data.ids.preprocess_id,
        "Explanations": data.ids.explain_id,
        "Workspace": data.workspace.location,
    }
    return Content(
        {
            "steps": data.last_work,
            "times": _times(data.last_work),
            "how_far": _how_far(data),
            "failures": _failures(data),
            "ids": {name: value for name, value in ids.items() if value},
            "versions": dict(sorted(versions().items())),
            "settings": "\n".join(f"{name} = {value!r}" for name, value in settings.items()),
        }
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


def _how_far(data: ReportData) -> list[dict[str, Any]]:
    """How much there is of each kind, and how much there will be."""
    here = int(data.workspace.photos()["present"].sum())
    fundi = data.explained.fundi
    finished = sum(len(entry.image_ids) for entry in fundi.records())
    graded = data.workspace.count("predictions", model_id=data.ids.model_id)
    counts = {
        "photographs": (here, here + len(data.workspace.rejects())),
        "preprocessed": (finished, fundi.images),
        "graded eyes": (graded, here),
        "explained eyes": (len(data.gallery), len(data.eyes)),
    }
    return [{"what": what, "done": done, "of": total} for what, (done, total) in counts.items()]


def _failures(data: ReportData) -> list[dict[str, Any]]:
    """Steps whose last run failed, and eyes that could not be explained, each with its reason."""
    last = data.runs.drop_duplicates("stage", keep="last")
    reasons = {f"dr {row.stage}": row.message for row in last.itertuples() if row.state == "failed"}
    for entry in data.explained.store.records():
        reasons |= entry.record.failed
    return [{"what": what, "reason": reason} for what, reason in reasons.items()]
