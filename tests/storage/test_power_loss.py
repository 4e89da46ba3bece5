"""What is marked as finished is on the disk: no power loss leaves a mark on a lost file."""

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dr_lib.training.checkpoint import Checkpoint, write_checkpoint
from storage import open_workspace
from storage.arrays.store import ShardedStore
from storage.contents.explanations import ExplanationRecord, save_record
from storage.contents.snapshots import replace_set
from storage.files.files import Files
from tests.storage.small import SHARD, SPECS, digests, image_ids, values
from tests.storage.test_tables import example, photos

PATH = "explanations/0123456789ab/attributions.zarr"


class Disk:
    """Knows what was flushed of the files below a folder, as a disk without a battery does."""

    def __init__(self, root: Path):
        self.root, self.contents, self.listings = root, {}, {}
        self.calls: list[
            str
        ] = []  # "flush a/b", "name a/b" (renamed to) and "remove a/b", in their order

    def flushed(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_dir():
            self.listings[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()
        self.note("flush", path)

    def note(self, call: str, path: Path) -> None:
        if path.is_relative_to(self.root):
            self.calls.append(f"{call} {path.relative_to(self.root).as_posix()}")

    def after_power_loss(self) -> dict[str, bytes | None]:
        """The files that are left below the folder, each with what is left in it (None: nobody
        can say).
        """
        found, folders = {}, [self.root]
        while folders:
            folder = folders.pop()
            for name, inode in self.listings.get(folder, {}).items():
                path = folder / name
                if path.is_dir():
                    folders.append(path)
                else:
                    found[path.relative_to(self.root).as_posix()] = self.contents.get(inode)
        return found


@pytest.fixture
def disk(tmp_path, monkeypatch):
    disk, real = (
        Disk(tmp_path),
        {name: getattr(os, name) for name in ("fsync", "replace", "remove")},
    )

    def fsync(handle):
        real["fsync"](handle)
        disk.flushed(handle)

    def replace(old, new, **how):
        real["replace"](old, new, **how)
        disk.note("name", Path(new))

    def remove(path, **how):
        real["remove"](path, **how)
        disk.note("remove", Path(path))

    for function in (fsync, replace, remove):
        monkeypatch.setattr(os, function.__name__, function)
    return disk


def kept(disk: Disk, folder: Path) -> bool:
    """Whether a power loss now would leave every file of a folder as it is."""
    left = disk.after_power_loss()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return all(
        left.get(path.relative_to(disk.root).as_posix()) == path.read_bytes() for path in files
    )


def test_a_shards_files_and_their_folders_are_on_the_disk_before_its_mark(
    disk, tmp_path, monkeypatch
):
    ws = open_workspace(tmp_path / "new" / "workspace")
    store = ShardedStore.create_or_open(ws.files, PATH, SPECS, SHARD)
    assert kept(disk, tmp_path / "new"), "the empty store"
    store.extend(image_ids(10))
    assert kept(disk, tmp_path / "new"), "the longer axis"
    mark, asked = type(store.ledger).mark, []

    def marking(self, entry):
        asked.append(kept(disk, tmp_path / "new"))
        mark(self, entry)

    monkeypatch.setattr(type(store.ledger), "mark", marking)
    for again in (0, 1):  # the second time over the first one's files
        disk.calls.clear()
        span = store.spans()[1]
        store.write_shard(span, values(span, again), digests=digests(4, again))
        assert asked.pop(), "all of the shard, when its mark is about to be made"
        assert kept(disk, tmp_path / "new"), "and its mark, when it is told to be written"

    mark = f"new/workspace/{PATH.rpartition('/')[0]}/ledger/000001.json"
    ledger = os.path.dirname(mark)
    assert disk.calls[:2] == [
        f"remove {mark}",
        f"flush {ledger}",
    ], "no old mark speaks of a shard that is being replaced"
    last = {call: place for place, call in enumerate(disk.calls)}
    data = [last[f"flush new/workspace/{PATH}/{spec.shard_file(1)}"] for spec in SPECS]
    folders = [
        last[f"flush new/workspace/{PATH}{folder}"]
        for folder in ("", "/pixels/map/c", "/pixels/map/c/1/0", "/status/c")
    ]
    assert max(data) < min(folders)
    assert max(folders) < last[f"name {mark}"] < last[f"flush {ledger}"]


def test_a_shard_costs_a_flush_a_file_and_one_a_folder(disk, tmp_path):
    ws = open_workspace(tmp_path / "workspace")
    store = ShardedStore.create_or_open(ws.files, PATH, SPECS, SHARD)
    store.extend(image_ids(10))
    disk.calls.clear()
    span = store.spans()[0]
    store.write_shard(span, values(span), digests=digests(4))
    flushed = [call for call in disk.calls if call.startswith("flush") and "/ledger" not in call]
    assert len(set(flushed)) == len(flushed) - 1, (
        "only the folder that gets the ledger's has two reasons"
    )
    assert sum(Path(tmp_path / call.removeprefix("flush ")).is_file() for call in flushed) == len(
        SPECS
    )


def test_table_parts_records_and_sets_of_arrays_are_on_the_disk_when_they_are_told_to_be(
    disk, tmp_path
):
    ws = open_workspace(tmp_path / "new" / "workspace")
    sets = xr.Dataset({"mean": (("group", "y"), np.ones((2, 3)))})
    for write in (
        lambda: ws.write_table("photos", photos(3)),
        lambda: ws.write_table("units", example("units"), partition="e", digest="d"),
        lambda: save_record(ws.files, ExplanationRecord("0123456789ab", "m")),
        lambda: replace_set(ws.files, "0123456789ab", "groups", sets),
        lambda: ws.files.write("report/index.html", b"old"),
        lambda: ws.files.write("report/index.html", b"new"),
    ):
        write()
        assert kept(disk, tmp_path / "new")
    ws.files.remove("report/index.html")
    assert "new/workspace/report/index.html" not in disk.after_power_loss()


def test_a_set_of_arrays_is_on_the_disk_before_the_file_that_names_it(disk, tmp_path, monkeypatch):
    ws, asked = open_workspace(tmp_path / "workspace"), []
    write_json = Files.write_json
    monkeypatch.setattr(
        Files, "write_json", lambda *given: (asked.append(kept(disk, tmp_path)), write_json(*given))
    )
    replace_set(
        ws.files, "0123456789ab", "groups", xr.Dataset({"mean": (("group", "y"), np.ones((2, 3)))})
    )
    assert asked == [True]


def test_a_checkpoint_is_on_the_disk_before_the_one_it_replaces_is_gone(disk, tmp_path):
    for step in (1, 2):
        write_checkpoint(
            tmp_path / "a" / "b" / "checkpoint.npz", Checkpoint([np.ones(3) * step], {"step": step})
        )
        assert kept(disk, tmp_path)
    name = disk.calls.index("name a/b/checkpoint.npz", 3)
    assert [call.split()[0] for call in disk.calls[name - 1 : name + 2]] == [
        "flush",
        "name",
        "flush",
    ]


def test_many_files_are_flushed_at_once_before_their_mark(disk, tmp_path):
    files = Files(str(tmp_path / "workspace"))
    names = [f"report/eyes/{number}.jpg" for number in range(20)]
    for name in names:
        files.write(name, name.encode(), flush=False)
    assert not kept(disk, tmp_path / "workspace")
    disk.calls.clear()
    files.flush(names)
    assert kept(disk, tmp_path / "workspace")
    assert len(disk.calls) == 20 + 3, "every file once, and each of its three folders once"


def test_an_object_store_is_asked_for_nothing_more(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("there is no local file to flush"))
    ws = open_workspace("memory://power-loss")
    store = ShardedStore.create_or_open(ws.files, PATH, SPECS, SHARD)
    store.extend(image_ids(4))
    (span,) = store.spans()
    store.write_shard(span, values(span), digests=digests(4))
    ws.write_table("units", pd.DataFrame(example("units")), partition="e")
    ws.files.flush(["tables/units"])
    ws.files.remove_tree("")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_written_to_all_the_same(
    tmp_path, monkeypatch, code
):
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    files = Files(str(tmp_path / "workspace"))
    files.write("a/b", b"1")
    files.flush(["a/b"])
    files.remove("a/b")
    write_checkpoint(tmp_path / "checkpoint.npz", Checkpoint([], {}))


def test_a_disk_that_is_full_only_when_it_is_flushed_leaves_the_old_file(tmp_path, monkeypatch):
    files = Files(str(tmp_path))
    files.write("x", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; free some space, then run again"):
        files.write("x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert files.read("x") == b"old"
