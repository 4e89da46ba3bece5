"""`dr compare`: two models or explanations of a workspace side by side; and by itself after a
retraining.
"""

import csv
import io

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from flows.cli.main import app
from storage import open_workspace
from storage.admin.gc import collect, listing
from storage.layout import comparison_path
from storage.tables.schemas import dataset_schema
from tasks.report import compare
from tasks.report.compare import Comparison, compare_with_previous, resolve
from tasks.run.errors import UserError
from tests.flows.explained import MODEL_ID, RECIPE, explain
from tests.flows.inline import InlinePool, run_here
from tests.ranges import outside

EYES = 24
OTHER, TWIN, BARE = "fedcba987654", "fedcba000000", "aaaaaaaaaaaa"
RIGHT = [number % 5 for number in range(EYES)]
WORSE = [0 if number < 5 else grade for number, grade in enumerate(RIGHT)]  # four are wrong


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model; one with other maps and grades; a twin of the first; one without explanation."""
    made = open_workspace(tmp_path_factory.mktemp("compare") / "ws")
    later = {"model_id": OTHER, "created": "2026-01-02", "tables": False}
    latest = {"model_id": TWIN, "created": "2026-01-03", "tables": False}
    ids = [
        explain(made, EYES, grades=RIGHT, tables=False),
        explain(made, EYES, **later, seed=100, grades=WORSE),
        explain(made, EYES, **latest, grades=RIGHT),
    ]
    predictions = made.frame("predictions", model_id=OTHER).drop(columns="model_id")
    made.write_table("predictions", predictions, partition=BARE)
    made.files.write_json(f"models/{BARE}/model.json", {"model_id": BARE, "created": "2025-01-01"})
    return made, dict(zip((MODEL_ID, OTHER, TWIN), ids, strict=True))


def compared(workspace, a, b) -> Comparison:
    return Comparison(workspace, resolve(workspace, a), resolve(workspace, b))


def test_a_models_twin_agrees_with_it_in_everything(workspace):
    rows = compared(workspace[0], MODEL_ID, TWIN).rows
    assert set(rows["measure"]) >= {"qwk", "map_correlation", "map_overlap", "regions", "units"}
    assert (rows["difference"].dropna() == 0).all()
    agreement = rows.loc[rows["measure"] != "appeared", "agreement"].dropna()
    assert agreement.to_numpy(float) == pytest.approx(1, abs=1e-9)
    assert not rows["measure"].isin(["predicted_stage", "vanished", "appeared"]).any()
    matched = rows[rows["measure"] == "matched"]
    assert (matched["unit"] == matched["other_unit"]).all()
    maps = rows[rows["measure"] == "map_correlation"]
    assert maps["chance"].abs().max() < 0.3, "another eye's map is other noise"


def test_eyes_that_change_their_grade_are_listed_with_both_and_counted_by_who_is_right(workspace):
    rows = compared(workspace[0], OTHER, MODEL_ID).rows
    changed = rows[rows["measure"] == "predicted_stage"].set_index("image_id")
    assert sorted(changed.index) == ["1_right", "2_left", "2_right", "3_left"]
    assert changed["value_a"].tolist() == [0] * 4
    assert (changed["value_b"] == changed["stage"]).all()
    same = rows[(rows["measure"] == "same_grade") & rows["stage"].isna()].iloc[0]
    shares = same[["value_a", "value_b", "agreement"]].tolist()
    assert shares == pytest.approx([0, 4 / EYES, 20 / EYES])
    accuracy = rows[rows["measure"] == "accuracy"].iloc[0]
    assert accuracy["difference"] == pytest.approx(4 / EYES)
    assert accuracy["p_value"] == pytest.approx(2 / 2**4)


def test_the_command_prints_rows_for_a_pipe_and_leaves_a_table_and_a_page(workspace):
    made, ids = workspace
    result = dr("compare", made.location, MODEL_ID[:6], ids[OTHER])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    by_map = {row["quantity"]: row for row in rows if row["measure"] == "map_correlation"}
    assert abs(float(by_map["disease"]["agreement"])) < 0.2
    assert all(row["low"] for row in rows if row["measure"] in ("qwk", "map_overlap"))
    folder = comparison_path(ids[MODEL_ID], ids[OTHER])
    assert result.stderr.strip() == f"page: {made.location}/{folder}/comparison.html"
    page = made.files.read(f"{folder}/comparison.html").decode()
    assert "4 of 24 labelled eyes of the test split get another grade" in page
    for caption in (
        "Both models on",
        "Which of the two is right",
        "Correlation of",
        "Overlap of",
        "Regions of",
    ):
        assert f"<caption>{caption}" in page
    assert "<caption>Units that contribute to any eye, by layer</caption>" in page
    assert "Units of fc1 one by one" in page
    assert "assets/report.css" in made.files.names(folder) or made.files.exists(
        f"{folder}/assets/report.css"
    )
    table = made.frame("model_differences", model_id=OTHER)
    assert set(table["other_explain_id"]) == {ids[MODEL_ID]}
    for field in dataset_schema("model_differences"):
        values = table[field.name].dropna().unique().tolist()
        assert outside(field.metadata[b"range"].decode(), values) == [], field.name
    keys = ["other_explain_id", "measure", "map", "quantity", "stage", "image_id", "layer"]
    assert not table.duplicated([*keys, "unit", "other_unit"]).any()


def test_a_page_links_to_the_eyes_of_reports_that_are_there(workspace):
    made, ids = workspace
    made.files.write(f"report/{ids[OTHER]}/index.html", b"")
    address = compared(made, MODEL_ID, OTHER).write()
    page = made.files.read(address.removeprefix(f"{made.location}/")).decode()
    # 3_left is in the second shard of four eyes.
    assert f'href="../{ids[OTHER]}/eye.html#00001/3_left"' in page
    assert f"../{ids[MODEL_ID]}/eye.html" not in page


def test_a_model_without_explanation_is_compared_by_its_grades(workspace):
    made, _ = workspace
    comparison = compared(made, BARE, TWIN)
    assert set(comparison.rows["measure"]) == {
        *("qwk", "auc_referable", "accuracy", "same_grade", "predicted_stage")
    }
    comparison.write()
    page = made.files.read(f"{comparison_path(BARE, TWIN)}/comparison.html").decode()
    assert "Their maps are not compared" in page


def test_models_are_compared_on_external_eyes_where_no_eye_was_kept_for_testing(tmp_path):
    made = open_workspace(tmp_path / "ws")
    explain(made, EYES, grades=RIGHT, tables=False)
    explain(made, EYES, model_id=OTHER, created="2026-01-02", grades=WORSE, tables=False)
    for model_id in (MODEL_ID, OTHER):
        graded = made.frame("predictions", model_id=model_id).drop(columns="model_id")
        graded["split"] = ["train"] * 5 + ["external"] * (EYES - 5)
        made.write_table("predictions", graded, partition=model_id)
    comparison = compared(made, MODEL_ID, OTHER)
    measured = comparison.summary.set_index("measure").loc["accuracy"]
    assert measured[["value_a", "value_b", "images"]].tolist() == [1, 1, EYES - 5]
    page = made.files.read(comparison.write().removeprefix(f"{made.location}/")).decode()
    assert f"of {EYES - 5} labelled eyes of the external sources" in page


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("1234", MODEL_ID, "0 models or explanations of .* begin with 1234; there are .*" + OTHER),
        ("fedcba", MODEL_ID, "2 models or explanations of .* begin with fedcba"),
        (MODEL_ID, MODEL_ID, "name two that differ"),
    ],
)
def test_a_mistake_is_one_line(workspace, a, b, says):
    result = dr("compare", workspace[0].location, a, b)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert pd.Series([line]).str.contains(says).all(), line


def test_models_without_a_common_eye_cannot_be_compared(workspace, tmp_path):
    made = open_workspace(tmp_path / "ws")
    explain(made, 4, tables=False)
    explain(made, 4, model_id=OTHER, created="2026-01-02", tables=False)
    graded = made.frame("predictions", model_id=OTHER).drop(columns="model_id")
    made.write_table("predictions", graded[:0], partition=OTHER)
    with pytest.raises(UserError, match="have no eye in common"):
        compared(made, MODEL_ID, OTHER)


def test_after_a_retraining_the_model_is_compared_with_the_one_before_it_once(
    tmp_path, monkeypatch, capsys
):
    run_here(monkeypatch, compare)
    made, pool = open_workspace(tmp_path / "ws"), InlinePool()
    first = explain(made, 4, grades=RIGHT[:4], tables=False)
    compare_with_previous(made, RECIPE.resolve(made), pool)
    assert made.frame("model_differences").empty, "there is no model before the first"
    second = explain(made, 4, model_id=OTHER, created="2026-01-02", grades=RIGHT[:4], tables=False)
    ids = RECIPE.resolve(made)
    assert (ids.model_id, ids.explain_id) == (OTHER, second)

    def broken(self):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Comparison, "write", broken)
        compare_with_previous(made, ids, pool)
    assert f"not compared with {first}: the disk is full" in capsys.readouterr().err
    compare_with_previous(made, ids, pool)
    page = f"{comparison_path(first, second)}/comparison.html"
    assert made.files.exists(page)
    assert {name for name, _ in pool.jobs} == {"map_agreements"}
    by_workers = made.frame("model_differences", model_id=OTHER)
    compared(made, MODEL_ID, OTHER).write()
    assert_frame_equal(made.frame("model_differences", model_id=OTHER), by_workers)
    monkeypatch.setattr(compare, "Comparison", None)
    compare_with_previous(made, ids, pool)  # would fail, and say so
    assert "not compared" not in capsys.readouterr().err


def test_a_comparison_goes_with_the_explanation_that_it_is_about(tmp_path):
    made = open_workspace(tmp_path / "ws")
    first = explain(made, 4, grades=RIGHT[:4], tables=False)
    second = explain(made, 4, model_id=OTHER, created="2026-01-02", grades=RIGHT[:4], tables=False)
    compared(made, MODEL_ID, OTHER).write()
    folder = comparison_path(first, second)
    assert not [row["id"] for row in listing(made) if row["id"].startswith("compare")]
    collect(made, [first])
    assert made.files.exists(f"{folder}/comparison.html")
    collect(made, [second])
    assert not made.files.names(folder)
    assert made.frame("model_differences").empty
