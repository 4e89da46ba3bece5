"""Verify finds everything that is broken, and the repair makes the next run do just that again."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.admin.verify import verify
from storage.contents.explanations import ExplanationRecord, save_record
from storage.contents.models import ModelRecord, save_model
from tasks.access.status import describe
from tests.storage.small import SPECS, digests, image_ids, write_all
from tests.storage.test_models_store import HISTORY, weights_file
from tests.storage.test_tables import example, photos

EXPLAIN = "0123456789ab"


@pytest.fixture
def full(ws, store, tmp_path):
    """A workspace in which everything is well."""
    ws.write_table("photos", photos(10).assign(split="test", stage=[0, 1] * 5))
    write_all(store)
    save_record(ws.files, ExplanationRecord(EXPLAIN, "m"))
    save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    ws.write_table("heatmap_stats", example("heatmap_stats"), partition=EXPLAIN, part="000000")
    ws.write_table("runs", example("runs"), part="1")
    return ws


def path_of(store, array, shard) -> Path:
    spec = next(spec for spec in SPECS if spec.path == array)
    return Path(store.files.path(f"{store.path}/{spec.shard_file(shard)}"))


def test_all_is_well(full):
    assert verify(full) == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "detail"),
    [
        (truncate, "bytes of"),
        (flip, "has other contents than were written"),
        (Path.unlink, "is absent"),
    ],
    ids=["torn", "flipped bit", "missing"],
)
def test_a_broken_shard_whose_ledger_says_done_is_found_and_only_it_is_done_again(
    full, store, spoil, detail
):
    spoil(path_of(store, "pixels/map", 1))
    assert store.pending(digests(10)) == [], "the ledger alone cannot know"
    (row,) = verify(full)
    assert (row["kind"], row["where"], row["repair"]) == (
        "shard",
        f"{store.path} shard 1",
        "possible",
    )
    assert detail in row["detail"]
    (row,) = verify(full, repair=True)
    assert row["repair"] == "done"
    assert write_all(store) == [1]
    assert verify(full) == []


def test_a_torn_ledger_entry_is_named_and_removed(full, store):
    Path(full.files.path(store.ledger.name(2))).write_text("{")
    (row,) = verify(full, repair=True)
    assert row["kind"] == "ledger"
    assert not full.files.exists(store.ledger.name(2))
    assert write_all(store) == [2]


def test_an_entry_for_other_images_is_found(full, store):
    entry = store.ledger.entry(0)
    store.ledger.mark(replace(entry, image_ids=entry.image_ids[::-1]))
    (row,) = verify(full)
    assert row["detail"] == "was written for other images"


def test_images_that_the_manifest_does_not_know_are_found(full, store):
    store.extend(["99_left"])
    (row,) = verify(full)
    assert row["detail"] == "1 images are not in the manifest, such as 99_left"


@pytest.mark.parametrize(
    ("part", "detail"),
    [
        (example("heatmap_stats"), "repeats rows of one image_id, source, quantity"),
        (
            example("heatmap_stats").assign(image_id="77_left"),
            "speaks of 1 images that are not in the manifest, such as 77_left",
        ),
    ],
    ids=["repeated keys", "unknown image"],
)
def test_a_table_with_wrong_rows_is_found(full, part, detail):
    path = full.write_table("heatmap_stats", part, partition=EXPLAIN, part="000001")
    (row,) = verify(full, repair=True)
    assert (row["kind"], row["where"], row["detail"]) == ("table", path, detail)
    assert not full.files.exists(path)
    assert verify(full) == []


def test_a_torn_part_of_a_table_is_found(full):
    truncate(Path(full.files.path(f"tables/heatmap_stats/explain_id={EXPLAIN}/000000.parquet")))
    (row,) = verify(full)
    assert row["detail"].startswith("does not read")


def test_altered_weights_are_found_but_cannot_be_repaired(full):
    flip(Path(full.files.path(f"models/{full.latest_model()}/model.weights.h5")))
    (row,) = verify(full, repair=True)
    assert (row["kind"], row["repair"]) == ("model", "no")


def test_leftovers_of_interrupted_writes_are_removed_once_they_are_old(full, store):
    import os

    leftover = path_of(store, "pixels/map", 0).with_suffix(".0123.partial")
    leftover.write_bytes(b"half a shard")
    assert verify(full) == [], "a young one may be in use"
    os.utime(leftover, (0, 0))
    (row,) = verify(full, repair=True)
    assert row["kind"] == "leftover"
    assert not leftover.exists()


def test_status_counts_what_is_there(full, store):
    store.extend([])
    rows = describe(full)
    assert {tuple(row) for row in rows} == {("what", "id", "images", "done", "of", "detail")}
    assert {"photographs", "explanation", "model", "table", "last run"} <= {
        row["what"] for row in rows
    }
    counts = {row["what"]: (row["images"], row["detail"]) for row in rows}
    assert counts["photographs"] == (5, "test 5")
    assert counts["no longer there"][0] == 5
    assert counts["stages"] == (5, "0 5")
    found = next(row for row in rows if row["what"] == "explanation")
    assert (found["images"], found["done"], found["of"]) == (10, 10, 10)
    assert found["detail"].startswith("3 of 3 shards, ")
    assert found["detail"].endswith("2 s of work")
    store.ledger.drop(0)
    found = next(row for row in describe(full) if row["what"] == "explanation")
    assert (found["done"], found["detail"][:13]) == (6, "2 of 3 shards")


def test_status_of_an_empty_workspace(ws):
    assert [row["what"] for row in describe(ws)] == ["photographs"]


def test_an_image_axis_shorter_than_its_ledger_is_found(full, store):
    store.extend(image_ids(6, start=10))
    write_all(store)
    rows = verify(full)
    assert [row["kind"] for row in rows] == ["store"]
