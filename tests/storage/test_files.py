"""Small files appear whole or not at all, here and on an object store; ids name contents."""

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from storage import open_workspace
from storage.admin.verify import verify
from storage.arrays.specs import round_mantissa
from storage.arrays.store import ShardedStore
from storage.errors import NotThere, Refused
from storage.files.files import Files
from storage.files.scratch import remove_scratch, scratch_folder
from storage.ids import content_id
from tests.storage.small import SHARD, SPECS, digests, image_ids, tree_bytes, values, write_all
from tests.storage.test_tables import example, photos


@pytest.fixture(params=["local", "memory"])
def files(request, tmp_path):
    found = Files(str(tmp_path / "files") if request.param == "local" else "memory://files-test")
    yield found
    found.remove_tree("")


def test_files_are_written_listed_read_and_removed(files):
    assert files.names("a") == []
    files.write("a/b/one.json", b"1")
    files.write("a/two", b"22")
    files.write("a/two", b"222")
    assert (files.read("a/two"), files.size("a/two"), files.size("a/three")) == (b"222", 3, None)
    assert files.names("a") == ["b", "two"]
    assert files.walk("") == ["a/b/one.json", "a/two"]
    assert files.read_many(["a/two", "a/three", "a/b/one.json"]) == [b"222", None, b"1"]
    assert files.read_many(["a/three"]) == [None]
    assert files.read_many(["a/two"]) == [b"222"]
    assert files.modified("a/two") > 0
    assert files.modified("a/three") == 0
    files.remove("a/two")
    files.remove("a/two")
    assert not files.exists("a/two")
    with pytest.raises(FileNotFoundError):
        files.read("a/two")


def test_a_file_that_cannot_be_read_is_not_taken_for_an_absent_one(tmp_path):
    files = Files(str(tmp_path))
    files.write("a/kept", b"1")
    files.write("a/folder/one", b"1")
    with pytest.raises(IsADirectoryError):
        files.read_many(["a/kept", "a/folder"])


def test_json_is_canonical_and_torn_json_is_absent(files):
    files.write_json("x.json", {"b": np.float32(0.5), "a": [np.int64(1), float("nan")]})
    assert files.read("x.json") == b'{\n "a": [\n  1,\n  null\n ],\n "b": 0.5\n}\n'
    files.write("x.json", files.read("x.json")[:-5])
    assert files.read_json("x.json") is None
    assert files.read_json("y.json") is None


def test_a_full_disk_leaves_the_old_file_and_no_leftover(tmp_path, monkeypatch):
    files = Files(str(tmp_path))
    files.write("x", b"old")

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.write("x", b"new")
    assert tree_bytes(tmp_path) == {"x": b"old"}


def test_the_whole_workspace_works_on_an_object_store():
    ws = open_workspace("memory://workspace-test")
    path = "explanations/0123456789ab/attributions.zarr"
    store = ShardedStore.create_or_open(ws.files, path, SPECS, SHARD)
    store.extend(image_ids(10))
    assert write_all(store) == [0, 1, 2]
    assert write_all(ShardedStore.open(ws.files, path)) == []
    np.testing.assert_array_equal(
        store.read(store.spans()[1])["pixels/gap"], values(store.spans()[1])["pixels/gap"]
    )
    ws.write_table("photos", photos(10))
    assert ws.photos()["image_id"].tolist() == image_ids(10)
    ws.write_table("units", example("units"), partition="e", digest="d")
    assert ws.has_part("units", "e", "part", digest="d")
    assert len(ws.frame("units", explain_id="e", unit=1)) == 1
    assert verify(ws) == []
    ws.files.write(
        "explanations/0123456789ab/explanation.json",
        b'{"explain_id": "0123456789ab", "created": "now"}',
    )
    assert isinstance(ws.attributions(), xr.DataTree)
    ws.files.write(f"{path}/status/c/1", b"torn")
    assert [row["where"] for row in verify(ws, repair=True)] == [f"{path} shard 1"]
    assert [span.index for span in store.pending(digests(10))] == [1]
    ws.files.remove_tree("")
    assert not ws.files.exists("catalog/photos.parquet")


def test_scratch_is_made_and_removed(ws):
    folder = scratch_folder(ws.files, "training")
    assert folder.is_dir()
    remove_scratch(ws.files, "training")
    assert not folder.exists()


@pytest.mark.parametrize("location", ["", "  "])
def test_a_workspace_needs_a_place(location):
    with pytest.raises(ValueError, match="the workspace needs a folder or a URL"):
        open_workspace(location)


def test_a_file_is_no_workspace(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; a workspace is a folder"):
        open_workspace(tmp_path / "file")


def test_whoever_only_reads_hears_that_there_is_no_workspace(tmp_path, monkeypatch):
    for location in (tmp_path / "absent", tmp_path, "memory://no-workspace"):
        with pytest.raises(NotThere, match=r"there is no workspace at .*: check the place"):
            open_workspace(location, must_exist=True)
    assert list(tmp_path.iterdir()) == []
    for location in (tmp_path / "made", "memory://made-workspace"):
        open_workspace(location).write_table("photos", photos(1))
        assert len(open_workspace(location, must_exist=True).photos()) == 1

    def refused(self, folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Files, "names", refused)
    with pytest.raises(Refused, match=r"cannot be read: .*Permission denied; check the place"):
        open_workspace(tmp_path, must_exist=True)


def test_ids_are_the_same_in_every_process_and_version():
    """Change these and every workspace in the world is recomputed."""
    assert (
        content_id({"size": 256, "crop": 0.1, "layers": ["stem"], "none": None, "yes": True})
        == "e42de3631a77"
    )
    assert content_id("a", {"b": 1}) == content_id("a", {"b": 1.0})
    assert content_id({"b": 1}) != content_id({"b": "1"})
    assert content_id({"b": True}) != content_id({"b": 1})
    with pytest.raises(ValueError, match="nan has no place in an id"):
        content_id(math.nan)
    with pytest.raises(TypeError, match="object has no canonical form"):
        content_id(object())


@given(st.lists(st.floats(width=32), max_size=20), st.integers(1, 22))
def test_rounding_loses_no_more_than_it_says(numbers, bits):
    given_values = np.array(numbers, np.float32)
    rounded = round_mantissa(given_values, bits)
    finite = np.isfinite(given_values)
    np.testing.assert_array_equal(rounded[~finite], given_values[~finite])
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(given_values))
    error = np.abs(rounded[finite].astype(float) - given_values[finite].astype(float))
    # Below the smallest normal number a float has no relative precision; there the bound is
    # absolute.
    bound = np.maximum(
        np.abs(given_values[finite].astype(float)), float(np.finfo(np.float32).tiny)
    ) * 2.0 ** -(bits + 1)
    huge = np.abs(given_values[finite]) > np.finfo(np.float32).max * (1 - 2.0 ** -(bits + 1))
    assert np.all((error <= bound) | huge)
    np.testing.assert_array_equal(round_mantissa(rounded, bits), rounded)


def test_ties_go_to_the_even_neighbour():
    # With 1 bit the numbers between 1 and 2 are 1 and 1.5; between 2 and 4 they are 2 and 3.
    ties = np.array([1.25, 1.75, 2.5, 3.5, -1.25, 0.0], np.float32)
    assert round_mantissa(ties, 1).tolist() == [1.0, 2.0, 2.0, 4.0, -1.0, 0.0]
