"""A model trained elsewhere is taken in if it is weights of the right architecture and nothing
else; then it grades and stays.
"""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from dr_lib.network.model import ModelParams, build
from flows.cli.main import app
from flows.config import load_config
from storage import open_workspace
from storage.contents.models import load_history, load_record, local_weights
from storage.errors import Refused
from tasks.run.errors import UserError
from tasks.train.importing import import_model
from tests.flows.conftest import TINY

ELSEWHERE = ModelParams(
    backbone="small", backbone_weights="none", dense=(16, 8), input_size=64, seed=5
)


@pytest.fixture(scope="module")
def trained_elsewhere(tmp_path_factory):
    """The file of a model of the tiny configuration's architecture. Not to be written to: copy
    it.
    """
    file = tmp_path_factory.mktemp("elsewhere") / "elsewhere.weights.h5"
    build(ELSEWHERE).save_weights(file)
    return file


@pytest.fixture
def take_in(tmp_path):
    """Imports a file for the tiny configuration, with settings laid over it; returns the
    workspace and what was answered.
    """
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(photos=tmp_path, workspace=tmp_path / "workspace"))

    def call(file, settings=()):
        config = load_config(path, list(settings))
        return (
            open_workspace(config.workspace),
            config.recipe,
            import_model(config.workspace, file, config.recipe, config.tables),
        )

    call.config = path
    return call


def test_an_imported_model_is_a_record_and_the_model_of_its_settings(take_in, trained_elsewhere):
    workspace, recipe, (model_id, ready) = take_in(trained_elsewhere)
    assert not ready, "nothing is preprocessed yet"
    assert local_weights(workspace.files, model_id).read_bytes() == trained_elsewhere.read_bytes()
    record = load_record(workspace.files, model_id)
    assert record.weights_sha256.startswith(model_id)
    assert (record.notes["origin"], record.notes["file"], record.imported_for) == (
        "imported",
        "elsewhere.weights.h5",
        [recipe.training_id],
    )
    assert record.architecture["dense"] == [16, 8]
    assert record.preprocess_id == recipe.preprocess_id
    assert not record.training_id, "it was not trained with these settings"
    assert load_history(workspace.files, model_id).empty
    assert recipe.find_model(workspace) == model_id


def test_importing_again_changes_nothing_and_for_other_settings_adds_them(
    take_in, trained_elsewhere
):
    workspace, recipe, (model_id, _) = take_in(trained_elsewhere)
    before = load_record(workspace.files, model_id)
    assert take_in(trained_elsewhere)[2][0] == model_id
    assert load_record(workspace.files, model_id) == before
    _, other, (again, _) = take_in(trained_elsewhere, ["training.seed=3"])
    assert again == model_id
    assert load_record(workspace.files, model_id) == dataclasses.replace(
        before, imported_for=sorted([recipe.training_id, other.training_id])
    )
    with pytest.raises(
        UserError, match=r"is model .* of this workspace, but it was made for fundi of other"
    ):
        take_in(trained_elsewhere, ["preprocess.crop=0.2"])


def test_a_file_that_also_holds_an_optimiser_is_taken_in(take_in, tmp_path):
    model = build(ELSEWHERE)
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "compiled.weights.h5")
    workspace, recipe, (model_id, _) = take_in(tmp_path / "compiled.weights.h5")
    assert recipe.find_model(workspace) == model_id


def spoilt(change):
    def spoil(file):
        with h5py.File(file, "a") as weights:
            change(weights)

    return spoil


def deeper(file):
    build(
        ModelParams(backbone="small", backbone_weights="none", dense=(16, 8, 8), input_size=64)
    ).save_weights(file)


def wider(file):
    build(
        ModelParams(backbone="small", backbone_weights="none", dense=(16, 9), input_size=64)
    ).save_weights(file)


def poison(weights):
    names = []
    weights.visititems(
        lambda name, item: (
            names.append(name)
            if isinstance(item, h5py.Dataset) and item.dtype.kind == "f"
            else None
        )
    )
    weights[names[0]][...] = np.nan


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (
            deeper,
            UserError,
            r"does not fit \[model\] with .*dense = \[16, 8\].* is \[.*\] in the file and",
        ),
        (wider, UserError, r"\[16, 9\] in the file and \[16, 8\] in that architecture"),
        (spoilt(poison), UserError, "not finite"),
        (
            spoilt(lambda weights: weights.create_dataset("code", data=np.void(b"pickled"))),
            Refused,
            "not numbers",
        ),
        (
            spoilt(lambda weights: weights.attrs.update(model_config="{}")),
            Refused,
            "is a full model",
        ),
        (lambda file: file.write_bytes(b"\x80\x04\x95"), Refused, "is not an HDF5 file"),
        (lambda file: file.unlink(), Refused, "is not a file"),
    ],
    ids=["deeper", "wider", "nan", "opaque", "full model", "pickle", "absent"],
)
def test_anything_but_weights_of_the_architecture_is_refused_in_one_line(
    take_in, trained_elsewhere, tmp_path, spoil, kind, message
):
    file = tmp_path / "spoilt.weights.h5"
    file.write_bytes(trained_elsewhere.read_bytes())
    spoil(file)
    with pytest.raises(kind, match=message) as caught:
        take_in(file)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "workspace" / "models").exists()


def test_a_keras_archive_that_would_run_code_is_refused_before_it_is_opened(
    take_in, tmp_path, monkeypatch
):
    file = tmp_path / "model.keras"
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(file)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: pytest.fail("opened"))
    with pytest.raises(Refused, match=r"its name must end in \.weights\.h5"):
        take_in(file)
    # Nor under another name.
    with pytest.raises(Refused, match="is not an HDF5 file"):
        take_in(file.rename(tmp_path / "model.weights.h5"))


def test_the_command_says_which_model_and_refuses_in_one_line(take_in, trained_elsewhere, tmp_path):
    runner = CliRunner()
    told = runner.invoke(app, ["import-model", str(trained_elsewhere), str(take_in.config)])
    assert told.exit_code == 0, told.output
    assert "is now the model of" in told.output
    assert "dr run goes on from here" in told.output
    refused = runner.invoke(
        app, ["import-model", str(tmp_path / "none.weights.h5"), str(take_in.config)]
    )
    assert refused.exit_code == 1
    assert "none.weights.h5 is not a file" in refused.output


def test_eyes_preprocessed_already_are_graded_by_it_and_nothing_is_trained(
    prefect_server, dask_address, drawn_photos, tmp_path, trained_elsewhere, take_in
):
    from flows.pipeline import FLOWS

    settings = [f"data.photos={drawn_photos}", f"dask.address={dask_address}"]
    for stage in ("ingest", "preprocess"):
        FLOWS[stage](str(take_in.config), settings)
    workspace, _, (model_id, ready) = take_in(trained_elsewhere, settings)
    assert ready
    (result,) = FLOWS["train"](str(take_in.config), settings)
    assert result.message.startswith(f"model {model_id}: on ")
    assert [record.model_id for record in workspace.models()] == [model_id]
    assert len(workspace.frame("predictions", model_id=model_id)) == 40
    metrics = load_record(workspace.files, model_id).metrics
    assert set(metrics) == {"train", "validation", "test"}
    assert {"qwk", "auc_referable"} <= set(metrics["test"])
    # A configuration of other settings may name it.
    (named,) = FLOWS["train"](
        str(take_in.config), [*settings, "training.seed=8", f"training.model_id={model_id}"]
    )
    assert (named.message, named.new_images) == (result.message, 0)
