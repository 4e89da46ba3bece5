"""Rows in any order are the store's own, each shard is read once and whole, and the copy leaves
nothing behind.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from storage.arrays import row_copy
from storage.arrays.row_copy import RowCopy
from storage.arrays.store import ShardedStore
from tests.storage.small import digests, write_all

PATHS = ("pixels/map", "layers/stem/neuron", "status")


@pytest.fixture
def read_shards(monkeypatch):
    """The shards that were read whole, in order; and no row may be read by itself."""
    read, real = [], ShardedStore.read

    def counted(self, span, paths=None):
        read.append(span.index)
        return real(self, span, paths)

    monkeypatch.setattr(ShardedStore, "read", counted)
    monkeypatch.setattr(
        ShardedStore, "read_rows", lambda *_: pytest.fail("a row was read by itself")
    )
    return read


@pytest.mark.parametrize("path", PATHS)
def test_rows_in_any_order_and_repeated_are_the_stores_own(store, tmp_path, path, monkeypatch):
    write_all(store, digests(10))
    rows = np.array([9, 0, 3, 3, 8, 0, 5])
    expected = store.read_rows(rows, [path])[path]
    monkeypatch.setattr(
        ShardedStore, "read_rows", lambda *_: pytest.fail("a row was read by itself")
    )
    with RowCopy(store, path, tmp_path) as copy:
        found = copy.read(rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert copy.read(np.array([], int)).shape == (0, *expected.shape[1:])


def test_a_shard_is_read_whole_once_and_only_when_it_is_asked_for(store, tmp_path, read_shards):
    write_all(store, digests(10))
    with RowCopy(store, "pixels/map", tmp_path) as copy:
        copy.read(np.array([1, 2, 9]))
        assert read_shards == [0, 2]
        copy.read(np.array([9, 8, 0, 3, 1]))
        assert read_shards == [0, 2]


def test_many_threads_at_once_get_their_own_rows_and_copy_no_shard_twice(
    store, tmp_path, read_shards
):
    write_all(store, digests(10))
    with RowCopy(store, "pixels/map", tmp_path) as copy, ThreadPoolExecutor(8) as pool:
        start = threading.Barrier(8)

        def read(seed):
            rows = np.random.default_rng(seed).integers(0, 10, 30)
            start.wait()
            return rows, copy.read(rows)

        answers = list(pool.map(read, range(8)))
        assert sorted(read_shards) == [0, 1, 2]
        whole = np.concatenate(
            [store.read(span, ["pixels/map"])["pixels/map"] for span in store.spans()]
        )
    for rows, found in answers:
        np.testing.assert_array_equal(found, whole[rows])


def test_the_copy_has_no_name_that_a_killed_process_could_leave(store, tmp_path):
    write_all(store, digests(10))
    folder = tmp_path / "scratch"
    folder.mkdir()
    with RowCopy(store, "pixels/map", folder) as copy:
        copy.read(np.arange(10))
        assert list(folder.iterdir()) == []


def test_without_room_on_the_disk_rows_are_read_one_by_one(store, tmp_path, monkeypatch):
    write_all(store, digests(10))
    monkeypatch.setattr(row_copy, "SPARE_BYTES", 1 << 62)
    with RowCopy(store, "pixels/map", tmp_path) as copy:
        np.testing.assert_array_equal(
            copy.read(np.array([7, 2])), store.read_rows([7, 2], ["pixels/map"])["pixels/map"]
        )


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_is_not_on_the_axis_is_refused(store, tmp_path, row):
    write_all(store, digests(10))
    with (
        RowCopy(store, "status", tmp_path) as copy,
        pytest.raises(ValueError, match=f"row {row} is not on an axis of 10"),
    ):
        copy.read(np.array([0, row]))
