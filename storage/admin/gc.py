"""What a workspace no longer needs: listed always, removed only when told.

An explanation needs its model and its fundi, a model its fundi. The newest of each kind stays
unless it is named, and nothing goes that something else still needs. What makes a thing count (its
record, its ledger's marks) goes first, so that a removal interrupted at any line leaves rubbish
that the next listing shows, never a result half believed.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from storage.arrays.ledger import ledger_folder
from storage.contents.fundus import fundus_path, preprocess_ids
from storage.errors import Refused
from storage.files.scratch import scratch_folders
from storage.tables.parts import folder, partitions, parts
from storage.tables.schemas import PARTITION

if TYPE_CHECKING:
    from storage.workspace import Workspace

GOING = ("old", "unfinished")


@dataclass(frozen=True)
class Item:
    """One thing that can go. places: its files and folders in the order in which they go. needs:
    ids it was made from.

    state: what is known of it alone, such as unfinished; empty where that depends on the others.
    """

    kind: str
    id: str
    made: str
    bytes: int
    places: tuple[str, ...]
    needs: tuple[str, ...] = ()
    state: str = ""


def listing(ws: "Workspace", *, keep: int = 1) -> list[dict]:
    """A row for everything that could go: kind, id, made, bytes, needs, needed_by, state; oldest
    first in each kind.

    state: newest (one of the `keep` newest explanations or what they need, the newest model, the
    newest fundi), old, unfinished (its making was interrupted, or what it belonged to is gone), or
    resumable (checkpoints of a training that goes on from them). keep: how many explanations count
    as newest, at least 1.
    """
    items = inventory(ws)
    wanted = _wanted(items, keep)
    return [
        {
            "kind": item.kind,
            "id": item.id,
            "made": item.made,
            "bytes": item.bytes,
            "needs": ", ".join(item.needs),
            "needed_by": ", ".join(other.id for other in items if item.id in other.needs),
            "state": item.state or ("newest" if item in wanted else "old"),
        }
        for item in items
    ]


def collect(
    ws: "Workspace", ids: Sequence[str] = (), *, old: bool = False, keep: int = 1
) -> list[dict]:
    """Removes the named things and, with `old`, all that is old or unfinished; returns the rows of
    what went.

    Holds the workspace's lock meanwhile: raises WorkspaceLocked while a run is under way. Raises
    Refused, before anything is touched, for an id that is not there or that something which stays
    still needs.
    """
    with ws.lock("run"):
        items, rows = (
            inventory(ws),
            {(row["kind"], row["id"]): row for row in listing(ws, keep=keep)},
        )
        unknown = [name for name in ids if name not in {item.id for item in items}]
        if unknown:
            raise Refused(
                f"{ws.location} holds nothing called {unknown[0]}; dr gc {ws.location} lists what"
                " there is"
            )
        going = [
            item
            for item in items
            if item.id in ids or (old and rows[item.kind, item.id]["state"] in GOING)
        ]
        _refuse_needed(items, going)
        for item in going:
            for place in item.places:
                _remove(ws, place)
        if going and ws.is_local and ws.files.exists("catalog.duckdb"):
            from storage.admin.catalog import refresh

            refresh(ws)
        return [rows[item.kind, item.id] for item in going]


def inventory(ws: "Workspace") -> list[Item]:
    """Everything that could go: explanations, models, fundi, scratch; those that others are made
    from come last.
    """
    explanations = {record["explain_id"]: record for record in ws.explanations()}
    models = {record["model_id"]: record for record in ws.models()}
    return [
        *_of_kind(
            "explanation",
            explanations,
            _explanation_ids(ws),
            lambda at: _explanation_places(ws, at),
            ws,
        ),
        *_of_kind(
            "model",
            models,
            [*ws.files.names("models"), *_partition_ids(ws, "model_id")],
            _model_places(ws),
            ws,
        ),
        *_fundi(ws),
        *_scratch(ws),
    ]


def _of_kind(
    kind: str,
    records: dict[str, dict],
    ids: Iterable[str],
    places_of: Callable[[str], tuple[str, ...]],
    ws: "Workspace",
) -> list[Item]:
    items = []
    for name in dict.fromkeys([*records, *sorted(ids)]):
        record, places = records.get(name, {}), places_of(name)
        needs = tuple(
            record[key]
            for key in ("model_id", "preprocess_id")
            if record.get(key) not in (None, name)
        )
        made = str(record.get("created") or "")[:16].replace("T", " ")
        items.append(
            Item(
                kind,
                name,
                made,
                _bytes(ws, places),
                places,
                needs,
                "" if name in records else "unfinished",
            )
        )
    return items


def _explanation_ids(ws: "Workspace") -> list[str]:
    """Also of tables and reports whose explanation is gone."""
    return [
        *ws.files.names("explanations"),
        *_partition_ids(ws, "explain_id"),
        *ws.files.names("report"),
    ]


def _partition_ids(ws: "Workspace", key: str) -> list[str]:
    return [
        at for table, name in PARTITION.items() if name == key for at in partitions(ws.files, table)
    ]


def _partition_places(ws: "Workspace", key: str, name: str) -> list[str]:
    tables = [
        table
        for table, of in PARTITION.items()
        if of == key and name in partitions(ws.files, table)
    ]
    return [folder(table, name) for table in tables]


def _explanation_places(ws: "Workspace", name: str) -> tuple[str, ...]:
    at = f"explanations/{name}"
    inside = ws.files.names(at)
    # The record first: from then on it is not the latest. Then the marks: from then on no shard
    # counts.
    first = [
        f"{at}/explanation.json",
        *(f"{at}/{part}" for part in inside if part.endswith("ledger")),
    ]
    # The folder of counterfactual images and all else that lies beside them goes with it.
    return (
        *first,
        *_partition_places(ws, "explain_id", name),
        *_parts_about(ws, name),
        f"report/{name}",
        at,
    )


def _parts_about(ws: "Workspace", explain_id: str) -> list[str]:
    """Files about an explanation in tables that are partitioned by something else: how well its
    maps find lesions.
    """
    return [
        f"{folder(table, at)}/{part}.parquet"
        for table, of in PARTITION.items()
        if of not in (None, "explain_id")
        for at in partitions(ws.files, table)
        for part in parts(ws.files, table, at)
        if part.endswith(f"-{explain_id}")
    ]


def _model_places(ws: "Workspace") -> Callable[[str], tuple[str, ...]]:
    return lambda name: (
        f"models/{name}/model.json",
        *_partition_places(ws, "model_id", name),
        f"models/{name}",
    )


def _fundi(ws: "Workspace") -> list[Item]:
    items = []
    for name in preprocess_ids(ws.files):
        path = fundus_path(name)
        places = (ledger_folder(path), *_partition_places(ws, "preprocess_id", name), path)
        made = datetime.fromtimestamp(ws.files.modified(f"{path}/zarr.json"), UTC).isoformat(
            sep=" "
        )[:16]
        items.append(Item("fundus", name, made, _bytes(ws, places), places))
    return items


def _scratch(ws: "Workspace") -> list[Item]:
    """Checkpoints of a training; it is under way or waits to be resumed unless a model has its
    settings by now.
    """
    trained = {record.get("training_id") for record in ws.models()}
    items = []
    for path in scratch_folders(ws.files):
        state = "old" if any(name in path.name for name in trained if name) else "resumable"
        files = [file for file in path.rglob("*") if file.is_file()]
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(sep=" ")[:16]
        items.append(
            Item(
                "scratch",
                path.name,
                made,
                sum(file.stat().st_size for file in files),
                (str(path),),
                (),
                state,
            )
        )
    return items


def _wanted(items: list[Item], keep: int) -> list[Item]:
    """What stays by itself: the newest explanations and what they need, and the newest model and
    fundi.
    """
    newest = [item for item in items if item.kind == "explanation" and not item.state][-keep:]
    for kind in ("model", "fundus"):
        newest += [item for item in items if item.kind == kind and not item.state][-1:]
    needed = {name for item in newest for name in item.needs}
    needed |= {
        name for item in items if item.id in needed for name in item.needs
    }  # a model's fundi
    return [item for item in items if item in newest or item.id in needed]


def _refuse_needed(items: list[Item], going: list[Item]) -> None:
    staying = [item for item in items if item not in going]
    for item in going:
        users = [other.id for other in staying if item.id in other.needs]
        if users:
            raise Refused(
                f"{item.kind} {item.id} is needed by {', '.join(users)}; remove that too, or"
                " neither"
            )


def _bytes(ws: "Workspace", places: Iterable[str]) -> int:
    """Bytes below some folders; places inside one another count once."""
    names = {name for place in places for name in ws.files.walk(place)}
    return sum(ws.files.size(name) or 0 for name in names)


def _remove(ws: "Workspace", place: str) -> None:
    if os.path.isabs(place):
        shutil.rmtree(
            place, ignore_errors=True
        )  # scratch, which lies on this machine even for a remote workspace
    elif place.endswith((".json", ".parquet")):
        ws.files.remove(place)
    else:
        ws.files.remove_tree(place)
