"""What a workspace holds and how far it is: plain numbers for `dr status`. Reads ledgers and
tables, no arrays.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from storage.admin.learned_labels import RETRAIN, label_changes
from storage.arrays.store import ShardedStore
from storage.contents.explanations import attributions_path, load_runs
from storage.contents.fundus import fundus_ids, fundus_path
from storage.errors import NotThere
from storage.tables.parts import partitions, parts
from storage.tables.schemas import CATALOGUE, PARTITION, SCHEMAS

if TYPE_CHECKING:
    from storage.workspace import Workspace


LAST_RUNS = 3  # of an explanation, planned against actual


def describe(ws: "Workspace") -> list[dict]:
    """One row for each thing in the workspace: what, id, images, done, of, detail. `overview`
    has the same as numbers.
    """
    found = overview(ws)
    photos = found["photographs"]
    rows = [_row("photographs", "", photos["present"], detail=_counts(photos["by_split"]))]
    if gone := photos["total"] - photos["present"]:
        rows.append(
            _row(
                "no longer there", "", gone, detail="photographs that were in the data folder once"
            )
        )
    if photos["by_stage"]:
        rows.append(
            _row("stages", "", sum(photos["by_stage"].values()), detail=_counts(photos["by_stage"]))
        )
    rows += [
        _row("rejects", one["reason"], one["images"], detail=f"at {one['step']}")
        for one in found["rejects"]
    ]
    rows += [_row("fundus", one["preprocess_id"], **_shards(one)) for one in found["fundus"]]
    rows += [_row("model", one["model_id"], "", detail=_when(one)) for one in found["models"]]
    for one in found["explanations"]:
        rows.append(_row("explanation", one["explain_id"], **_shards(one)))
        rows += [
            _row("set aside", name, "", detail=reason) for name, reason in one["failed"].items()
        ]
        rows += [
            _row("planned", one["explain_id"], run["planned"]["images"], detail=_planned(run))
            for run in one["runs"]
        ]
    rows += [
        _row(
            "table",
            one["table"],
            "",
            done=one["parts"],
            detail=f"{one['rows']:,} rows in {one['parts']:,} parts",
        )
        for one in found["tables"]
    ]
    for run in found["runs"]:
        detail = f"{run['state']} {run['started']:%Y-%m-%d %H:%M}, {run['seconds']:.0f} s" + (
            f": {run['message']}" if isinstance(run["message"], str) else ""
        )
        rows.append(_row("last run", run["stage"], run["images"], detail=detail))
    return rows


def overview(ws: "Workspace") -> dict:
    """Photographs, rejects, stores, models, explanations, tables and last runs, each as plain rows.

    location; photographs (total, present, by_split, by_stage); rejects (step, reason, images);
    fundus and explanations (id, images, images_done, shards, shards_done, seconds, bytes, failed,
    …; explanations also their last runs); models (model_id, created, …); tables (table, partitions,
    parts, rows); runs (the last run of each stage).
    """
    photos, rejects = ws.photos(), ws.rejects()
    present = photos[photos["present"]]
    return {
        "location": ws.location,
        "photographs": {
            "total": len(photos),
            "present": len(present),
            "by_split": {
                str(key): int(count) for key, count in present["split"].value_counts().items()
            },
            "by_stage": {
                int(key): int(count)
                for key, count in present["stage"].value_counts().sort_index().items()
            },
        },
        "rejects": [
            {"step": step, "reason": reason, "images": int(count)}
            for (step, reason), count in rejects.groupby(["step", "reason"]).size().items()
        ],
        "fundus": [
            {"preprocess_id": at, **_progress(ws, fundus_path(at))} for at in fundus_ids(ws.files)
        ],
        "models": _models(ws),
        "explanations": [
            {
                **{
                    key: record.get(key)
                    for key in ("explain_id", "created", "model_id", "preprocess_id")
                },
                **_progress(ws, attributions_path(record["explain_id"])),
                "runs": load_runs(ws.files, record["explain_id"])[-LAST_RUNS:],
            }
            for record in ws.explanations()
        ],
        "tables": _tables(ws),
        "runs": _last_runs(ws),
    }


def _models(ws: "Workspace") -> list[dict]:
    """Every model, with today's label changes and whether it is the newest of its settings."""
    records = ws.models()
    newest = {record.get("training_id"): record["model_id"] for record in records}
    return [
        {
            **{key: record.get(key) for key in ("model_id", "created", "weights_bytes")},
            "label_changes": label_changes(ws, record["model_id"]),
            "newest": newest[record.get("training_id")] == record["model_id"],
        }
        for record in records
    ]


def _progress(ws: "Workspace", path: str) -> dict:
    """How much of a store its ledger says is done, and the time that took."""
    try:
        store = ShardedStore.open(ws.files, path)
    except NotThere:
        return {
            "images": 0,
            "images_done": 0,
            "shards": 0,
            "shards_done": 0,
            "seconds": 0.0,
            "bytes": 0,
            "failed": {},
        }
    spans = store.spans()
    done = [entry for shard, entry in store.ledger.entries().items() if shard < len(spans)]
    return {
        "images": store.images,
        "images_done": sum(entry["stop"] - entry["start"] for entry in done),
        "shards": len(spans),
        "shards_done": sum(spans[entry["shard"]].stop == entry["stop"] for entry in done),
        "seconds": float(sum(entry["record"].get("seconds") or 0.0 for entry in done)),
        "bytes": sum(size for entry in done for size, _ in entry["files"].values()),
        "failed": {
            name: reason
            for entry in done
            for name, reason in entry["record"].get("failed", {}).items()
        },
    }


def _tables(ws: "Workspace") -> list[dict]:
    rows = []
    for table in SCHEMAS:
        if table in CATALOGUE:
            continue
        groups = partitions(ws.files, table) if PARTITION[table] else [None]
        count = sum(len(parts(ws.files, table, at)) for at in groups)
        if count:
            rows.append(
                {"table": table, "partitions": len(groups), "parts": count, "rows": ws.count(table)}
            )
    return rows


def _last_runs(ws: "Workspace") -> list[dict]:
    runs = ws.frame("runs").sort_values("started").drop_duplicates("stage", keep="last")
    return runs.to_dict("records")


def _row(what: str, name: str, images, done="", of="", detail: str = "") -> dict:
    return {"what": what, "id": name, "images": images, "done": done, "of": of, "detail": detail}


def _shards(one: dict) -> dict:
    size = _mib(one["bytes"]) + (f", {one['seconds']:,.0f} s of work" if one["seconds"] else "")
    return {
        "images": one["images"],
        "done": one["images_done"],
        "of": one["images"],
        "detail": f"{one['shards_done']} of {one['shards']} shards, {size}",
    }


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _planned(run: dict) -> str:
    """What a run of `dr attribute` was planned to take against what it took, if it came to its
    end.
    """
    planned, actual = run["planned"], run.get("actual")
    sides = [planned]
    if actual:
        sides.append(
            {
                **actual,
                "memory_bytes": actual.get("worker_bytes", 0) * actual.get("workers", 0) or None,
            }
        )
    units: dict[str, Callable[[Any], str]] = {
        "seconds": _time,
        "bytes": _mib,
        "memory_bytes": lambda size: f"{_mib(size)} of memory",
        "passes": "{:,} passes".format,
    }
    parts = [
        " against ".join(
            "unknown" if side.get(name) is None else text(side[name]) for side in sides
        )
        for name, text in units.items()
        if any(side.get(name) is not None for side in sides)
    ]
    return (
        f"{run['state']} {run['started'][:16].replace('T', ' ')}: planned "
        + ", ".join(parts)
        + f", by {planned['basis']}"
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _counts(values: dict) -> str:
    return ", ".join(f"{key} {count:,}" for key, count in values.items())


def _when(one: dict) -> str:
    made = (
        f"made {str(one['created'])[:16].replace('T', ' ')}, {_mib(one['weights_bytes'] or 0)} of"
        " weights"
    )
    if not (changes := one["label_changes"]):
        return made
    return f"{made}; {changes}" + (f": {RETRAIN}" if one["newest"] else "")
