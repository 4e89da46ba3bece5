"""Whole files can still be wrong: maps against their gaps, tables against their arrays. Each
defect is found, and nothing else.
"""

from dataclasses import replace

import numpy as np
import pytest

from storage import open_workspace
from storage.admin.verify import verify
from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ShardedStore
from storage.contents.explanations import (
    DONE,
    FAILED,
    Cost,
    ExplanationRecord,
    RunRecord,
    explanation_specs,
    save_record,
    save_run,
)
from storage.layout import attributions_path
from tasks.access.status import describe
from tests.storage.small import image_ids
from tests.storage.test_tables import example, photos

EXPLAIN, SHARD, SIZE, IMAGES = "0123456789ab", 4, 8, 6
QUANTITIES = ("stage0", "stage1")


def complete(images: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays in which every map sums to F(x) − F(x') + gap exactly, before rounding."""
    random = np.random.default_rng(seed)
    maps = (random.standard_normal((images, 2, SIZE, SIZE)) * 1e-4).astype(np.float32)
    outcome, baseline = random.random((2, images, 2)).astype(np.float32)
    gap = maps.astype(np.float64).sum((2, 3)) - (outcome.astype(np.float64) - baseline)
    return {
        "pixels/attribution": maps,
        "pixels/outcome": outcome,
        "pixels/baseline_outcome": baseline,
        "pixels/gap": gap.astype(np.float32),
        "pixels/map_error": np.zeros((images, 2), np.float32),
        "pixels/points": np.full((images, 2), 4, np.int32),
        "pixels/converged": np.ones((images, 2), bool),
        "pixels/status": np.full(images, DONE, np.uint8),
    }


def write(store, span, arrays, **record):
    names = store.image_ids[span.rows]
    store.write_shard(span, arrays, digests=names, record=ShardRecord(**record))
    done = [row for row in range(span.images) if arrays["pixels/status"][row] == DONE]
    rows = [
        example("attributions")
        .iloc[:1]
        .assign(
            image_id=names[row], quantity=name, gap=arrays["pixels/gap"][row, index], failure=None
        )
        .to_dict("records")[0]
        for row in done
        for index, name in enumerate(QUANTITIES)
    ]
    open_workspace(store.files.location).write_table(
        "attributions", rows, partition=EXPLAIN, part=f"{span.index:05d}"
    )


@pytest.fixture
def explained(ws):
    ws.write_table("photos", photos(IMAGES).assign(split="test"))
    store = ShardedStore.create_or_open(
        ws.files, attributions_path(EXPLAIN), explanation_specs(QUANTITIES, SIZE, {}), SHARD
    )
    store.extend(image_ids(IMAGES))
    for span in store.spans():
        write(store, span, complete(span.images, span.index))
    save_record(ws.files, ExplanationRecord(EXPLAIN, "m", "p"))
    return store


def test_rounded_maps_agree_with_their_gaps_and_tables_with_their_arrays(explained):
    assert verify(open_workspace(explained.files.location)) == []


@pytest.mark.parametrize(
    "by", [1.02, float("nan"), 0.0], ids=["a little more", "not a number", "nothing"]
)
def test_a_map_that_is_not_the_gaps_is_found_and_only_its_shard_is_unmarked(explained, by):
    span = explained.spans()[1]
    arrays = complete(span.images, span.index)
    arrays["pixels/attribution"][1, 1] += np.float32(
        1e-3
    )  # a sum far from 0, so that a little more of it is much
    arrays["pixels/gap"][1, 1] += np.float32(1e-3 * SIZE**2)
    write(explained, span, arrays)
    assert verify(open_workspace(explained.files.location)) == []
    arrays["pixels/attribution"][1, 1] *= np.float32(by)
    write(explained, span, arrays)
    (row,) = verify(open_workspace(explained.files.location))
    assert (row["kind"], row["where"], row["repair"]) == (
        "gap",
        f"{explained.path} shard 1",
        "possible",
    )
    assert "the map of 5_left, quantity 1, sums to" in row["detail"]
    verify(open_workspace(explained.files.location), repair=True)
    assert [one.shard for one in explained.records()] == [0]


def test_an_image_that_was_set_aside_needs_no_gap_and_status_says_why(explained):
    span = explained.spans()[0]
    arrays = complete(span.images, 0)
    arrays["pixels/attribution"][2] = np.nan
    arrays["pixels/status"][2] = FAILED
    write(explained, span, arrays, failed={"2_left": "its results are not finite"})
    assert verify(open_workspace(explained.files.location)) == []
    rows = {
        row["id"]: row["detail"]
        for row in describe(open_workspace(explained.files.location))
        if row["what"] == "set aside"
    }
    assert rows == {"2_left": "its results are not finite"}


@pytest.mark.parametrize(
    ("spoil", "detail"),
    [
        (
            lambda frame: frame.assign(image_id=frame["image_id"].replace("1_left", "5_left")),
            "such as 5_left",
        ),
        (
            lambda frame: frame[frame["image_id"] != "1_left"],
            "lacks 1 images of its shard, such as 1_left",
        ),
        (lambda frame: frame.assign(gap=frame["gap"] * 1.01), "has other gaps than the arrays"),
    ],
    ids=["another shard's image", "an image missing", "other numbers"],
)
def test_a_table_that_does_not_match_its_arrays_is_found_and_removed(explained, spoil, detail):
    ws = open_workspace(explained.files.location)
    frame = ws.frame("attributions", explain_id=EXPLAIN).drop(columns="explain_id")
    first = frame[frame["image_id"].isin(image_ids(SHARD))]
    path = ws.write_table("attributions", spoil(first), partition=EXPLAIN, part="00000")
    rows = verify(ws)
    assert {row["where"] for row in rows if row["kind"] == "table"} >= {path}
    assert any(detail in row["detail"] for row in rows), rows
    verify(ws, repair=True)
    assert not ws.files.exists(path)
    assert not [row for row in verify(ws) if row["where"] == path]


def test_a_table_older_than_its_shard_is_only_out_of_date(explained):
    """A shard that grew is aggregated by the next stage; until then its old part is no defect."""
    explained.write_shard(explained.spans()[0], complete(SHARD, 7), digests=["new"] * SHARD)
    assert verify(open_workspace(explained.files.location)) == []


def test_status_shows_what_was_planned_against_what_it_took(explained):
    planned = Cost(
        images=6,
        seconds=7200.0,
        bytes=2**20,
        memory_bytes=2**31,
        passes=640,
        basis="calibration",
    )
    actual = Cost(seconds=3600.0, bytes=2**21, worker_bytes=2**29, workers=2, passes=600)
    record = RunRecord("2026-01-02T03:04:05+00:00", "completed", planned, actual)
    save_run(explained.files, EXPLAIN, "1", record)
    unknown = replace(planned, seconds=None)
    save_run(
        explained.files,
        EXPLAIN,
        "2",
        replace(record, state="running", planned=unknown, actual=None),
    )
    done, killed = (
        row["detail"]
        for row in describe(open_workspace(explained.files.location))
        if row["what"] == "planned"
    )
    assert (
        "planned 2 h 0 min against 1 h 0 min, 1.0 MB against 2.1 MB, 2.1 GB of memory against"
        " 1.1 GB of memory" in done
    )
    assert "640 passes against 600 passes, by calibration" in done
    assert (
        killed == "running 2026-01-02 03:04: planned 1.0 MB, 2.1 GB of memory, 640 passes, by"
        " calibration"
    )
    assert verify(open_workspace(explained.files.location)) == []
