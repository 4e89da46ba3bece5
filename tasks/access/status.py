"""What a workspace holds and how far it is, as rows for people: `dr status`. Reads ledgers and
tables, no arrays.
"""

from collections.abc import Callable, Iterator
from typing import Any

from dr_lib.formatting import duration, size_text
from storage import Workspace
from storage.admin.learned_labels import RETRAIN, label_changes
from storage.arrays.store import ShardedStore
from storage.contents.explanations import RunRecord, load_runs
from storage.layout import CATALOGUE_TABLES, attributions_path, fundus_path
from storage.tables.parts import all_parts
from storage.tables.schemas import SCHEMAS

LAST_RUNS = 3  # of an explanation, planned against actual


def describe(ws: Workspace) -> list[dict]:
    """One row for each thing in the workspace: what, id, images, done, of, detail."""
    return [
        *_photographs(ws),
        *(row for at in ws.preprocess_ids() for row in _stored(ws, "fundus", at, fundus_path(at))),
        *_models(ws),
        *_explanations(ws),
        *_tables(ws),
        *_last_runs(ws),
    ]


def _row(what: str, name: str = "", images: Any = "", done="", of="", detail: str = "") -> dict:
    return {"what": what, "id": name, "images": images, "done": done, "of": of, "detail": detail}


def _photographs(ws: Workspace) -> Iterator[dict]:
    photos, rejects = ws.photos(), ws.rejects()
    present = photos[photos["present"]]
    yield _row("photographs", images=len(present), detail=_counts(present["split"].value_counts()))
    if gone := len(photos) - len(present):
        detail = "photographs that were in the data folder once"
        yield _row("no longer there", images=gone, detail=detail)
    stages = present["stage"].value_counts().sort_index()
    if len(stages):
        yield _row("stages", images=int(stages.sum()), detail=_counts(stages))
    for (step, reason), count in rejects.groupby(["step", "reason"]).size().items():
        yield _row("rejects", reason, int(count), detail=f"at {step}")


def _stored(ws: Workspace, what: str, name: str, path: str) -> Iterator[dict]:
    """How much of a store its ledger says is done and what that took, then the images that have
    no result; nothing of a store that is not there.
    """
    store = ShardedStore.open(ws.files, path) if ShardedStore.exists(ws.files, path) else None
    spans = store.spans() if store else []
    done = [entry for entry in store.records() if entry.shard < len(spans)] if store else []
    whole = sum(spans[entry.shard].stop == entry.stop for entry in done)
    detail = f"{whole} of {len(spans)} shards, {size_text(sum(entry.bytes for entry in done))}"
    if seconds := sum(entry.record.seconds or 0.0 for entry in done):
        detail += f", {duration(seconds)} of work"
    images = store.images if store else 0
    yield _row(what, name, images, sum(entry.span.images for entry in done), images, detail)
    for entry in done:
        for image_id, reason in entry.record.failed.items():
            yield _row("set aside", image_id, detail=reason)


def _models(ws: Workspace) -> Iterator[dict]:
    """Every model, with today's label changes and, for the newest of its settings, what to do."""
    records = ws.models()
    newest = {record.training_id: record.model_id for record in records}
    for record in records:
        detail = f"made {_minute(record.created)}, {size_text(record.weights_bytes)} of weights"
        if changes := label_changes(ws, record.model_id):
            detail += f"; {changes}"
            if newest[record.training_id] == record.model_id:
                detail += f": {RETRAIN}"
        yield _row("model", record.model_id, detail=detail)


def _explanations(ws: Workspace) -> Iterator[dict]:
    for record in ws.explanations():
        path = attributions_path(record.explain_id)
        yield from _stored(ws, "explanation", record.explain_id, path)
        for run in load_runs(ws.files, record.explain_id)[-LAST_RUNS:]:
            yield _row("planned", record.explain_id, run.planned.images, detail=_planned(run))


def _tables(ws: Workspace) -> Iterator[dict]:
    for table in SCHEMAS:
        count = 0 if table in CATALOGUE_TABLES else len(list(all_parts(ws.files, table)))
        if count:
            detail = f"{ws.count(table):,} rows in {count:,} parts"
            yield _row("table", table, done=count, detail=detail)


def _last_runs(ws: Workspace) -> Iterator[dict]:
    runs = ws.frame("runs").sort_values("started").drop_duplicates("stage", keep="last")
    for run in runs.itertuples():
        detail = f"{run.state} {run.started:%Y-%m-%d %H:%M}, {duration(run.seconds)}"
        detail += f": {run.message}" if isinstance(run.message, str) else ""
        yield _row("last run", run.stage, run.images, detail=detail)


COSTS: dict[str, Callable[[Any], str]] = {
    "seconds": duration,
    "bytes": size_text,
    "memory": lambda size: f"{size_text(size)} of memory",
    "passes": "{:,} passes".format,
}


def _planned(run: RunRecord) -> str:
    """What a run of `dr attribute` was planned to take against what it took, if it came to its
    end.
    """
    sides = [run.planned, run.actual] if run.actual else [run.planned]
    parts = []
    for name, text in COSTS.items():
        values = [getattr(side, name) for side in sides]
        if any(value is not None for value in values):
            parts.append(
                " against ".join("unknown" if value is None else text(value) for value in values)
            )
    return f"{run.state} {_minute(run.started)}: planned {', '.join(parts)}, by {run.planned.basis}"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _counts(values) -> str:
    return ", ".join(f"{key} {count:,}" for key, count in values.items())
