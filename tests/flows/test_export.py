"""`dr export`: the regions of the table, on their photographs, in the forms that tools read."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from dr_lib.vocabulary import LESION_TYPES
from flows.cli.main import app
from storage import open_workspace
from storage.contents.explanations import save_region_settings
from storage.tables.schemas import SCHEMAS
from tasks.report.export import export_regions
from tasks.run.errors import UserError
from tests.flows.explained import DISC, PHOTO_SHAPE, RECIPE, SIZE, explain


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = open_workspace(tmp_path_factory.mktemp("export") / "ws")
    explain(made, 6)
    return made


def test_every_region_of_the_table_is_exported_where_it_lies_in_the_photograph(workspace):
    document = json.loads(export_regions(workspace, "coco").text)
    table = workspace.frame("lesion_regions", source="lesion", sign="positive")
    assert len(document["images"]) == 6
    assert len(document["annotations"]) == len(table) > 0
    names = {one["id"]: one["file_name"] for one in document["images"]}
    by_eye = dict(table.set_index(["image_id", "region"]).iterrows())
    scale_y, scale_x = DISC.height / SIZE, DISC.diameter / SIZE
    for one in document["annotations"]:
        told = one["attributes"]
        assert told["photograph"] == names[one["image_id"]]
        row = by_eye[told["photograph"], told["region"]]
        left, top, width, height = one["bbox"]
        # The disc fills the photograph, so fundus pixel 0 begins at its edge.
        assert left == pytest.approx(row["bbox_left_px"] * scale_x, abs=0.01)
        assert top == pytest.approx(row["bbox_top_px"] * scale_y, abs=0.01)
        assert left + width == pytest.approx(row["bbox_right_px"] * scale_x, abs=0.01)
        assert top + height == pytest.approx(row["bbox_bottom_px"] * scale_y, abs=0.01)
        assert left + width <= PHOTO_SHAPE[1]
        assert top + height <= PHOTO_SHAPE[0]
        assert one["score"] == pytest.approx(row["image_share"], abs=1e-4)


def test_a_layers_regions_can_be_exported_and_a_wrong_one_is_answered_with_those_there_are(
    workspace,
):
    found = export_regions(workspace, "csv", "stem")
    assert found.regions == workspace.count("lesion_regions", source="stem", sign="positive")
    with pytest.raises(UserError, match=r"--source mixed9: .* has regions of lesion, stem, fc1"):
        export_regions(workspace, "csv", "mixed9")


def test_the_text_goes_to_the_output_or_whole_into_a_file_and_is_the_same_each_time(
    workspace, tmp_path
):
    piped = dr("export", workspace.location, "--regions", "geojson")
    assert piped.exit_code == 0
    assert len(json.loads(piped.stdout)["features"]) > 0
    assert "regions of 6 eyes; types not told apart" in piped.stderr
    file = tmp_path / "out.json"
    assert dr("export", workspace.location, "--regions", "geojson", "--out", file).stdout == ""
    assert file.read_text() == piped.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--regions", "yolo"), 2, "choose one of coco, csv, geojson"),
        ((), 2, "regions"),
        (("--regions", "coco", "--source", "x"), 1, "has regions of"),
        (("--regions", "coco", "--out", "/"), 2, "is no file"),
    ],
)
def test_a_mistake_is_one_line(workspace, arguments, code, says):
    result = dr("export", workspace.location, *arguments)
    assert result.exit_code == code
    assert says in result.stderr


def test_regions_that_are_not_those_of_the_maps_are_not_exported(tmp_path):
    made = open_workspace(tmp_path / "ws")
    explain(made, 2)
    save_region_settings(made.files, RECIPE.explain_id(made), {"fraction": 0.9})
    with pytest.raises(UserError, match=r"cut out with other settings.*run `dr aggregate`"):
        export_regions(made, "coco")


def test_a_type_is_told_where_channels_tell_types_apart(tmp_path, monkeypatch):
    """A network whose first channel is red and whose second is blue; the units' rows say that red
    stands for haemorrhages and blue for hard exudates.
    """
    import keras
    import numpy as np

    from tasks.report import export

    made = open_workspace(tmp_path / "ws")
    explain(made, 2)
    explain_id = RECIPE.explain_id(made)
    empty = dict.fromkeys(SCHEMAS["units"].names)
    rows = []
    for channel, (lesion, other) in enumerate(
        [("haemorrhage", "hard_exudate"), ("hard_exudate", "haemorrhage")]
    ):
        row = empty | {"layer": "stem", "unit": channel, "study": "lesions", "images": 4}
        row |= {"best_lesion": lesion, "lesion_auc": 0.95, "lesion_auc_others": 0.9}
        row |= {"lesion_auc_held_out": 0.9, f"auc_{lesion}": 0.95, f"auc_{other}": 0.5}
        rows.append(row)
    made.write_table("units", rows, partition=explain_id, part="lesions")
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Conv2D(2, 1, use_bias=False, name="stem")(inputs)
    outputs = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(outputs))
    model = keras.Model(inputs, outputs)
    model.get_layer("stem").set_weights([np.array([[[[1, 0], [0, 0], [0, 1]]]], np.float32)])
    monkeypatch.setattr(export, "loaded_model", lambda location, model_id: model)
    found = export_regions(made, "coco")
    assert found.types == ("haemorrhage", "hard_exudate")
    document = json.loads(found.text)
    names = {one["id"]: one["name"] for one in document["categories"]}
    kinds = pd.Series([names[one["category_id"]] for one in document["annotations"]])
    assert set(kinds) <= set(LESION_TYPES)
    for one in document["annotations"]:
        assert 0.5 <= one["attributes"]["probability"] <= 1
