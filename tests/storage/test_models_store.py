"""Models: weights only, named by their hash, refused when they are anything else."""

from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest

from storage import open_workspace
from storage.contents.models import (
    ModelRecord,
    check_weights,
    find_record,
    load_history,
    load_record,
    local_weights,
    save_model,
    update_record,
)
from storage.errors import NotThere, Refused

HISTORY = pd.DataFrame({"step": [1, 2], "loss": [1.5, 1.25]})


def weights_file(folder, seed=0, name="some.weights.h5"):
    path = folder / name
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = (
            np.random.default_rng(seed).standard_normal((3, 4)).astype("float32")
        )
    return path


def test_a_model_is_stored_under_its_weights_hash_and_comes_back(ws, tmp_path):
    first = save_model(
        ws.files, weights_file(tmp_path), ModelRecord(metrics={"kappa": np.float32(0.5)}), HISTORY
    )
    assert len(first) == 12
    assert int(first, 16) >= 0
    record = load_record(ws.files, first)
    assert record.metrics == {"kappa": 0.5}
    assert record.weights_sha256.startswith(first)
    assert local_weights(ws.files, first).read_bytes() == weights_file(tmp_path).read_bytes()
    pd.testing.assert_frame_equal(load_history(ws.files, first), HISTORY)
    assert save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY) == first
    assert load_record(ws.files, first).created == record.created
    second = save_model(ws.files, weights_file(tmp_path, seed=1), ModelRecord(), HISTORY)
    assert ws.latest_model() == second
    assert [record.model_id for record in ws.models()] == [first, second]


def test_a_model_that_is_not_there_is_said_in_one_line(ws, tmp_path):
    with pytest.raises(NotThere, match="holds no models yet: run dr train"):
        ws.latest_model()
    model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    with pytest.raises(NotThere, match=f"no model ffffffffffff; there are {model_id}"):
        local_weights(ws.files, "f" * 12)


def test_altered_weights_are_refused(ws, tmp_path):
    model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    path = local_weights(ws.files, model_id)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refused, match="is not the file that was stored"):
        local_weights(ws.files, model_id)


def test_a_model_is_found_by_its_weights_whatever_their_file_is_called(ws, tmp_path):
    assert find_record(ws.files, weights_file(tmp_path)) is None
    model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    assert (
        find_record(ws.files, weights_file(tmp_path, name="another.weights.h5")).model_id
        == model_id
    )
    assert find_record(ws.files, weights_file(tmp_path, seed=1)) is None


def test_a_record_is_added_to_and_left_alone_where_it_says_so_already(ws, tmp_path):
    model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(notes={"seed": 3}), HISTORY)
    before = load_record(ws.files, model_id)
    update_record(ws.files, model_id, metrics={"test": {"qwk": float("nan"), "shape": (1, 2)}})
    assert load_record(ws.files, model_id) == replace(
        before, metrics={"test": {"qwk": None, "shape": [1, 2]}}
    )
    file = tmp_path / "workspace" / "models" / model_id / "model.json"
    written = file.stat().st_mtime_ns
    update_record(ws.files, model_id, metrics={"test": {"qwk": float("nan"), "shape": (1, 2)}})
    assert file.stat().st_mtime_ns == written
    assert [record.model_id for record in ws.models()] == [model_id]


def test_the_shapes_of_a_file_are_told_by_name(tmp_path):
    assert check_weights(weights_file(tmp_path)) == {"layers/dense/vars/0": (3, 4)}


def test_an_interrupted_saving_leaves_no_model(ws, tmp_path, monkeypatch):
    def stops(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(ws.files), "write_json", stops)
    with pytest.raises(KeyboardInterrupt):
        save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    monkeypatch.undo()
    assert ws.models() == []
    assert len(save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)) == 12


def spoil_with(change):
    def spoil(path):
        with h5py.File(path, "a") as file:
            change(file)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 a .keras file"), "is not an HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:600]), "is damaged"),
        (spoil_with(lambda file: file.attrs.update(model_config="{}")), "is a full model"),
        (
            spoil_with(lambda file: file.create_dataset("code", data=np.void(b"pickled bytes"))),
            "not numbers",
        ),
        (spoil_with(lambda file: file.create_dataset("text", data="import os")), "not numbers"),
        (
            spoil_with(
                lambda file: file.__setitem__("far", h5py.ExternalLink("/etc/other.h5", "/"))
            ),
            "is a link to elsewhere",
        ),
        (
            spoil_with(lambda file: file.__setitem__("near", h5py.SoftLink("/layers"))),
            "is a link to elsewhere",
        ),
        (
            spoil_with(
                lambda file: file.create_dataset(
                    "raw", (4,), "uint8", external=[("other.bin", 0, 4)]
                )
            ),
            "in another file",
        ),
        (lambda path: path.unlink(), "is not a file"),
    ],
    ids=[
        "zip",
        "torn",
        "full model",
        "opaque",
        "text",
        "external link",
        "soft link",
        "external data",
        "absent",
    ],
)
def test_anything_but_weights_is_refused(ws, tmp_path, spoil, message):
    path = weights_file(tmp_path)
    spoil(path)
    with pytest.raises(Refused, match=message):
        save_model(ws.files, path, ModelRecord(), HISTORY)
    assert not ws.files.exists("models")


def test_a_wrong_name_is_refused(ws, tmp_path):
    with pytest.raises(Refused, match=r"must end in \.weights\.h5"):
        save_model(ws.files, weights_file(tmp_path, name="model.h5"), ModelRecord(), HISTORY)


def test_remote_weights_are_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ws = open_workspace("memory://models-test")
    model_id = save_model(ws.files, weights_file(tmp_path), ModelRecord(), HISTORY)
    path = local_weights(ws.files)
    assert path.is_relative_to(tmp_path / "cache")
    assert path.read_bytes() == weights_file(tmp_path).read_bytes()
    path.write_bytes(b"spoilt")
    with pytest.raises(Refused, match="is not the file that was stored"):
        local_weights(ws.files, model_id)
    assert local_weights(ws.files, model_id).read_bytes() == weights_file(tmp_path).read_bytes()
    ws.files.remove_tree("")
