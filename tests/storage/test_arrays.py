"""The promise of a sharded store: whole shards, marked last, side by side, growing — through
interruptions of any kind.
"""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from storage import open_workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.metadata import committed
from storage.arrays.store import ArraySpec, ShardedStore, Span
from storage.errors import CannotWrite
from tests.storage.small import SHARD, SPECS, digests, image_ids, tree_bytes, values, write_all

PATH = "explanations/0123456789ab/attributions.zarr"


def shard_path(store, path, shard):
    spec = next(spec for spec in store.specs if spec.path == path)
    return Path(store.files.path(f"{store.path}/{spec.shard_file(shard)}"))


def test_what_is_written_is_read_back_exactly_where_it_is_not_rounded(store):
    span = store.spans()[1]
    given = values(span)
    store.write_shard(span, given, digests=digests(10)[span.rows], record=ShardRecord(seconds=1.5))
    found = store.read(span)
    for path in ("pixels/gap", "layers/stem/neuron", "status"):
        np.testing.assert_array_equal(found[path], given[path])
    # 9 mantissa bits: each value within 2^-10 of itself, hence within 0.1 % of the map's maximum.
    np.testing.assert_array_less(
        np.abs(found["pixels/map"] - given["pixels/map"]), np.abs(given["pixels/map"]) / 1000
    )
    assert store.records()[0].record == ShardRecord(seconds=1.5)


@pytest.mark.parametrize("rows", [[9, 0, 5, 5], [3, 0], list(range(10)), [2, 1, 0], []], ids=str)
@pytest.mark.parametrize("path", ["pixels/gap", "pixels/map", "status"])
def test_rows_are_read_in_the_order_asked_for(store, rows, path):
    write_all(store)
    found = store.read_rows(rows, [path])[path]
    expected = np.concatenate([store.read(span)[path] for span in store.spans()])[rows]
    np.testing.assert_array_equal(found, expected)


def test_rows_beyond_the_axis_are_refused(store):
    with pytest.raises(ValueError, match="rows 3 … 10 are not all on an axis of 10 images"):
        store.read_rows([3, 10])


def test_every_shard_is_pending_until_its_ledger_entry_holds_its_digests(store):
    assert [span.index for span in store.pending(digests(10))] == [0, 1, 2]
    assert write_all(store) == [0, 1, 2]
    assert write_all(store) == []
    changed = [*digests(10)[:5], "another", *digests(10)[6:]]
    assert [span.index for span in store.pending(changed)] == [1]
    np.testing.assert_array_equal(
        store.done_rows(store.spans()[1], changed[4:8]), [True, False, True, True]
    )


def test_forgotten_rows_are_pending_and_the_others_of_their_shard_are_kept(store):
    write_all(store)
    arrays = tree_bytes(Path(store.files.path(store.path)))
    store.forget({store.image_ids[1], store.image_ids[9]})
    pending = store.pending(digests(10))
    assert [span.index for span in pending] == [0, 2]
    assert store.done_rows(pending[0], digests(10)[pending[0].rows]).tolist() == [
        row != 1 for row in range(SHARD)
    ]
    entries = store.records()
    store.forget({store.image_ids[1]})
    assert store.records() == entries, "once is enough"
    assert tree_bytes(Path(store.files.path(store.path))) == arrays


def test_a_shard_holds_one_file_per_array_and_no_other_shard_touches_it(store):
    write_all(store)
    before = tree_bytes(Path(store.files.path(store.path)))
    store.write_shard(
        store.spans()[1], values(store.spans()[1], seed=1), digests=digests(4, start=4)
    )
    after = tree_bytes(Path(store.files.path(store.path)))
    changed = {name for name in after if before.get(name) != after[name]}
    assert before.keys() == after.keys()
    assert changed <= {spec.shard_file(1) for spec in SPECS}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.pop("pixels/gap"), "array pixels/gap is missing"),
        (lambda a: a.update(other=a["status"]), "array other is unknown"),
        (
            lambda a: a.update(status=a["status"][:2]),
            r"status must be uint8 \(4,\), got uint8 \(2,\)",
        ),
        (
            lambda a: a.update(status=a["status"].astype("int64")),
            r"status must be uint8 \(4,\), got int64 \(4,\)",
        ),
        (lambda a: a.update({"pixels/map": a["pixels/map"].astype("float64")}), "must be float32"),
    ],
    ids=["missing", "unknown", "short", "wider integer", "wider float"],
)
def test_wrong_arrays_are_refused_before_anything_is_touched(store, spoil, message):
    write_all(store)
    before = tree_bytes(Path(open_workspace(store.files.location).location))
    arrays = values(store.spans()[0])
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        store.write_shard(store.spans()[0], arrays, digests=digests(4))
    assert tree_bytes(Path(open_workspace(store.files.location).location)) == before


@pytest.mark.parametrize(
    "span",
    [Span(0, 1, 5), Span(0, 0, 3), Span(1, 0, 4), Span(3, 12, 16), Span(2, 8, 12), Span(0, 0, 8)],
)
def test_a_misaligned_region_is_refused(store, span):
    with pytest.raises(ValueError, match="is not a shard of 10 images in shards of 4"):
        store.write_shard(span, values(span), digests=digests(span.images))


def test_the_last_shard_is_padded_with_fill_and_grows_to_the_same_bytes_as_one_written_at_once(
    ws, tmp_path, store
):
    write_all(store)
    store.extend(image_ids(6, start=10))
    assert write_all(store) == [2, 3]
    whole = ShardedStore.create_or_open(
        open_workspace(tmp_path / "other").files, PATH, SPECS, SHARD, {"title": "test"}
    )
    whole.extend(image_ids(16))
    assert write_all(whole) == [0, 1, 2, 3]
    grown, at_once = (tree_bytes(Path(s.files.path(PATH))) for s in (store, whole))
    assert grown == at_once


def test_extending_keeps_what_is_there_and_shows_fill_for_what_is_new(store):
    write_all(store)
    assert store.extend(image_ids(20)) == 10  # all ids, those present in front
    assert store.extend(image_ids(20)) == 0
    assert store.image_ids == image_ids(20)
    data = xr.open_zarr(store.files.path(store.path), chunks=None)
    np.testing.assert_array_equal(data["status"], [1] * 10 + [0] * 10)


@pytest.mark.parametrize(
    "ids",
    [image_ids(10)[::-1], ["11_left", "11_left"], ["11_left", "3_left"], image_ids(3)],
    ids=["order", "twice", "known", "fewer"],
)
def test_the_image_axis_only_grows(store, ids):
    with pytest.raises(ValueError, match="the image axis only grows"):
        store.extend(ids)
    assert store.image_ids == image_ids(10)


def test_an_interrupted_extension_is_invisible_and_healed_by_the_next(store, monkeypatch):
    """Stopped after every number of file writes in turn: readers see the old axis until the last
    one.
    """
    write_all(store)
    files = type(store.files)
    write = files.write
    for allowed in range(100):
        count = 0

        def stops(self, name, data, allowed=allowed):
            nonlocal count
            count += 1
            if count > allowed:
                raise KeyboardInterrupt
            write(self, name, data)

        interrupted = ShardedStore.open(store.files, store.path)
        monkeypatch.setattr(files, "write", stops)
        try:
            interrupted.extend(image_ids(5, start=10))
        except KeyboardInterrupt:
            monkeypatch.undo()
            seen = ShardedStore.open(store.files, store.path)
            assert seen.image_ids == image_ids(10)
            tree = xr.open_datatree(store.files.path(store.path), engine="zarr", chunks=None)
            assert tree["pixels"].sizes["image"] == 10
            assert write_all(seen) == []
            continue
        monkeypatch.undo()
        break
    assert allowed > 8
    assert ShardedStore.open(store.files, store.path).image_ids == image_ids(15)


def test_an_interrupted_creation_is_done_again(ws, store):
    write_all(store)
    root = Path(ws.files.path(f"{store.path}/zarr.json"))
    document = json.loads(root.read_text())
    del document["consolidated_metadata"]  # as it stands before the last write of `create`
    root.write_text(json.dumps(document))
    assert committed(ws.files, store.path) is None
    again = ShardedStore.create_or_open(ws.files, store.path, SPECS, SHARD)
    assert again.images == 0
    assert again.records() == []


def test_a_store_of_other_arrays_is_not_reused(ws, store):
    other = [*SPECS[:-1], ArraySpec("status", ("image",), (), "int32", 0, "status", "", "")]
    with pytest.raises(
        ValueError, match=r"array status is uint8 \{\} there but int32 \{\} in this version"
    ):
        ShardedStore.create_or_open(ws.files, store.path, other, SHARD)
    with pytest.raises(ValueError, match="8 images in this version"):
        ShardedStore.create_or_open(ws.files, store.path, SPECS, 8)


def test_an_array_that_came_later_joins_an_older_store_whose_shards_stay(ws):
    older = ShardedStore.create_or_open(ws.files, PATH, SPECS, SHARD)
    older.extend(image_ids(2 * SHARD))
    first, second = older.spans()
    older.write_shard(first, values(first), digests=digests(2 * SHARD)[first.rows])
    before = tree_bytes(Path(ws.files.path(f"{PATH}/{SPECS[0].path}")))
    aspect = ArraySpec(
        "aspect", ("image",), (), "float32", 1.0, "aspect", "", "how high", later=True
    )
    specs = [*SPECS, aspect]
    store = ShardedStore.create_or_open(ws.files, PATH, specs, SHARD)
    assert store.pending(digests(2 * SHARD)) == [second], "what was written stays written"
    assert store.damage(store.ledger.entries()[first.index]) == []
    assert store.read(first, ["aspect"])["aspect"].tolist() == [1.0] * SHARD
    new = values(second) | {"aspect": np.full(SHARD, 1.5, np.float32)}
    store.write_shard(second, new, digests=digests(2 * SHARD)[second.rows])
    again = ShardedStore.create_or_open(ws.files, PATH, specs, SHARD)
    assert again.read_rows([0, SHARD], ["aspect"])["aspect"].tolist() == [1.0, 1.5]
    assert xr.open_zarr(ws.files.path(PATH))["aspect"].shape == (2 * SHARD,)
    there = tree_bytes(Path(ws.files.path(f"{PATH}/{SPECS[0].path}")))
    assert {name: there[name] for name in before} == before
    with pytest.raises(ValueError, match="array aspect is"):
        ShardedStore.create_or_open(ws.files, PATH, SPECS, SHARD)


def test_a_torn_shard_can_be_rewritten(store):
    """zarr reads the old shard before it writes a new one; half a file would stop it for ever."""
    write_all(store)
    expected = tree_bytes(Path(store.files.path(store.path)))
    for path in ("pixels/map", "pixels/gap", "status"):
        file = shard_path(store, path, 1)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    store.write_shard(store.spans()[1], values(store.spans()[1]), digests=digests(4, start=4))
    assert tree_bytes(Path(store.files.path(store.path))) == expected


def test_rows_of_a_torn_shard_are_not_kept(store):
    write_all(store)
    file = shard_path(store, "pixels/map", 0)
    file.write_bytes(file.read_bytes()[:-1])
    assert not store.done_rows(store.spans()[0], digests(4)).any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"shard": 1}',
        '{"shard": 1, "start": 4, "stop": 8, "digests": [], "image_ids": []}',
        "null",
    ],
)
def test_a_truncated_ledger_entry_counts_as_absent(store, text):
    write_all(store)
    Path(store.files.path(store.ledger.name(1))).write_text(text)
    assert [span.index for span in store.pending(digests(10))] == [1]
    assert write_all(store) == [1]


def test_a_chunk_equal_to_the_fill_is_written_all_the_same(store):
    """A chunk left out because it is all fill could not be told from one that was lost."""
    span = store.spans()[0]
    blank = {
        spec.path: np.full((span.images, *spec.shape), spec.fill, spec.dtype) for spec in SPECS
    }
    store.write_shard(span, blank, digests=digests(4))
    assert all(shard_path(store, spec.path, 0).exists() for spec in SPECS)


def test_a_store_travels_to_a_worker(store):
    write_all(store)
    there = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(there.read(there.spans()[2])["status"], [1, 1])


WORKER = """
    import sys, time
    from storage import open_workspace
    from storage.arrays.store import ShardedStore
    from storage.arrays.ledger import Ledger, ShardRecord
    from tests.storage.small import digests, values

    location, path, shards, stop_at = sys.argv[1:5]
    store = ShardedStore.open(open_workspace(location).files, path)
    names = digests(store.images)
    if stop_at == "ledger":  # stands still after the arrays, before the mark
        Ledger.mark = lambda self, entry: (print("here", flush=True), time.sleep(60))
    if stop_at == "arrays":  # stands still among the arrays
        write, done = ShardedStore._array, []
        def slowly(self, name, **options):
            done.append(name)
            if len(done) == 4:
                print("here", flush=True), time.sleep(60)
            return write(self, name, **options)
        ShardedStore._array = slowly
    print("ready", flush=True)
    sys.stdin.readline()
    for shard in map(int, shards.split(",")):
        span = store.spans()[shard]
        store.write_shard(span, values(span), digests=names[span.rows], record=ShardRecord(seconds=0.5))
"""


def start_worker(store, shards: list[int], stop_at: str = "") -> subprocess.Popen:
    """A process that writes shards once it gets a line, and stands still at the given point."""
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(WORKER),
        open_workspace(store.files.location).location,
        store.path,
        ",".join(map(str, shards)),
        stop_at,
    ]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("stop_at", ["arrays", "ledger"])
def test_a_shard_killed_before_its_mark_is_pending_and_done_again_to_the_same_bytes(store, stop_at):
    write_all(store)
    before = tree_bytes(Path(store.files.path(store.path)))
    with start_worker(store, [1], stop_at) as process:
        go(process)
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [span.index for span in store.pending(digests(10))] == [1]
    assert write_all(store) == [1]
    after = tree_bytes(Path(store.files.path(store.path)))
    assert {name: data for name, data in after.items() if not name.endswith(".partial")} == before


def test_two_processes_write_different_shards_at_once(store):
    store.extend(image_ids(54, start=10))  # 16 shards
    even, odd = (
        start_worker(store, list(range(0, 16, 2))),
        start_worker(store, list(range(1, 16, 2))),
    )
    with even, odd:
        go(even)
        go(odd)
        assert even.wait(60) == odd.wait(60) == 0
    assert store.pending(digests(64)) == []
    for span in store.spans():
        found, given = store.read(span), values(span)
        np.testing.assert_array_equal(found["pixels/gap"], given["pixels/gap"])
        np.testing.assert_allclose(found["pixels/map"], given["pixels/map"], rtol=1e-3)
        assert store.damage(store.ledger.entry(span.index), contents=True) == []


def test_killed_at_random_moments_the_run_ends_with_the_bytes_of_an_undisturbed_one(
    store, tmp_path
):
    """Killed at seeded moments; finished shards stay, and nothing but leftovers of a write
    differs.
    """
    store.extend(image_ids(54, start=10))
    random = np.random.default_rng(5)
    for _ in range(4):
        todo = [span.index for span in store.pending(digests(64))]
        if not todo:
            break
        with start_worker(store, todo) as process:
            go(process)
            time.sleep(float(random.uniform(0.02, 0.2)))
            process.kill()
            process.wait()
        assert all(store.damage(entry, contents=True) == [] for entry in store.records())
    write_all(store)
    whole = ShardedStore.create_or_open(
        open_workspace(tmp_path / "other").files, PATH, SPECS, SHARD, {"title": "test"}
    )
    whole.extend(image_ids(10))
    whole.extend(image_ids(54, start=10))
    write_all(whole)
    found, expected = (tree_bytes(Path(s.files.path(PATH))) for s in (store, whole))
    assert {name: data for name, data in found.items() if not name.endswith(".partial")} == expected


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "mount it for writing")]
)
def test_a_full_or_read_only_disk_is_said_in_one_line_and_the_shard_is_pending(
    store, monkeypatch, number, advice
):
    """The third file of the shard finds no room: what to do is said, nothing is marked, and room
    is all that it takes.
    """
    from zarr.storage import LocalStore

    write_all(store)
    put, count = LocalStore.set, [0]

    async def full(self, key, value, *rest):
        count[0] += 1
        if count[0] == 3:
            raise OSError(number, os.strerror(number))
        return await put(self, key, value, *rest)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(
        CannotWrite, match=f"{os.strerror(number)}; {advice}.* then run again"
    ) as caught:
        store.write_shard(store.spans()[1], values(store.spans()[1]), digests=digests(4, start=4))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert write_all(store) == [1]
