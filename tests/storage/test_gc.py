"""Listing removes nothing; removing takes what is named or old, never what something else needs,
and leaves a whole workspace.
"""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from storage import open_workspace
from storage.admin.catalog import query, refresh
from storage.admin.gc import collect, listing
from storage.admin.verify import verify
from storage.arrays.store import ShardedStore
from storage.contents.explanations import ExplanationRecord, save_record
from storage.contents.models import ModelRecord, save_model
from storage.errors import NotThere, Refused, WorkspaceLocked
from storage.files.scratch import scratch_folder
from storage.layout import attributions_path, fundus_path
from tests.storage.small import SHARD, SPECS, image_ids, tree_bytes, write_all
from tests.storage.test_models_store import HISTORY, weights_file
from tests.storage.test_tables import example, photos

OLD, NEW = "00000000000a", "00000000000b"


def explain(ws, explain_id, model_id, preprocess_id):
    store = ShardedStore.create_or_open(ws.files, attributions_path(explain_id), SPECS, SHARD)
    store.extend(image_ids(10))
    write_all(store)
    save_record(ws.files, ExplanationRecord(explain_id, model_id, preprocess_id))
    ws.write_table("heatmap_stats", example("heatmap_stats"), partition=explain_id, part="000000")
    ws.files.write(f"report/{explain_id}/index.html", b"<html>")


@pytest.fixture
def full(ws, tmp_path):
    """Two explanations of two models over one set of fundi, and fundi that nothing needs."""
    ws.write_table("photos", photos(10).assign(split="test", stage=[0, 1] * 5))
    for preprocess_id in ("fundi-unused", "fundi"):
        store = ShardedStore.create_or_open(ws.files, fundus_path(preprocess_id), SPECS, SHARD)
        store.extend(image_ids(10))
        write_all(store)
    first = save_model(
        ws.files, weights_file(tmp_path), ModelRecord(training_id="training-a"), HISTORY
    )
    other = tmp_path / "other"
    other.mkdir()
    second = save_model(
        ws.files,
        weights_file(other, seed=2),
        ModelRecord(training_id="training-b", preprocess_id="fundi"),
        HISTORY,
    )
    for explain_id, model_id in ((OLD, first), (NEW, second)):
        explain(ws, explain_id, model_id, "fundi")
        ws.write_table(
            "evaluation",
            example("evaluation"),
            partition=model_id,
            part=f"localisation-{explain_id}",
        )
    refresh(ws)
    return ws


def states(ws, **options):
    return {row["id"]: row["state"] for row in listing(ws, **options)}


def test_listing_says_what_is_old_and_who_needs_what_and_touches_nothing(full):
    before = tree_bytes(Path(full.location))
    rows = {row["id"]: row for row in listing(full)}
    first, second = (record.model_id for record in full.models())
    assert states(full) == {
        OLD: "old",
        NEW: "newest",
        first: "old",
        second: "newest",
        "fundi": "newest",
        "fundi-unused": "old",
    }
    assert set(states(full, keep=2).values()) == {"newest", "old"}
    assert states(full, keep=2)[OLD] == states(full, keep=2)[first] == "newest"
    assert rows["fundi"]["needed_by"] == f"{OLD}, {NEW}, {second}"
    assert rows[NEW]["needs"] == f"{second}, fundi"
    assert all(row["bytes"] > 0 for row in rows.values())
    assert tree_bytes(Path(full.location)) == before


def test_removing_the_old_leaves_the_newest_whole_and_nothing_of_the_old(full):
    kept = {
        name: data
        for name, data in tree_bytes(Path(full.location)).items()
        if NEW in name or "/fundi.zarr" in name
    }
    gone = collect(full, old=True)
    assert {row["id"] for row in gone} == {OLD, "fundi-unused", full_first_model(gone)}
    left = tree_bytes(Path(full.location))
    assert not [name for name in left if OLD in name or "fundi-unused" in name]
    assert {name: left[name] for name in kept} == kept
    assert verify(full) == []
    assert query(full, "select distinct explain_id from heatmap_stats")["explain_id"].tolist() == [
        NEW
    ]
    assert set(states(full).values()) == {"newest"}
    assert collect(full, old=True) == []


def full_first_model(rows):
    return next(row["id"] for row in rows if row["kind"] == "model")


def test_what_something_else_needs_is_refused_before_anything_goes(full):
    first = full.models()[0].model_id
    before = tree_bytes(Path(full.location))
    with pytest.raises(
        Refused, match=f"model {first} is needed by {OLD}; remove that too, or neither"
    ):
        collect(full, [first])
    with pytest.raises(Refused, match="holds nothing called nonsense"):
        collect(full, [OLD, "nonsense"])
    changed = {
        name for name, data in tree_bytes(Path(full.location)).items() if before.get(name) != data
    }
    assert changed <= {".locks/run.lock", "workspace.json"}
    assert {row["id"] for row in collect(full, [first, OLD])} == {first, OLD}


def test_even_the_newest_goes_when_it_is_named(full):
    collect(full, [NEW])
    assert full.latest_explanation() == OLD
    collect(full, [OLD])
    assert not [name for name in tree_bytes(Path(full.location)) if OLD in name or NEW in name], (
        "their models stay"
    )
    with pytest.raises(NotThere):
        full.latest_explanation()


def test_nothing_is_removed_while_a_run_is_under_way(full):
    with full.lock("run"), pytest.raises(WorkspaceLocked):
        collect(full, old=True)
    assert OLD in states(full)


def test_a_removal_killed_after_any_step_leaves_what_the_next_one_finds(full, monkeypatch):
    """Stopped before the first, second, … place is removed: the workspace still verifies, and
    the rest goes next time.
    """
    import storage.admin.gc

    remove, whole = storage.admin.gc._remove, Path(full.location)
    backup = whole.with_name("backup")
    shutil.copytree(whole, backup)
    for allowed in range(100):
        steps = []

        def stops(ws, place, steps=steps, allowed=allowed):
            if len(steps) == allowed:
                raise KeyboardInterrupt
            steps.append(place)
            remove(ws, place)

        monkeypatch.setattr(storage.admin.gc, "_remove", stops)
        try:
            collect(full, old=True)
        except KeyboardInterrupt:
            monkeypatch.undo()
            assert not [
                row for row in verify(full) if row["kind"] != "model" and row["repair"] != "no"
            ], steps
            if steps:
                assert full.latest_explanation() == NEW
            collect(full, old=True)
            assert not [name for name in tree_bytes(whole) if OLD in name or "fundi-unused" in name]
            shutil.rmtree(whole)
            shutil.copytree(backup, whole)
            continue
        monkeypatch.undo()
        break
    assert allowed > 6


def test_what_an_interrupted_stage_left_is_unfinished_and_goes_with_the_old(full):
    store = ShardedStore.create_or_open(full.files, attributions_path("00000000000c"), SPECS, SHARD)
    full.files.write("report/00000000000d/index.html", b"<html>")
    assert (states(full)["00000000000c"], states(full)["00000000000d"]) == (
        "unfinished",
        "unfinished",
    )
    collect(full, old=True)
    assert not full.files.exists(f"{store.path}/zarr.json")
    assert not full.files.exists("report/00000000000d/index.html")


def test_checkpoints_go_once_a_model_has_come_of_them(full):
    for name in ("training-a-1", "training-z-1"):
        (scratch_folder(full.files, name) / "checkpoint").write_bytes(b"12")
    assert {name: state for name, state in states(full).items() if name.endswith("-1")} == {
        "training-a-1": "old",
        "training-z-1": "resumable",
    }
    collect(full, old=True)
    assert [path.name for path in (Path(full.location) / ".scratch").iterdir()] == ["training-z-1"]


def test_an_object_store_is_cleaned_too():
    ws = open_workspace("memory://gc-test")
    try:
        for explain_id in (OLD, NEW):
            explain(ws, explain_id, "m", "p")
        collect(ws, old=True)
        assert not [name for name in ws.files.walk("") if OLD in name]
        assert ws.attributions(NEW)["status"].values.tolist() == [1] * 10
    finally:
        ws.files.remove_tree("")


def test_the_command_lists_by_default_and_removes_when_told(full):
    def dr(*arguments):
        return CliRunner().invoke(app, ["gc", full.location, *arguments])

    listed = dr()
    assert listed.exit_code == 0
    assert OLD in listed.output
    assert OLD in states(full)
    assert dr("--keep", "0").exit_code == 2
    with full.lock("run"):
        locked = dr("--delete-old")
    assert locked.exit_code == 1
    assert len(locked.output.strip().splitlines()) == 1
    assert dr("--delete", OLD).exit_code == 0
    assert OLD not in states(full)
