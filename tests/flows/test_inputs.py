"""A step whose input is missing names the commands to run first, before Prefect starts or
anything is written.
"""

import dataclasses
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.registry import STEPS
from storage import open_workspace
from storage.arrays.store import ShardedStore
from storage.layout import attributions_path, fundus_path, ledger_folder
from tasks.access.inputs import LAST_NEEDED, require_inputs
from tasks.run.errors import UserError
from tasks.run.session import Session
from tasks.train.step import train
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool
from tests.storage.test_tables import example

IMAGES = 4
CHAIN = ["ingest", "preprocess", "train", "attribute", "aggregate"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(configuration file, recipe, workspace) with photographs, fundi and a model; not to be
    changed.
    """
    config_file = write_config(tmp_path_factory.mktemp("inputs"), size=32)
    config, workspace = prepare(config_file, image_ids(IMAGES))
    return config_file, config.recipe, workspace


@pytest.fixture
def copied(trained, tmp_path):
    """(recipe, workspace) as `trained`, to be changed."""
    _, recipe, workspace = trained
    shutil.copytree(workspace.location, tmp_path / "workspace")
    return recipe, open_workspace(tmp_path / "workspace")


def asked(message: str) -> list[str]:
    """The commands a message names, in their order."""
    return [name for part in message.split("run `dr ")[1:] for name in [part.partition("`")[0]]]


@pytest.mark.parametrize("step", [step for step in STEPS if step != "ingest"])
def test_a_step_on_a_workspace_that_is_not_there_names_every_command_before_it(
    trained, tmp_path, step
):
    """In a second: a Prefect server is not started for it."""
    result = CliRunner().invoke(
        app, [step, str(trained[0]), "--set", f"workspace={tmp_path / 'none'}"]
    )
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(
        f"dr: `dr {step}` needs a catalogue of photographs, and {tmp_path / 'none'} holds none:"
        " run "
    )
    assert asked(line) == CHAIN[: CHAIN.index(LAST_NEEDED[step]) + 1]
    assert not (tmp_path / "none").exists()


def test_every_step_but_the_first_has_an_input():
    assert set(LAST_NEEDED) | {"ingest"} == set(STEPS)
    assert set(LAST_NEEDED.values()) == set(CHAIN)


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ("train", None),
        ("attribute", None),
        ("counterfactuals", None),
        ("aggregate", "attribute"),
        ("linearity", "attribute"),
    ],
)
def test_what_is_missing_is_asked_of_these_settings(trained, step, missing):
    _, recipe, workspace = trained
    if missing is None:
        require_inputs(step, workspace, recipe)
        return
    with pytest.raises(
        UserError, match=r"needs attributions of these settings, and .* holds none: run"
    ) as caught:
        require_inputs(step, workspace, recipe)
    assert asked(str(caught.value)) == [missing]


@pytest.mark.parametrize(
    ("setting", "noun", "commands"),
    [
        ("preprocess.size=64", "fundi", ["preprocess", "train"]),
        ("training.seed=7", "a graded model", ["train"]),
        ("model.dense=[16, 4]", "a graded model", ["train"]),
    ],
)
def test_settings_of_one_command_only_are_told(trained, setting, noun, commands):
    """What was made with other settings is there, so a --set was forgotten or is new."""
    result = CliRunner().invoke(app, ["attribute", str(trained[0]), "--set", setting])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"dr: `dr attribute` needs {noun} of these settings, and ")
    assert "holds only some of other settings: repeat their --set, or run" in line
    assert asked(line) == commands


def test_an_explanation_of_other_settings_is_not_this_one(copied):
    recipe, workspace = copied
    _explain(recipe, workspace)
    require_inputs("report", workspace, recipe)
    other = dataclasses.replace(
        recipe, attribution=dataclasses.replace(recipe.attribution, neurons=3)
    )
    with pytest.raises(
        UserError, match=r"needs attributions .* holds only some of other settings"
    ) as caught:
        require_inputs("report", workspace, other)
    assert asked(str(caught.value)) == ["attribute", "aggregate"]


def test_a_store_without_a_finished_shard_and_a_model_without_grades_are_no_input(copied):
    """As an interruption leaves them, before the first shard and between training and grading."""
    recipe, workspace = copied
    _explain(recipe, workspace)
    explain_id = recipe.explain_id(workspace)
    steps = (
        (
            "report",
            lambda: workspace.files.remove_tree(f"tables/attributions/explain_id={explain_id}"),
            ["aggregate"],
        ),
        ("aggregate", lambda: _forget(workspace, attributions_path(explain_id)), ["attribute"]),
        ("counterfactuals", lambda: workspace.files.remove_tree("tables/predictions"), ["train"]),
        ("train", lambda: _forget(workspace, fundus_path(recipe.preprocess_id)), ["preprocess"]),
    )
    for step, interrupt, commands in steps:
        require_inputs(step, workspace, recipe)
        interrupt()
        with pytest.raises(UserError, match=r"holds none: run") as caught:
            require_inputs(step, workspace, recipe)
        assert asked(str(caught.value)) == commands


def test_a_new_model_does_not_learn_from_a_part_of_the_photographs(copied):
    """Ctrl-C in `dr preprocess`, then `dr train`: without a word, most eyes would never be
    learnt from.
    """
    recipe, workspace = copied
    store = ShardedStore.open(workspace.files, fundus_path(recipe.preprocess_id))
    names = image_ids(IMAGES + 2)
    photos = workspace.photos()
    more = photos.iloc[:2].assign(image_id=names[-2:], position=[IMAGES, IMAGES + 1])
    workspace.write_table("photos", pd.concat([photos, more], ignore_index=True))
    untrained = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, seed=7))
    with pytest.raises(
        UserError, match="2 of 6 photographs have not been preprocessed; run `dr preprocess`"
    ):
        train(Session(workspace, InlinePool()), untrained, {})
    assert store.images == IMAGES


def _explain(recipe, workspace):
    """An explanation as far as its existence goes: a record, a finished shard's mark, a part of
    a table.
    """
    explain_id = recipe.explain_id(workspace)
    workspace.files.write_json(
        f"explanations/{explain_id}/explanation.json", {"explain_id": explain_id, "created": "now"}
    )
    workspace.files.write_json(f"{ledger_folder(attributions_path(explain_id))}/000000.json", {})
    workspace.write_table("attributions", example("attributions"), partition=explain_id)


def _forget(workspace, path):
    workspace.files.remove_tree(ledger_folder(path))
