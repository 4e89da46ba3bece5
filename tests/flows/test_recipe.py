"""Which model a configuration means: its ids stand still, a named model is used and never
trained, an imported one is found.
"""

import dataclasses

import pytest

from dr_lib.attribution import AttributionParams
from flows.config import parse_config
from storage.contents.models import ModelRecord
from tasks.run.errors import UserError
from tasks.run.recipe import settings_in_ids

SMALLEST = {"workspace": "w", "data": {"photos": "p"}}
OTHER = "0123456789ab"


@dataclasses.dataclass
class Records:
    """What a recipe asks of a workspace."""

    records: list[ModelRecord]
    location: str = "w"

    def models(self):
        return self.records


def recipe(**sections):
    return parse_config(SMALLEST | sections).recipe


def record(model_id, of, **more):
    architecture = {
        "backbone": of.model.backbone,
        "dense": list(of.model.dense),
        "input_size": of.model.input_size,
    }
    return ModelRecord(
        model_id=model_id, preprocess_id=of.preprocess_id, architecture=architecture, **more
    )


def test_the_ids_of_the_first_models_stand_still():
    """Were they to move, every model trained so far would be orphaned and trained again. Younger
    settings must not count where they change nothing; these ids were made before any of them was
    there.
    """
    poster = recipe()
    assert (poster.preprocess_id, poster.training_id) == ("544532f1c020", "3b736785f448")
    demo = recipe(
        model={"backbone": "small", "backbone_weights": "none", "dense": [64, 32]},
        training={"schedule": [[150, 2e-3], [60, 5e-4]], "validate_every": 30},
    )
    assert demo.training_id == "5bd76ba4029a"


@pytest.mark.parametrize(
    "training",
    [
        {"seed": 1},
        {"label_smoothing": 0.0},
        {"loss": "ordinal"},
        {"average_decay": 0.9},
        {"best_by": "auc"},
    ],
)
def test_every_setting_that_decides_the_outcome_is_a_new_model(training):
    assert recipe(training=training).training_id != recipe().training_id


def test_explanations_made_before_deep_layers_kept_fewer_neurons_keep_their_id():
    """The id is of a time when there was neither `deep_neurons` nor `lesion_enlargement`; 3 and 2 are
    today's defaults.
    """
    before = {"residual_tolerance": 0.0, "layer_points": 16}
    before |= {"lesion_poses": 8, "lesion_enlargement": 1.0}
    for deep, same in ((0, True), (3, False)):
        named = recipe(training={"model_id": OTHER}, attribution=before | {"deep_neurons": deep})
        found = named.explain_id(Records([record(OTHER, named)]))
        assert (found == "a0677ad5b61c") == same


@pytest.mark.parametrize(
    "training",
    [{"prefetch": 9}, {"checkpoint_every": 7}, {"on_new_data": "retrain"}, {"model_id": OTHER}],
)
def test_how_a_run_goes_and_which_model_is_used_decide_no_training(training):
    assert recipe(training=training).training_id == recipe().training_id


def test_another_backend_is_another_model_and_another_precision_another_explanation():
    wanted, jax, tf32 = (
        recipe(),
        recipe(model={"backend": "jax"}),
        recipe(attribution={"precision": "tf32"}),
    )
    assert jax.training_id != wanted.training_id == tf32.training_id
    models = Records([record(OTHER, one, training_id=one.training_id) for one in (wanted, jax)])
    assert len({one.explain_id(models) for one in (wanted, jax, tf32)}) == 3
    assert settings_in_ids(dataclasses.asdict(wanted.attribution)).keys() == {
        field.name for field in dataclasses.fields(AttributionParams)
    } - {"precision"}, "explanations made before there was a choice keep their id"


def test_the_newest_model_of_the_settings_is_meant_and_on_request_only_one_of_these_photographs():
    wanted = recipe()
    own = {"training_id": wanted.training_id}
    there = Records(
        [
            record("a", wanted, **own, manifest="old"),
            record("b", wanted, **own, manifest="new"),
            record("c", wanted),
        ]
    )
    assert wanted.find_model(there) == "b"
    assert wanted.find_model(there, "old") == "a"
    assert wanted.find_model(there, "newer") is None
    assert wanted.find_model(Records([])) is None


def test_a_model_imported_for_the_settings_comes_first_whatever_the_photographs():
    wanted = recipe()
    there = Records(
        [
            record("in", wanted, imported_for=["x", wanted.training_id]),
            record("own", wanted, training_id=wanted.training_id, manifest="new"),
        ]
    )
    assert (
        wanted.find_model(there)
        == wanted.find_model(there, "new")
        == wanted.find_model(there, "newer")
        == "in"
    )
    assert recipe(training={"seed": 9}).find_model(there) is None


def test_a_named_model_is_used_whatever_the_training_settings():
    there = Records(
        [
            record(OTHER, recipe(), training_id="elsewhere"),
            record("b", recipe(), training_id=recipe().training_id),
        ]
    )
    named = recipe(training={"seed": 9, "model_id": OTHER})
    assert named.find_model(there, "any photographs") == OTHER
    assert named.model_id(there) == OTHER


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "w holds no such model; there are b"),
        ({"preprocess": {"crop": 0.2}}, "fundi of other"),
        ({"model": {"dense": [16, 8]}}, r"its dense is \[256, 64\], \[model\] says \[16, 8\]"),
        ({"model": {"backbone": "small"}}, r"its backbone is inception_v3, \[model\] says small"),
    ],
)
def test_a_named_model_that_is_not_there_or_does_not_fit_is_one_line(sections, message):
    name = "absent" if not sections else "b"
    with pytest.raises(UserError, match=f"training.model_id = {name}: .*{message}") as caught:
        recipe(**sections, training={"model_id": name}).find_model(Records([record("b", recipe())]))
    assert len(str(caught.value).splitlines()) == 1
