"""Whether everything that counts as done is there and true: shards, tables, models. Reads all of
it.

A shard is believed when its files are those whose size and hash its ledger entry holds, they
decode, and the gaps of a sample of its maps are those stored. A table is believed when its rows are
of its shard's images. The repair is always the same: forget what is broken (a ledger entry, a part
of a table), and the next run makes just that again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from storage.admin.consistency import gap_problems, table_problems
from storage.arrays.ledger import LedgerEntry
from storage.arrays.store import ShardedStore
from storage.contents.models import WEIGHTS, ModelRecord, load_history
from storage.errors import one_line
from storage.ids import digest_bytes
from storage.layout import (
    CATALOGUE_TABLES,
    EXPLANATIONS,
    MODEL_RECORD,
    MODELS,
    attributions_path,
    explanation_path,
    fundus_path,
    model_path,
)
from storage.tables.parts import UNREADABLE, all_parts, part_path, read_raw
from storage.tables.schemas import KEYS, SCHEMAS, source_column
from storage.workspace import Workspace


@dataclass(frozen=True)
class Problem:
    """One thing wrong. kind: shard, gap, ledger, store, table, model or leftover. forget: makes
    the next run do it again; None where that would not help.
    """

    kind: str
    where: str
    detail: str
    forget: Callable[[], None] | None = None


def verify(ws: Workspace, *, repair: bool = False) -> list[dict]:
    """Everything wrong in a workspace, as rows (kind, where, detail, repair); none where all is
    well.

    repair: forget what is broken, so that the next run makes it again. The row's `repair` says
    whether that is done, possible, or not (a model's lost weights don't come back). Raises
    OtherFormat for what a newer version wrote.
    """
    rows = []
    # Listed before anything is repaired: repairing changes what the checks walk over.
    for problem in list(_problems(ws)):
        state = "no" if problem.forget is None else "done" if repair else "possible"
        if repair and problem.forget:
            problem.forget()
        rows.append(
            {name: getattr(problem, name) for name in ("kind", "where", "detail")}
            | {"repair": state}
        )
    return rows


def _problems(ws: Workspace) -> Iterator[Problem]:
    known = set(ws.photos()["image_id"])
    ws.explanations()  # refuses records of a newer version
    for preprocess_id in ws.preprocess_ids():
        yield from _store_problems(ws, fundus_path(preprocess_id), known)
    for explain_id in ws.files.names(EXPLANATIONS):
        for name in ws.files.names(explanation_path(explain_id)):
            # Small sets (storage/contents/snapshots.py) are written whole and have no ledger.
            if name.endswith(".zarr") and not name.startswith(("groups-", "units-", "sums-")):
                path = explanation_path(explain_id, name)
                yield from _store_problems(ws, path, known, explain_id)
    yield from _model_problems(ws)
    yield from _part_problems(ws, known)
    for name in ws.files.stale_temporaries():
        yield _removable(ws, "leftover", name, "left behind by an interrupted write")


def _removable(ws: Workspace, kind: str, path: str, detail: str) -> Problem:
    return Problem(kind, path, detail, lambda: ws.files.remove(path))


def _store_problems(
    ws: Workspace, path: str, known: set[str], explain_id: str = ""
) -> Iterator[Problem]:
    try:
        store = ShardedStore.open(ws.files, path)
    except FileNotFoundError:
        yield Problem("store", path, "was never finished; the next run makes it")
        return
    ids, ledger = store.image_ids, store.ledger
    if len(set(ids)) != len(ids) or "" in ids:
        yield Problem("store", path, "image ids are repeated or missing")
    if strangers := [name for name in ids if name not in known]:
        detail = f"{len(strangers)} images are not in the manifest, such as {strangers[0]}"
        yield Problem("store", path, detail)
    entries = ledger.entries()
    marks = {f"{ledger.folder}/{name}" for name in ws.files.names(ledger.folder)}
    for mark in sorted(marks - {ledger.name(shard) for shard in entries}):
        yield _removable(ws, "ledger", mark, "is torn and counts as absent")

    def shard_problem(kind: str, shard: int, detail: str) -> Problem:
        return Problem(kind, f"{path} shard {shard}", detail, lambda: ledger.drop(shard))

    broken = [
        shard_problem("shard", entry.shard, detail)
        for entry in entries.values()
        if (detail := _shard_damage(store, ids, entry))
    ]
    yield from broken
    if broken:
        return  # what does not decode cannot be summed; repaired, it is looked at again
    for shard, detail in gap_problems(store):
        yield shard_problem("gap", shard, detail)
    if path == attributions_path(explain_id):
        for where, detail in table_problems(ws, explain_id, store):
            yield _removable(ws, "table", where, detail)


def _shard_damage(store: ShardedStore, ids: list[str], entry: LedgerEntry) -> str | None:
    """What is wrong with one marked shard, or None."""
    spans, span = store.spans(), entry.span
    if (
        span.index >= len(spans)
        or span.start != spans[span.index].start
        or span.stop > spans[span.index].stop
    ):
        return f"holds images {span.start} … {span.stop}, which is no shard of {len(ids)} images"
    if entry.image_ids != ids[span.rows]:
        return "was written for other images"
    if problems := store.damage(entry, contents=True):
        return problems[0] + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
    try:
        store.read(span)
    except Exception as error:  # any codec may fail in any way on bytes that are not its own
        return f"does not decode: {type(error).__name__}: {one_line(error)}"
    return None


def _model_problems(ws: Workspace) -> Iterator[Problem]:
    for model_id in ws.files.names(MODELS):
        where = model_path(model_id)
        record = ModelRecord.read(ws.files, model_path(model_id, MODEL_RECORD))
        if record is None:
            yield Problem("model", where, "has no model.json: its saving was interrupted")
            continue
        try:
            weights = ws.files.read(model_path(model_id, WEIGHTS))
            if digest_bytes(weights) != record.weights_sha256:
                yield Problem("model", where, "the weights are not those that were stored")
            load_history(ws.files, model_id)
        except (OSError, ValueError) as error:
            yield Problem("model", where, one_line(error))


def _part_problems(ws: Workspace, known: set[str]) -> Iterator[Problem]:
    for table in SCHEMAS:
        if table in CATALOGUE_TABLES:
            continue
        seen: dict[str | None, set[tuple]] = {}
        for partition, part in all_parts(ws.files, table):
            path = part_path(table, partition, part)
            keys = seen.setdefault(partition, set())
            if detail := _part_damage(ws, table, path, keys, known):
                yield _removable(ws, "table", path, detail)


def _part_damage(
    ws: Workspace, table: str, path: str, seen: set[tuple], known: set[str]
) -> str | None:
    """What is wrong with one part of a table, or None; adds its keys to `seen`."""
    try:
        found = read_raw(ws.files, path)
    except UNREADABLE as error:
        return f"does not read: {one_line(error)}"
    # Whether a column may be null is wider today in places, and older rows do not name a source.
    younger = source_column(SCHEMAS[table])
    there, today = (
        [(field.name, field.type) for field in schema if field.name != younger]
        for schema in (found.schema, SCHEMAS[table])
    )
    if there != today:
        names = sorted({name for name, _ in there} ^ {name for name, _ in today})
        return f"has another version's columns{': ' + ', '.join(names) if names else ''}"
    if KEYS[table]:
        keys = list(zip(*(found.column(key).to_pylist() for key in KEYS[table]), strict=True))
        if len(set(keys)) != len(keys) or seen & set(keys):
            return f"repeats rows of one {', '.join(KEYS[table])}"
        seen.update(keys)
    named = "image_id" in found.schema.names
    if named and (strangers := set(found.column("image_id").to_pylist()) - known):
        return (
            f"speaks of {len(strangers)} images that are not in the manifest, such as"
            f" {min(strangers)}"
        )
    return None
