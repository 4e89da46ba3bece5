"""Versions on disk: files from before there were versions are read, and what a newer program wrote
is refused in one line by every command that reads it.
"""

import json
import pathlib

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from storage import open_workspace
from storage.admin.catalog import refresh
from storage.admin.verify import verify
from storage.arrays.ledger import ShardRecord
from storage.contents.explanations import (
    Cost,
    ExplanationRecord,
    RunRecord,
    load_record,
    load_runs,
    save_record,
    save_run,
)
from storage.contents.models import ModelRecord, save_model
from storage.errors import OtherFormat
from storage.layout import EXPLANATION_RECORD, FORMAT, MODEL_RECORD, explanation_path, model_path
from tests.storage.small import digests, values, write_all
from tests.storage.test_models_store import HISTORY, weights_file
from tests.storage.test_tables import photos

EXPLAIN = "0123456789ab"


@pytest.fixture
def whole(ws, store, tmp_path):
    """A workspace with photographs, a model and an explanation of it, made by a run."""
    with ws.lock():
        ws.write_table("photos", photos(10))
        model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
        write_all(store)
        save_record(ws.files, ExplanationRecord(EXPLAIN, model_id, "p"))
    return ws


def files_with_a_version(ws) -> dict[str, str]:
    (model,) = ws.files.names("models")
    return {
        "workspace": FORMAT,
        "ledger": f"{explanation_path(EXPLAIN)}/ledger/000001.json",
        "model": model_path(model, MODEL_RECORD),
        "explanation": explanation_path(EXPLAIN, EXPLANATION_RECORD),
    }


def test_a_store_of_a_newer_version_is_refused(whole, store):
    name = f"{store.path}/zarr.json"
    root = json.loads(whole.files.read(name))
    root["attributes"]["format"] = 2
    whole.files.write_json(name, root)
    for command in ("status", "verify"):
        done = CliRunner().invoke(app, [command, whole.location])
        assert done.exit_code == 1
        assert f"{store.path} was written by a newer dr-explain (format 2;" in done.stderr


def change(ws, name: str, **values) -> None:
    """Rewrites a JSON file with other values; None takes a value out."""
    told = json.loads(ws.files.read(name)) | values
    ws.files.write_json(name, {key: value for key, value in told.items() if value is not None})


@pytest.mark.parametrize("kind", ["workspace", "ledger", "model", "explanation"])
def test_every_file_carries_its_version(whole, kind):
    assert json.loads(whole.files.read(files_with_a_version(whole)[kind]))["format"] == 1


def test_files_without_a_version_are_of_the_first(whole, store):
    before = (whole.models(), whole.explanations(), store.records())
    for name in files_with_a_version(whole).values():
        change(whole, name, format=None)
    again = open_workspace(whole.location, must_exist=True)
    assert (again.models(), again.explanations(), store.records()) == before
    assert store.pending(digests(10)) == []
    assert verify(again) == []
    save_record(whole.files, whole.explanations()[0])
    name = files_with_a_version(whole)["explanation"]
    assert "format" not in json.loads(whole.files.read(name)), "it says so already: left alone"


# What a program of today cannot know of: a later version, and one that is no number.
@pytest.mark.parametrize("version", [2, "two"])
@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        (["status"], {"workspace", "ledger", "model", "explanation"}),
        (["verify"], {"workspace", "ledger", "model", "explanation"}),
        (["sql", "select 1"], {"workspace", "model", "explanation"}),
        (["show", "0_left"], {"workspace", "explanation"}),
        (["gc"], {"workspace", "model", "explanation"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_newer_version_is_refused_in_one_line(whole, command, kinds, version):
    for kind in sorted(kinds):
        name = files_with_a_version(whole)[kind]
        data = whole.files.read(name)
        change(whole, name, format=version)
        done = CliRunner().invoke(app, [command[0], whole.location, *command[1:]])
        assert done.exit_code == 1, kind
        (line,) = done.stderr.splitlines()
        where = whole.location if kind == "workspace" else str(pathlib.Path(whole.location, name))
        assert (
            f"{where} was written by a newer dr-explain (format {version}; this one reads up to"
            " 1): update dr-explain, or use another workspace" in line
        )
        whole.files.write(name, data)


@pytest.mark.parametrize("kind", ["workspace", "ledger", "model", "explanation"])
def test_a_newer_version_is_refused_before_anything_is_written(whole, store, kind):
    """What `dr run` calls: the lock, the choice of a model, the shards that are still to do."""
    name = files_with_a_version(whole)[kind]
    change(whole, name, format=2)
    before = whole.files.read(name)
    calls = {
        "workspace": lambda: whole.lock().__enter__(),
        "ledger": lambda: store.pending(digests(10)),
        "model": whole.models,
        "explanation": whole.explanations,
    }
    with pytest.raises(OtherFormat, match="was written by a newer dr-explain"):
        calls[kind]()
    assert whole.files.read(name) == before


def test_a_ledger_entry_of_a_newer_version_is_not_taken_for_a_torn_one(whole, store):
    name = files_with_a_version(whole)["ledger"]
    whole.files.write_json(name, {"format": 2, "rows": [4, 8]})
    with pytest.raises(OtherFormat):
        store.pending(digests(10))


def test_what_a_file_says_beyond_the_fields_is_kept(ws, tmp_path):
    record = ModelRecord(training_id="t", notes={"seed": 3, "git_commit": None})
    model_id = save_model(ws.files, weights_file(tmp_path), record, HISTORY)
    told = json.loads(ws.files.read(model_path(model_id, MODEL_RECORD)))
    assert told["format"] == 1
    assert (told["seed"], told["git_commit"], told["training_id"]) == (3, None, "t")
    assert not {"notes", "metrics", "imported_for"} & told.keys()
    (read,) = ws.models()
    assert read.notes == {"seed": 3, "git_commit": None}


def test_parts_of_a_record_are_read_back_as_they_were(ws, store):
    span = store.spans()[0]
    record = ShardRecord(images=3, seconds=1.5, failed={"1_left": "a reason"}, notes={"more": [1]})
    entry = store.write_shard(span, values(span), digests=digests(4), record=record)
    assert store.ledger.entry(0) == entry
    assert store.ledger.entries() == {0: entry}
    run = RunRecord("2026-01-01T00:00:00+00:00", "running", Cost(images=3, notes={"shards": 1}))
    save_run(ws.files, EXPLAIN, "1", run)
    assert load_runs(ws.files, EXPLAIN) == [run]


def test_the_views_are_not_made_of_a_newer_workspace(whole):
    change(whole, files_with_a_version(whole)["model"], format=2)
    with pytest.raises(OtherFormat):
        refresh(whole)


def test_an_explanation_says_what_it_was_made_with(ws):
    settings = {"quantities": ["stage0"], "layers": ["fc1"], "layer_quantity": "predicted"}
    save_record(ws.files, ExplanationRecord(EXPLAIN, "m", "p", settings))
    record = load_record(ws.files)
    assert (record.quantities, record.layers) == (["stage0"], ["fc1"])
    assert record.layer_quantity == "predicted"
