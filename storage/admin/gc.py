"""What a workspace no longer needs: listed always, removed only when told.

An explanation needs its model and its fundi, a model its fundi. The newest of each kind stays
unless it is named, and nothing goes that something else still needs. What makes a thing count (its
record, its ledger's marks) goes first, so that a removal interrupted at any line leaves rubbish
that the next listing shows, never a result half believed.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from storage import layout
from storage.contents.explanations import ExplanationRecord
from storage.contents.models import ModelRecord
from storage.errors import Refused
from storage.files.scratch import scratch_folders
from storage.layout import fundus_path, ledger_folder
from storage.tables.parts import partition_folders
from storage.workspace import Workspace

GOING = ("old", "unfinished")


@dataclass(frozen=True)
class Item:
    """One thing that can go. places: its files and folders in the order in which they go. needs:
    ids it was made from. state: see `listing`.
    """

    kind: str
    id: str
    made: str
    bytes: int
    places: tuple[str, ...]
    needs: tuple[str, ...] = ()
    state: str = ""


def listing(ws: Workspace, *, keep: int = 1) -> list[dict]:
    """A row for everything that could go: kind, id, made, bytes, needs, needed_by, state; oldest
    first in each kind.

    state: newest (one of the `keep` newest explanations or what they need, the newest model, the
    newest fundi), old, unfinished (its making was interrupted, or what it belonged to is gone), or
    resumable (checkpoints of a training that goes on from them). keep: how many explanations count
    as newest, at least 1.
    """
    items = inventory(ws, keep)
    return [_row(item, items) for item in items]


def _row(item: Item, items: list[Item]) -> dict:
    return {
        "kind": item.kind,
        "id": item.id,
        "made": item.made,
        "bytes": item.bytes,
        "needs": ", ".join(item.needs),
        "needed_by": ", ".join(other.id for other in items if item.id in other.needs),
        "state": item.state,
    }


def collect(
    ws: Workspace, ids: Sequence[str] = (), *, old: bool = False, keep: int = 1
) -> list[dict]:
    """Removes the named things and, with `old`, all that is old or unfinished; returns the rows of
    what went.

    Holds the workspace's lock meanwhile: raises WorkspaceLocked while a run is under way. Raises
    Refused, before anything is touched, for an id that is not there or that something which stays
    still needs.
    """
    with ws.lock():
        items = inventory(ws, keep)
        if unknown := [name for name in ids if name not in {item.id for item in items}]:
            raise Refused(
                f"{ws.location} holds nothing called {unknown[0]}; dr gc {ws.location} lists what"
                " there is"
            )
        going = [item for item in items if item.id in ids or (old and item.state in GOING)]
        for item in going:
            users = [other.id for other in items if item.id in other.needs and other not in going]
            if users:
                raise Refused(
                    f"{item.kind} {item.id} is needed by {', '.join(users)}; remove that too, or"
                    " neither"
                )
        for item in going:
            for place in item.places:
                _remove(ws, place)
        if going and ws.is_local and ws.files.exists(layout.VIEWS_DATABASE):
            from storage.admin.catalog import refresh

            refresh(ws)
        return [_row(item, items) for item in going]


def inventory(ws: Workspace, keep: int) -> list[Item]:
    """Everything that could go: explanations, models, fundi, scratch; those that others are made
    from come last.
    """
    items = [
        *_recorded(
            ws,
            "explanation",
            ws.explanations(),
            layout.EXPLANATION_RECORD,
            (layout.EXPLANATIONS, layout.REPORT),
        ),
        *_recorded(ws, "model", ws.models(), layout.MODEL_RECORD, (layout.MODELS,)),
        *_fundi(ws),
        *_scratch(ws),
    ]
    wanted = _wanted(items, keep)
    return [
        replace(item, state=item.state or ("newest" if item in wanted else "old")) for item in items
    ]


def _recorded(
    ws: Workspace,
    kind: str,
    records: Sequence[ExplanationRecord] | Sequence[ModelRecord],
    record_name: str,
    folders: Sequence[str],
) -> Iterator[Item]:
    """What has a record in its folder in `folders[0]`; beside those with one also those of which
    only folders or tables are left.
    """
    files, key = ws.files, "explain_id" if kind == "explanation" else "model_id"
    there, tables = {getattr(record, key): record for record in records}, partition_folders(files)
    left = {name for folder in folders for name in files.names(folder)}
    left |= {path.rpartition("=")[2] for path in tables if f"/{key}=" in path}
    pages = [name for name in files.names(layout.REPORT) if name.startswith(layout.COMPARISONS)]
    left -= {*pages}
    for name in dict.fromkeys([*there, *sorted(left)]):
        record, (folder, *others) = there.get(name), [f"{folder}/{name}" for folder in folders]
        places = (
            # The record first: from then on it is not the latest. Then the marks: from then on no
            # shard counts.
            f"{folder}/{record_name}",
            *(f"{folder}/{part}" for part in files.names(folder) if part.endswith("ledger")),
            *(path for path in tables if path.endswith(f"/{key}={name}")),
            # How well an explanation's maps find lesions stands in a table of the model.
            *(
                f"{path}/{part}"
                for path in tables
                if "/explain_id=" not in path
                for part in files.names(path)
                if part.endswith(f"-{name}.parquet")
            ),
            # Comparisons of it with what was before; those with what came after are the others'.
            *(f"{layout.REPORT}/{page}" for page in pages if page.endswith(f"-{name}")),
            *others,
            folder,
        )
        made = record.created[:16].replace("T", " ") if record else ""
        needs = (record.model_id, record.preprocess_id) if record else ()
        needs = tuple(needed for needed in needs if needed not in ("", name))
        state = "" if record else "unfinished"
        yield Item(kind, name, made, _bytes(ws, places), places, needs, state)


def _fundi(ws: Workspace) -> Iterator[Item]:
    for name in ws.preprocess_ids():
        path, tables = fundus_path(name), partition_folders(ws.files)
        tables = [path for path in tables if path.endswith(f"/preprocess_id={name}")]
        places = (ledger_folder(path), *tables, path)
        made = _minute(ws.files.modified(f"{path}/zarr.json"))
        yield Item("fundus", name, made, _bytes(ws, places), places)


def _scratch(ws: Workspace) -> Iterator[Item]:
    """Checkpoints of a training; it is under way or waits to be resumed unless a model has its
    settings by now.
    """
    trained = {record.training_id for record in ws.models()} - {""}
    for path in scratch_folders(ws.files):
        state = "old" if any(name in path.name for name in trained) else "resumable"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        made = _minute(path.stat().st_mtime)
        yield Item("scratch", path.name, made, size, (str(path),), state=state)


def _minute(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _wanted(items: list[Item], keep: int) -> list[Item]:
    """What stays by itself: the newest explanations and what they need, and the newest model and
    fundi.
    """
    newest: list[Item] = []
    for kind, count in (("explanation", keep), ("model", 1), ("fundus", 1)):
        newest += [item for item in items if item.kind == kind and not item.state][-count:]
    needed = {name for item in newest for name in item.needs}
    needed |= {
        name for item in items if item.id in needed for name in item.needs
    }  # a model's fundi
    return [item for item in items if item in newest or item.id in needed]


def _bytes(ws: Workspace, places: Iterable[str]) -> int:
    """Bytes below some folders; places inside one another count once."""
    names = {name for place in places for name in ws.files.walk(place)}
    return sum(ws.files.size(name) or 0 for name in names)


def _remove(ws: Workspace, place: str) -> None:
    if os.path.isabs(place):
        shutil.rmtree(
            place, ignore_errors=True
        )  # scratch, which lies on this machine even for a remote workspace
    elif place.endswith((".json", ".parquet")):
        ws.files.remove(place)
    else:
        ws.files.remove_tree(place)
