"""Whether everything that counts as done is there and true: shards, tables, models. Reads all of
it.

A shard is believed when its files are those whose size and hash its ledger entry holds, they
decode, and the gaps of a sample of its maps are those stored. A table is believed when its rows are
of its shard's images. The repair is always the same: forget what is broken (a ledger entry, a part
of a table), and the next run makes just that again.
"""

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from storage.admin.consistency import gap_flaws, table_flaws
from storage.arrays.store import ShardedStore, Span
from storage.contents.explanations import attributions_path
from storage.contents.fundus import fundus_ids, fundus_path
from storage.tables.parts import folder, partitions, parts
from storage.tables.schemas import CATALOGUE, KEYS, PARTITION, SCHEMAS, source_column

if TYPE_CHECKING:
    from storage.workspace import Workspace


class Flaw(NamedTuple):
    """One thing wrong. kind: shard, gap, ledger, store, table, model or leftover. repairable:
    whether forgetting it helps.
    """

    kind: str
    where: str
    detail: str
    repairable: bool = True


def verify(ws: "Workspace", *, repair: bool = False) -> list[dict]:
    """Everything wrong in a workspace, as rows (kind, where, detail, repair); none where all is
    well.

    repair: forget what is broken, so that the next run makes it again. The row's `repair` says
    whether that is done, possible, or not (a model's lost weights don't come back).
    """
    rows = []
    # Listed before anything is mended: mending changes what the checks walk over.
    for flaw, mend in list(_flaws(ws)):
        if repair and flaw.repairable:
            mend()
        state = "no" if not flaw.repairable else "done" if repair else "possible"
        rows.append(
            {"kind": flaw.kind, "where": flaw.where, "detail": flaw.detail, "repair": state}
        )
    return rows


def _flaws(ws: "Workspace") -> Iterator[tuple[Flaw, Callable[[], None]]]:
    positions = dict(zip(ws.photos()["image_id"], ws.photos()["position"], strict=True))
    for preprocess_id in fundus_ids(ws.files):
        yield from _store_flaws(ws, fundus_path(preprocess_id), positions)
    for explain_id in ws.files.names("explanations"):
        for name in ws.files.names(f"explanations/{explain_id}"):
            # The maps of groups and of units are written whole, by another way, and have no ledger.
            if name.endswith(".zarr") and not name.startswith(("groups-", "units-")):
                yield from _store_flaws(ws, f"explanations/{explain_id}/{name}", positions)
    yield from _model_flaws(ws)
    yield from _table_flaws(ws, set(positions))
    for name in ws.files.stale_temporaries():
        detail = "left behind by an interrupted write"
        yield Flaw("leftover", name, detail), lambda name=name: ws.files.remove(name)


def _store_flaws(
    ws: "Workspace", path: str, positions: dict[str, int]
) -> Iterator[tuple[Flaw, Callable[[], None]]]:
    try:
        store = ShardedStore.open(ws.files, path)
    except FileNotFoundError:
        yield (
            Flaw("store", path, "was never finished; the next run makes it", repairable=False),
            _nothing,
        )
        return
    ids, spans = store.image_ids, store.spans()
    if len(set(ids)) != len(ids) or "" in ids:
        yield Flaw("store", path, "image ids are repeated or missing", repairable=False), _nothing
    if strangers := [name for name in ids if name not in positions]:
        detail = f"{len(strangers)} images are not in the manifest, such as {strangers[0]}"
        yield Flaw("store", path, detail, repairable=False), _nothing
    marked = {name for name in ws.files.names(store.ledger.folder) if name.endswith(".json")}
    entries = store.ledger.entries()
    for name in sorted(marked - {store.ledger.name(shard).rpartition("/")[2] for shard in entries}):
        where = f"{store.ledger.folder}/{name}"
        yield (
            Flaw("ledger", where, "is torn and counts as absent"),
            lambda where=where: ws.files.remove(where),
        )
    broken = False
    for shard, entry in entries.items():
        if detail := _shard_flaw(store, spans, ids, shard, entry):
            broken = True
            yield (
                Flaw("shard", f"{path} shard {shard}", detail),
                lambda shard=shard: store.ledger.drop(shard),
            )
    if broken:
        return  # what does not decode cannot be summed; mended, it is looked at again
    for shard, detail in gap_flaws(store):
        yield (
            Flaw("gap", f"{path} shard {shard}", detail),
            lambda shard=shard: store.ledger.drop(shard),
        )
    explain_id = path.split("/")[1]
    if path == attributions_path(explain_id):
        for where, detail in table_flaws(ws, explain_id, store):
            yield Flaw("table", where, detail), lambda where=where: ws.files.remove(where)


def _shard_flaw(
    store: ShardedStore, spans: list[Span], ids: list[str], shard: int, entry: dict
) -> str | None:
    """What is wrong with one marked shard, or None."""
    if (
        shard >= len(spans)
        or entry["start"] != spans[shard].start
        or entry["stop"] > spans[shard].stop
    ):
        return (
            f"holds images {entry['start']} … {entry['stop']}, which is no shard of {len(ids)}"
            " images"
        )
    if entry["image_ids"] != ids[entry["start"] : entry["stop"]]:
        return "was written for other images"
    if problems := store.damage(shard, entry, contents=True):
        return problems[0] + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
    try:
        store.read(Span(shard, entry["start"], entry["stop"]))
    except Exception as error:  # any codec may fail in any way on bytes that are not its own
        return (
            f"does not decode: {type(error).__name__}:"
            f" {str(error).splitlines()[0] if str(error) else ''}"
        )
    return None


def _model_flaws(ws: "Workspace") -> Iterator[tuple[Flaw, Callable[[], None]]]:
    from storage.contents.models import WEIGHTS, load_history
    from storage.ids import digest_bytes

    for model_id in ws.files.names("models"):
        where, record = f"models/{model_id}", ws.files.read_json(f"models/{model_id}/model.json")
        if record is None:
            yield (
                Flaw(
                    "model",
                    where,
                    "has no model.json: its saving was interrupted",
                    repairable=False,
                ),
                _nothing,
            )
            continue
        try:
            if digest_bytes(ws.files.read(f"{where}/{WEIGHTS}")) != record["weights_sha256"]:
                yield (
                    Flaw(
                        "model",
                        where,
                        "the weights are not those that were stored",
                        repairable=False,
                    ),
                    _nothing,
                )
            load_history(ws.files, model_id)
        except (OSError, ValueError) as error:
            yield Flaw("model", where, str(error).splitlines()[0], repairable=False), _nothing


def _table_flaws(ws: "Workspace", known: set[str]) -> Iterator[tuple[Flaw, Callable[[], None]]]:
    for table in SCHEMAS:
        if table in CATALOGUE:
            continue
        for at in partitions(ws.files, table) if PARTITION[table] else [None]:
            seen: set[tuple] = set()
            for part in parts(ws.files, table, at):
                path = f"{folder(table, at)}/{part}.parquet"
                if detail := _part_flaw(ws, table, path, seen, known):
                    yield Flaw("table", path, detail), lambda path=path: ws.files.remove(path)


def _part_flaw(
    ws: "Workspace", table: str, path: str, seen: set[tuple], known: set[str]
) -> str | None:
    """What is wrong with one part of a table, or None; adds its keys to `seen`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(io.BytesIO(ws.files.read(path)), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        return f"does not read: {str(error).splitlines()[0]}"
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
    if "image_id" in found.schema.names and (
        strangers := set(found.column("image_id").to_pylist()) - known
    ):
        return (
            f"speaks of {len(strangers)} images that are not in the manifest, such as"
            f" {min(strangers)}"
        )
    return None


def _nothing() -> None:
    """There is nothing to repair."""
