"""`dr counterfactuals` on a workspace of noise: what it stores is what the model says, and no
work is done twice.
"""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pandas as pd
import pytest

import tasks.attribute.step
import tasks.counterfactuals.shard
import tasks.counterfactuals.step
import tasks.counterfactuals.tables
from dr_lib.network.layers import logits_model
from dr_lib.network.model import build, scaled
from dr_lib.perturbation.comparison import change_measures, feature_distances
from dr_lib.perturbation.counterfactual import CounterfactualParams
from flows.config import CounterfactualSection, load_config
from storage import open_workspace
from storage.admin.verify import verify
from storage.arrays.store import ShardedStore
from storage.contents.models import ModelRecord, save_model
from storage.layout import counterfactuals_path
from storage.tables.schemas import SCHEMAS
from tasks.access.stores import whole
from tasks.attribute.step import attribute
from tasks.counterfactuals.step import counterfactuals
from tasks.counterfactuals.tables import EYE_TABLES, PAIR_TABLES
from tasks.execution.worker import classifier_outputs, fundi
from tasks.run.errors import UserError
from tasks.run.session import Session
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool, run_here
from tests.flows.kills import killed_run, wait_until

IMAGES, SHARD = 8, 3
METHODS = ("proportional", "constant_strongest", "proportional_recomputed")
SETTINGS = {"methods": METHODS, "bisections": 2, "growth": 8.0, "recompute_points": 2}
ATTACKS = {"methods": ("fgsm_linf", "pgd_l2"), "growth": 8.0, "bisections": 2, "steps": 2}


@pytest.fixture(scope="module")
def template(tmp_path_factory, tiny_trunk):
    """(configuration file, the stage that the untrained model predicts for everything): graded,
    explained, two models.
    """
    folder = tmp_path_factory.mktemp("counterfactuals")
    config_file = write_config(folder, size=32, shard_images=SHARD)
    config, workspace = prepare(config_file, image_ids(IMAGES))
    record = undecided(config, workspace, folder)
    keras.utils.set_random_seed(2)
    other = build(dataclasses.replace(config.recipe.model, seed=7))
    other.save_weights(folder / "other.weights.h5")
    save_model(
        workspace.files,
        folder / "other.weights.h5",
        ModelRecord(
            architecture=record.architecture,
            preprocess_id=record.preprocess_id,
            training_id="another",
        ),
        pd.DataFrame({"step": [1]}),
    )
    predicted = grade(config, workspace)
    run_attribute(config, workspace)
    shutil.copytree(folder / "workspace", folder / "blank")
    return config_file, predicted


def undecided(config, workspace, folder) -> ModelRecord:
    """Stores a model that is almost as ready to say any other stage as stage 0, so that small
    changes decide; its record.
    """
    (record,) = workspace.models()
    model = build(config.recipe.model)
    model.load_weights(folder / "model.weights.h5")
    found = logits_model(model)(
        scaled(fundi(workspace.location, config.recipe.preprocess_id, np.arange(IMAGES)))
    ).numpy()
    last = model.get_layer("stage")
    kernel, _ = last.get_weights()
    ahead = (found - found[:, :1]) - (found - found[:, :1]).mean(axis=0)
    lead = 1.2 * ahead.max()  # every eye is still given stage 0
    last.set_weights([kernel, -found.mean(axis=0) + lead * np.eye(5)[0]])
    model.save_weights(folder / "undecided.weights.h5")
    save_model(
        workspace.files, folder / "undecided.weights.h5", record, pd.DataFrame({"step": [1]})
    )
    frame = workspace.frame("predictions", model_id=record.model_id).drop(columns="model_id")
    workspace.write_table("predictions", frame, partition=config.recipe.model_id(workspace))
    return record


def grade(config, workspace) -> int:
    """Predictions as the model makes them; eyes are labelled one stage higher than it says, but
    the last one, which is missed otherwise.
    """
    model_id = config.recipe.model_id(workspace)
    photos = workspace.photos()
    pixels = fundi(workspace.location, config.recipe.preprocess_id, np.arange(len(photos)))
    found = (
        classifier_outputs(workspace.location, model_id, 4).predict(scaled(pixels)).argmax(axis=1)
    )
    assert len(set(found.tolist())) == 1, "an untrained model says the same of all noise"
    predicted = int(found[0])
    frame = workspace.frame("predictions", model_id=model_id).drop(columns="model_id")
    stages = np.full(len(frame), (predicted + 1) % 5)
    stages[-1] = (predicted + 2) % 5
    workspace.write_table(
        "predictions", frame.assign(predicted_stage=predicted, stage=stages), partition=model_id
    )
    return predicted


def run_attribute(config, workspace) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, tasks.attribute.step)
        attribute(Session(workspace, InlinePool()), config.recipe, config.storage)


@pytest.fixture
def prepared(template):
    """(configuration, workspace, settings of the pair that the model misses)."""
    return started_from("blank", template)


@pytest.fixture(scope="module")
def first_run(template) -> None:
    """A run of `dr counterfactuals`; what it left is kept under the name of `changed`."""
    config, workspace, params = started_from("blank", template)
    run((config, workspace, params))
    shutil.copytree(workspace.location, pathlib.Path(workspace.location).parent / "changed")


@pytest.fixture
def changed(template, first_run):
    """What `prepared` is, after that run."""
    return started_from("changed", template)


def started_from(name: str, template):
    """What `prepared` is, the workspace as it was when it was kept under this name."""
    config_file, predicted = template
    config = load_config(config_file)
    shutil.rmtree(config.workspace)
    shutil.copytree(config_file.parent / name, config.workspace)
    stages = {
        "true_stage": (predicted + 1) % 5,
        "predicted_stage": predicted,
        "target_stage": (predicted + 1) % 5,
    }
    return config, open_workspace(config.workspace), CounterfactualSection(**stages, **SETTINGS)


def run(prepared, pool=None, **changes):
    """`dr counterfactuals` on workers that are this process."""
    config, workspace, params = prepared
    attacks = dataclasses.replace(config.adversarials, **ATTACKS)

    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, tasks.counterfactuals.step, tasks.counterfactuals.tables)
        session = Session(workspace, pool or InlinePool())
        return counterfactuals(
            session, config.recipe, dataclasses.replace(params, **changes), attacks, config.storage
        )


def store_of(prepared) -> ShardedStore:
    _, workspace, params = prepared
    return ShardedStore.open(
        workspace.files, counterfactuals_path(workspace.latest_explanation(), params.pair)
    )


def worked(pool) -> list[tuple[str, int]]:
    return [(name, job.span.index) for name, job in pool.jobs]


def results(workspace: pathlib.Path, *without: str) -> dict[str, bytes]:
    """What lies on disk, the ledger without the seconds it tells of."""
    found = {}
    for path in sorted(pathlib.Path(workspace).rglob("*")):
        name = str(path.relative_to(workspace))
        if (
            not path.is_file()
            or name.startswith((".locks", "tables/runs", *without))
            or "/runs/" in name
        ):
            continue
        found[name] = path.read_bytes()
        if ".ledger/" in name:
            entry = json.loads(found[name])
            entry.pop("written")
            # A record that says nothing is not written.
            entry["record"] = entry.get("record", {})
            entry["record"].pop("seconds", None)
            found[name] = json.dumps(entry, sort_keys=True).encode()
    return found


def test_what_is_stored_is_what_the_models_say(prepared):
    """Every number of the tables again from the stored images: probabilities, measures,
    distances, the second model.
    """
    config, workspace, params = prepared
    second = next(one.model_id for one in workspace.models() if one.training_id == "another")
    result = run(prepared, second_model=second)
    assert (result.images, result.new_images) == (IMAGES - 1, IMAGES - 1)
    store, target = store_of(prepared), params.target_stage
    model = classifier_outputs(
        workspace.location, config.recipe.model_id(workspace), params.batch_size
    )
    other = classifier_outputs(workspace.location, second, params.batch_size)
    x = scaled(fundi(workspace.location, config.recipe.preprocess_id, np.arange(IMAGES - 1)))
    real = model.features(x)  # the missed eyes are all there are of the target stage
    reached = 0
    for table, methods in zip(EYE_TABLES, (METHODS, ATTACKS["methods"]), strict=True):
        rows = workspace.frame(table)
        assert rows["method"].value_counts().to_dict() == dict.fromkeys(methods, IMAGES - 1)
        for row in rows.to_dict("records"):
            at = store.image_ids.index(row["image_id"])
            (image,) = store.read_rows([at], [f"{row['method']}/image"]).values()
            probability = model.predict(image)[0]
            assert row["reached"] == (probability.argmax() == target)
            reached += row["reached"]
            stored = [row[f"probability_after_stage{stage}"] for stage in range(5)]
            np.testing.assert_allclose(stored, probability, rtol=1e-5, atol=1e-7)
            for name, value in change_measures(x[at], image[0]).items():
                np.testing.assert_allclose(row[name], value, rtol=1e-6)
            nearest, typical = feature_distances(model.features(image), real, np.array([at]))
            np.testing.assert_allclose(
                row["feature_distance_after"], nearest[0], rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(row["feature_distance_typical"], typical, rtol=1e-4)
            said = other.predict(np.stack([x[at], image[0]]))
            assert row["second_model_id"] == second
            assert [row["second_stage_before"], row["second_stage_after"]] == said.argmax(
                axis=1
            ).tolist()
            np.testing.assert_allclose(row["second_probability_after"], said[1, target], rtol=1e-5)
            if table == "counterfactuals":
                (difference,) = store.read_rows([at], [f"{row['method']}/difference"]).values()
                np.testing.assert_allclose(difference, image - x[[at]], rtol=2.0**-10, atol=1e-7)
    assert reached >= IMAGES, "noise is easily pushed over: the comparison below compares something"
    stages = {
        name: getattr(params, name) for name in ("true_stage", "predicted_stage", "target_stage")
    }
    compared, transfers = (workspace.frame(table, **stages) for table in PAIR_TABLES)
    assert len(compared) == 3 * 2 * 8
    assert compared["pairs"].max() > 0
    assert set(transfers["method"]) == {*METHODS, *ATTACKS["methods"]}
    assert verify(workspace) == []


def test_stored_maps_are_shared_and_only_what_has_none_is_attributed(prepared, monkeypatch):
    """With every map stored, the engine is never asked; of a map for another photograph of that
    name, it is.
    """
    config, workspace, params = prepared
    fixed = tuple(method for method in METHODS if not method.endswith("recomputed"))
    true = tasks.counterfactuals.shard.integrated_gradients
    monkeypatch.setattr(tasks.counterfactuals.shard, "integrated_gradients", None)
    run(prepared, methods=fixed)
    assert [record.record.notes["maps_made"] for record in store_of(prepared).records()] == [
        0,
        0,
        0,
    ]
    before = whole(store_of(prepared), "proportional/reached")
    shutil.rmtree(
        pathlib.Path(workspace.location) / "explanations" / workspace.latest_explanation()
    )
    monkeypatch.setattr(tasks.counterfactuals.shard, "integrated_gradients", true)
    run(prepared, methods=fixed)
    store = ShardedStore.open(
        workspace.files, counterfactuals_path(config.recipe.explain_id(workspace), params.pair)
    )
    assert sum(record.record.notes["maps_made"] for record in store.records()) == IMAGES - 1
    # One stage's map takes its own points on the line, so signs near 0 may differ; the finding is
    # the same.
    assert (before == whole(store, "proportional/reached")).sum() >= IMAGES - 2


def test_one_more_eye_is_one_eyes_work_and_the_bytes_are_those_of_a_run_with_all(template, changed):
    at_once = results(changed[1].location)
    prepared = started_from("blank", template)
    config, workspace, _ = prepared
    model_id = config.recipe.model_id(workspace)
    frame = workspace.frame("predictions", model_id=model_id).drop(columns="model_id")
    last = frame["image_id"] == image_ids(IMAGES)[IMAGES - 2]
    workspace.write_table(
        "predictions", frame.assign(stage=frame["stage"].mask(last)), partition=model_id
    )
    assert run(prepared).new_images == IMAGES - 2
    workspace.write_table("predictions", frame, partition=model_id)
    pool = InlinePool()
    assert run(prepared, pool).new_images == 1
    assert ("search_shard", 2) in worked(pool)
    assert ("search_shard", 0) not in worked(pool)
    again = results(workspace.location)
    for entry in (again, at_once):
        # How the work was divided is all that may differ.
        for name in [name for name in entry if ".ledger/" in name]:
            told = json.loads(entry[name])
            entry[name] = json.dumps({**told, "record": None}, sort_keys=True).encode()
    assert {name for name in at_once if again.get(name) != at_once[name]} == set()
    assert again.keys() == at_once.keys()
    assert run(prepared).new_images == 0


def test_asking_another_second_model_changes_the_tables_but_no_image(changed):
    _, workspace, _ = changed
    second = next(model.model_id for model in workspace.models() if model.training_id == "another")
    before = results(workspace.location, "tables")
    pool = InlinePool()
    assert run(changed, pool, second_model=second).new_images == 0
    assert {name for name, _ in worked(pool)} == {"_tabulate_shard"}
    assert results(workspace.location, "tables") == before
    assert (workspace.frame("adversarials")["second_model_id"] == second).all()
    assert len(workspace.frame("transfers")) == 5
    pool = InlinePool()
    run(changed, pool, second_model=second)
    assert pool.jobs == []


def test_another_pair_of_stages_stands_beside_the_first(changed):
    _, workspace, params = changed
    first = results(workspace.location)
    other = (params.predicted_stage + 2) % 5
    assert run(changed, true_stage=other, target_stage=other).images == 1
    both = results(workspace.location)
    assert {name for name in first if both[name] != first[name]} == set()
    assert len(workspace.frame("counterfactuals")) == 3 * IMAGES
    assert workspace.frame("comparisons")["target_stage"].nunique() == 2
    assert verify(workspace) == []


def test_no_eye_that_qualifies_is_said_and_the_tables_are_empty_with_their_schemas(prepared):
    _, workspace, params = prepared
    nobody = (params.predicted_stage + 3) % 5
    result = run(prepared, true_stage=nobody, target_stage=nobody)
    assert (
        result.message
        == f"no eye of stage {nobody} predicted as {params.predicted_stage}: nothing to change"
    )
    for table in (*EYE_TABLES, *PAIR_TABLES):
        assert len(workspace.parts(table, workspace.latest_explanation())) == 1
        frame = workspace.frame(table)
        assert len(frame) == 0
        assert set(SCHEMAS[table].names) <= set(frame.columns)
    assert verify(workspace) == []


def test_a_target_out_of_reach_is_a_row_with_the_best_probability(prepared):
    """Strengths too small to matter: nothing is reached, nothing fails, and there is nothing to
    compare.
    """
    _, workspace, _ = prepared
    result = run(prepared, smallest_strength=1e-6, largest_strength=1e-6, methods=("constant",))
    assert f"constant: 0 of {IMAGES - 1} reached the target" in result.message
    rows = workspace.frame("counterfactuals")
    assert not rows["reached"].any()
    assert (rows["best_probability"] > 0).all()
    assert (workspace.frame("comparisons")["pairs"] == 0).all()


def test_a_second_model_that_cannot_be_asked_is_one_line(prepared):
    config, workspace, _ = prepared
    for wanted, reason in (
        ("0123456789ab", "holds no such model"),
        (config.recipe.model_id(workspace), "itself"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            run(prepared, second_model=wanted)
        assert "\n" not in str(caught.value)


def test_the_searchs_settings_decide_and_the_other_model_does_not():
    """`CounterfactualSection` adds the second model; it must not become part of what the images
    are made from.
    """
    added = {field.name for field in dataclasses.fields(CounterfactualSection)} - {
        field.name for field in dataclasses.fields(CounterfactualParams)
    }
    assert added == {"second_model"}


def test_killed_and_started_again_both_studies_end_with_the_bytes_of_an_undisturbed_run(
    tiny_trunk, tmp_path, runs
):
    """kill -9 of the run's process group and of workers, at seeded random progress; `killed_run`
    sees that nothing is done twice.
    """
    shards = 12
    config_file = write_config(tmp_path, size=32, shard_images=2)
    config, workspace = prepare(config_file, image_ids(2 * shards + 1))
    predicted = grade(config, workspace)
    true = (predicted + 1) % 5
    section = {
        "true_stage": true,
        "predicted_stage": predicted,
        "target_stage": true,
        "bisections": 2,
        "growth": 8,
    }
    section |= {"methods": "['proportional','constant']"}
    counterfactual = [f"counterfactuals.{name}={value}" for name, value in section.items()]
    counterfactual += ["adversarials.methods=['fgsm_linf']", "adversarials.bisections=2"]
    linear = [
        "attribution.limit=8",
        "linearity.strengths=6",
        "linearity.points=4",
        f"linearity.target_stage={true}",
    ]
    linear += [
        "linearity.limit=8",
        "linearity.constant_share=1.0",
        "linearity.region_points=2",
        "linearity.layers=['fc1','fc2']",
    ]

    def command(stage: str, settings: list[str]) -> tuple[str, ...]:
        return (stage, str(config_file), *(word for one in settings for word in ("--set", one)))

    commands = [
        command("attribute", linear),
        command("counterfactuals", counterfactual),
        command("linearity", linear),
    ]
    place, blank, plain = tmp_path / "workspace", tmp_path / "blank", tmp_path / "plain"
    shutil.copytree(place, blank)
    runs.start(*commands)
    wait_until(lambda: not runs.running)
    assert runs.code() == 0, runs.output()
    place.rename(plain)
    shutil.copytree(blank, place)
    (ledger,) = plain.glob("explanations/*/counterfactuals-*.ledger")
    told = killed_run(
        runs,
        commands,
        place / ledger.relative_to(plain),
        shards,
        ["worker", "run", "run"],
        seed=8,
    )
    assert told
    undisturbed, disturbed = (
        {
            name: data
            for name, data in results(at).items()
            if "explanation.json" not in name
            and "/ledger/" not in name
            and not name.endswith(".partial")
        }
        for at in (plain, place)
    )
    assert any(name.startswith("tables/unit_effects") for name in undisturbed)
    assert disturbed.keys() == undisturbed.keys()
    assert {name for name in undisturbed if disturbed[name] != undisturbed[name]} == set()
    assert len(open_workspace(place).frame("unit_effects")) > 0
