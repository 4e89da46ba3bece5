"""Whether an explanation's numbers agree with one another: maps with their gaps, tables with the
arrays they were made from.

Files can be whole and still wrong: written by a faulty engine, or taken from another workspace. A
map must sum to F(x) − F(x') + gap within what rounding may take, and a table's rows must be those
of its shard's images. Both are asked of a store in which every marked shard is whole.
"""

from collections.abc import Iterator

import numpy as np

from storage.arrays.store import ShardedStore
from storage.contents.explanations import DONE
from storage.tables.parts import UNREADABLE, part_path, read_raw
from storage.workspace import Workspace

SAMPLE_IMAGES = 32
FLOAT32_EPSILON = 2.0**-23
MAPS = (
    "pixels/attribution",
    "pixels/outcome",
    "pixels/baseline_outcome",
    "pixels/gap",
    "pixels/status",
)
# Tables with a part for each shard: its number, five digits. The first has a row for every image
# and quantity.
BY_SHARD = ("attributions", "neurons", "lesion_regions", "heatmap_stats")


def gap_problems(store: ShardedStore) -> Iterator[tuple[int, str]]:
    """(shard, what is wrong) for every shard in which the stored gap is not that of the stored
    map; a sample of images.
    """
    specs = {spec.path: spec for spec in store.specs}
    if not specs.keys() >= set(MAPS):
        return
    bits = specs["pixels/attribution"].mantissa_bits
    rounding = (2.0 ** -(bits + 1) if bits else 0.0) + FLOAT32_EPSILON
    told = set()
    rows = [row for entry in store.records() for row in range(entry.start, entry.stop)]
    # Spread evenly over the finished shards; the same ones each time.
    sample = np.linspace(0, len(rows) - 1, min(SAMPLE_IMAGES, len(rows))).astype(int)
    for row in (rows[place] for place in sample):
        shard, values = row // store.shard_images, store.read_rows([row], MAPS)
        if shard in told or values["pixels/status"][0] != DONE:
            continue
        maps, *terms = (values[path][0].astype(np.float64) for path in MAPS[:4])
        sums, expected = maps.sum((1, 2)), terms[0] - terms[1] + terms[2]
        allowed = np.abs(maps).sum((1, 2)) * rounding + 8 * FLOAT32_EPSILON * sum(
            map(np.abs, terms)
        )
        off = np.abs(sums - expected)
        if (off <= allowed).all():
            continue
        told.add(shard)
        worst = int(np.argmax(np.nan_to_num(off - allowed, nan=np.inf)))
        yield (
            shard,
            (
                f"the map of {store.image_ids[row]}, quantity {worst}, sums to"
                f" {sums[worst]:.6g}, and its outcomes and gap say {expected[worst]:.6g}"
            ),
        )


def table_problems(
    ws: Workspace, explain_id: str, store: ShardedStore
) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for every part of a table whose rows are not those of its shard."""
    if "pixels/status" not in {spec.path for spec in store.specs}:
        return
    for entry in store.records():
        arrays = store.read(entry.span, ["pixels/status", "pixels/gap"])
        done = {
            name: row
            for row, name in enumerate(entry.image_ids)
            if arrays["pixels/status"][row] == DONE
        }
        for table in BY_SHARD:
            path = part_path(table, explain_id, entry.span.part)
            try:
                rows = read_raw(ws.files, path)
            except UNREADABLE:
                continue  # absent, or torn: which others look for
            # A part older than its shard's mark is only out of date: the next run makes it again.
            mark = store.ledger.name(entry.shard)
            if ws.files.modified(path) < ws.files.modified(mark):
                continue
            if detail := _disagreement(rows, table, done, arrays["pixels/gap"]):
                yield path, detail


def _disagreement(rows, table: str, done: dict[str, int], gap: np.ndarray) -> str | None:
    if "failure" in rows.column_names:
        # The others are of images without an explanation.
        rows = rows.filter(rows["failure"].is_null())
    ids = rows.column("image_id").to_pylist()
    if strangers := sorted(set(ids) - done.keys()):
        return (
            f"speaks of {len(strangers)} images that its shard does not explain, such as"
            f" {strangers[0]}"
        )
    if table != "attributions":
        return None
    if missing := sorted(done.keys() - set(ids)):
        return f"lacks {len(missing)} images of its shard, such as {missing[0]}"
    stored = gap[[done[name] for name in dict.fromkeys(ids)]].ravel()
    given = rows.column("gap").to_numpy()
    return None if np.array_equal(given, stored) else "has other gaps than the arrays"
