"""The whole chain on a handful of synthetic eyes: it ends, it leaves what DESIGN names, and it
never works twice.
"""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from dr_lib.formatting import duration
from storage import open_workspace
from storage.admin.catalog import query
from storage.admin.verify import verify
from storage.contents.explanations import FAILED
from storage.tables.schemas import SCHEMAS, dataset_schema
from tests.analyst.questions import questions
from tests.flows.conftest import snapshot
from tests.ranges import outside

pytestmark = pytest.mark.usefixtures("prefect_server")


def by_step(results):
    return {result.step: result for result in results}


def test_every_stage_ran_in_order_and_says_what_it_did(chain):
    first = chain["runs"][0]
    stages = [
        "ingest",
        "preprocess",
        "train",
        "attribute",
        "aggregate",
        "counterfactuals",
        "linearity",
        "report",
    ]
    assert [result.step for result in first] == stages
    assert all(result.message for result in first)


def test_nothing_new_is_no_work_and_changes_no_byte(chain):
    assert [result.new_images for result in chain["runs"][1]] == [0] * 8
    assert chain["snapshots"][1] == chain["snapshots"][0]


def test_two_more_eyes_are_two_eyes_work(chain):
    third = by_step(chain["runs"][2])
    assert third["ingest"].new_images == 2
    assert third["preprocess"].new_images == 2
    assert (
        third["train"].message.split(":")[0]
        == by_step(chain["runs"][0])["train"].message.split(":")[0]
    ), "the same model"
    predictions = chain["workspace"].frame("predictions")
    assert len(predictions) == 39, "one eye was spoilt in the fourth run"
    assert predictions["image_id"].is_unique


def test_bad_input_is_a_row_with_its_reason_and_stops_nothing(chain):
    rejects = chain["workspace"].rejects().set_index("image_id")
    assert rejects.loc["501_left", "reason"] == "empty"
    assert rejects.loc["502_left", "reason"] == "not_an_image"
    assert rejects.loc["503_left", "reason"] == "no_photograph"
    assert not {"501_left", "502_left"} & set(chain["workspace"].frame("predictions")["image_id"])


def test_a_deleted_photograph_leaves_its_results_and_is_marked_absent(chain):
    workspace = chain["workspace"]
    photos = workspace.photos().set_index("image_id")
    assert not photos.loc[chain["gone"], "present"]
    assert chain["gone"] in set(workspace.frame("attributions")["image_id"])


def test_an_eye_that_can_no_longer_be_graded_loses_its_rows_but_not_its_place(chain):
    workspace, spoilt = chain["workspace"], chain["spoilt"]
    assert workspace.rejects().set_index("image_id").loc[spoilt, "step"] == "preprocess"
    for table in (
        "predictions",
        "attributions",
        "neurons",
        "lesion_regions",
        "heatmap_stats",
        "linearity",
    ):
        assert spoilt not in set(workspace.frame(table)["image_id"]), table
    tree = workspace.attributions()
    row = tree["image_id"].values.tolist().index(spoilt)
    assert tree["pixels/status"].values[row] == FAILED
    assert np.isnan(tree["pixels/attribution"].values[row]).all()
    assert [result.new_images for result in chain["runs"][4]] == [0] * 8


def test_no_patient_stands_in_two_splits(chain):
    photos = chain["workspace"].photos()
    assert (photos.groupby("patient_id")["split"].nunique() == 1).all()
    assert set(photos["split"]) == {"train", "validation", "test"}


def test_arrays_have_the_contracts_names_and_dimensions(chain):
    tree = chain["workspace"].attributions()
    pixels = tree["pixels"]
    assert pixels["attribution"].dims == ("image", "quantity", "y", "x")
    assert list(pixels["quantity"].values) == [
        "stage0",
        "stage1",
        "stage2",
        "stage3",
        "stage4",
        "referable",
    ]
    for name in ("outcome", "baseline_outcome", "gap", "map_error", "points", "converged"):
        assert pixels[name].dims == ("image", "quantity")
    stem = tree["layers/stem"]
    assert stem["neuron"].dims == ("image", "sign", "rank", "axis")
    assert stem["region"].dims == ("image", "sign", "rank", "region_y", "region_x")
    assert stem["resultant"].dims == ("image", "sign", "y", "x")
    for array in (pixels["attribution"], stem["region"]):
        assert {"long_name", "units", "description"} <= set(array.attrs)


def test_stored_maps_sum_to_their_outcome_but_for_the_stored_gap(chain):
    """Completeness, read back from disk: Σ attribution = F(x) − F(x') + gap, to what rounding to
    9 bits may take.
    """
    pixels = chain["workspace"].attributions()["pixels"].to_dataset()
    pixels = pixels.isel(image=pixels["status"].values != FAILED)
    total = pixels["attribution"].astype("float64").sum(["y", "x"])
    expected = (pixels["outcome"] - pixels["baseline_outcome"] + pixels["gap"]).astype("float64")
    allowance = np.abs(pixels["attribution"].astype("float64")).sum(["y", "x"]) * 2.0**-10 + 1e-6
    assert (np.abs(total - expected) <= allowance).all()


def test_maps_of_the_five_stages_sum_to_zero_and_referable_is_a_sum(chain):
    pixels = chain["workspace"].attributions()["pixels"].to_dataset()
    maps = pixels["attribution"].isel(image=pixels["status"].values != FAILED).astype("float64")
    size = np.abs(maps).sum("quantity") * 2.0**-10 + 1e-9
    stages = maps.sel(quantity=[f"stage{stage}" for stage in range(5)])
    assert (np.abs(stages.sum("quantity")) <= size).all()
    assert (
        np.abs(stages.isel(quantity=slice(2, 5)).sum("quantity") - maps.sel(quantity="referable"))
        <= size
    ).all()


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_every_table_reads_with_its_schema(chain, table):
    frame = chain["workspace"].frame(table)
    assert set(SCHEMAS[table].names) <= set(frame.columns)
    # The tiny model may take no stage-1 eye for stage 0 and have no special unit; a second model
    # and further poses are asked for only where the configuration says so, and there is no other
    # model to compare with.
    optional = (
        "counterfactuals",
        "adversarials",
        "comparisons",
        "transfers",
        "unit_effects",
        "pose_predictions",
        "unused_masks",
        "model_differences",
    )
    if table not in optional:
        assert len(frame)


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_every_value_lies_in_the_range_of_its_column(chain, table):
    frame = chain["workspace"].frame(table)
    for field in dataset_schema(table):
        values = frame[field.name].dropna().tolist()
        assert outside(field.metadata[b"range"].decode(), values) == [], field.name


@pytest.mark.parametrize("question", questions(), ids=lambda question: str(question.number))
def test_each_of_the_twenty_questions_can_be_asked_of_a_real_run(chain, question):
    assert list(query(chain["workspace"], question.sql).columns)


def test_channels_are_judged_on_eyes_with_masks(chain):
    units = chain["workspace"].frame("units", study="lesions")
    assert set(units["layer"]) == {"stem", "mixed2"}
    assert units["lesion_auc"].notna().any()
    lesions = chain["workspace"].frame("region_clusters")["lesion"]
    assert lesions.notna().all(), "every synthetic eye has a mask"


def test_sql_answers_over_the_views(chain):
    rows = query(
        chain["workspace"],
        "select split, count(*) as eyes from latest_predictions group by split order by split",
    )
    assert rows["eyes"].sum() == 39


def test_the_models_record_says_how_it_came_to_be_and_how_well_it_grades(chain):
    (record,) = chain["workspace"].models()
    assert record.architecture
    assert record.preprocess_id
    assert record.manifest
    assert record.weights_sha256
    told = {
        "seed",
        "versions",
        "git_commit",
        "training",
    }
    assert told <= set(record.notes)
    assert record.notes["origin"] == "trained"
    graded = chain["workspace"].frame("evaluation", split="test", stratum="all", metric="qwk")
    assert record.metrics["test"]["qwk"]["value"] == pytest.approx(float(graded["value"].iloc[0]))
    assert {"keras", "tensorflow", "numpy", "python", "dr-explain"} <= set(record.notes["versions"])
    assert record.notes["input_wait_share"] >= 0


def test_the_workspace_verifies(chain):
    assert verify(chain["workspace"]) == []


def report_folder(chain) -> pathlib.Path:
    return pathlib.Path(by_step(chain["runs"][4])["report"].message).parent


def told_of(folder: pathlib.Path, image_id: str) -> dict:
    """What an eye's script tells its page."""
    (script,) = folder.glob(f"eyes/*/{image_id}.js")
    return json.loads(script.read_text().removeprefix("report.eye(").removesuffix(");\n"))


def test_the_report_is_whole(chain):
    folder = report_folder(chain)
    assert "confusion.svg" in (folder / "model.html").read_text()
    explained = set(chain["workspace"].frame("attributions")["image_id"])
    assert {path.stem for path in folder.glob("eyes/*/*.js")} == explained
    assert {path.stem for path in folder.glob("eyes/*/*.jpg")} == explained
    without = {name for name in explained if told_of(folder, name)["photo"] is None}
    assert without == {chain["gone"]}, "Fig (a) begins with the photograph"
    shown = json.loads(
        (folder / "gallery/000.js").read_text().split(",", 1)[1].removesuffix(");\n")
    )
    assert set(shown["id"]) == explained
    for name, key, gap in zip(shown["id"], shown["key"], shown["gap"], strict=True):
        assert (folder / f"eyes/{key}.js").exists()
        predicted = shown["predicted"][shown["id"].index(name)]
        rows = chain["workspace"].frame("attributions", image_id=name, quantity=f"stage{predicted}")
        assert gap == pytest.approx(float(rows["relative_gap"].iloc[0]), abs=1e-4, nan_ok=True)
    regions = chain["workspace"].frame("lesion_regions", source="lesion")
    assert shown["share"] == pytest.approx(
        regions.groupby("image_id")["image_share"].sum().reindex(shown["id"]).tolist(), abs=1e-3
    )


def test_the_report_draws_eyes_that_are_new_or_changed_and_no_others(chain):
    """In the fourth run one photograph is gone, which its eye's figure shows."""
    drawn = [by_step(run)["report"].new_images for run in chain["runs"]]
    assert drawn[0] == by_step(chain["runs"][0])["report"].images == 5
    assert drawn[1] == drawn[4] == 0
    assert drawn[3] >= 1


def test_a_failing_stage_leaves_its_reason_in_the_runs(chain, tmp_path):
    from flows.pipeline import FLOWS
    from tasks.run.errors import UserError

    workspace = tmp_path / "fresh"
    with pytest.raises(UserError, match="run `dr train`"):
        FLOWS["attribute"](str(chain["config"]), [f"workspace={workspace}"])
    (row,) = open_workspace(workspace).frame("runs").to_dict("records")
    assert (row["stage"], row["state"]) == ("attribute", "failed")
    assert "run `dr train`" in row["message"]


def test_show_gives_numbers_neurons_and_one_picture(chain, tmp_path):
    from tasks.report.show import show_image

    name = sorted(set(chain["workspace"].frame("attributions")["image_id"]) - {chain["gone"]})[0]
    path, without = tmp_path / "eye.png", tmp_path / "less.png"
    numbers, neurons = show_image(
        chain["workspace"],
        name,
        path,
        photos=str(chain["photos"]),
        compare=("stage1", "referable"),
    )
    assert {row["what"]: row["value"] for row in numbers}["split"] == "test"
    assert {(row["layer"], row["sign"]) for row in neurons} >= {
        ("stem", "positive"),
        ("stem", "negative"),
    }
    show_image(chain["workspace"], name, without)
    whole, less = (cv2.imread(str(file)) for file in (path, without))
    assert whole.shape[0] == less.shape[0]
    assert whole.shape[1] > less.shape[1], "Fig (a) begins with the photograph"


def test_show_says_what_it_cannot_compare(chain, tmp_path):
    from tasks.report.show import show_image
    from tasks.run.errors import UserError

    name = sorted(set(chain["workspace"].frame("attributions")["image_id"]))[0]
    with pytest.raises(UserError, match="stage9 is not explained there; what is: stage0, "):
        show_image(chain["workspace"], name, tmp_path / "eye.png", compare=("stage0", "stage9"))


def test_durations_read_like_speech():
    assert duration(3599) == "59 min 59 s"


def test_a_lost_shard_comes_back_with_the_same_bytes(chain):
    """What a kill leaves at worst: a shard without its mark. The other shards are not computed
    again.
    """
    from flows.pipeline import FLOWS

    root = pathlib.Path(chain["workspace"].location)
    (ledger,) = root.glob("explanations/*/ledger")
    before = snapshot(root / "explanations")
    marks = {path.name: path.stat().st_mtime_ns for path in ledger.iterdir()}
    lost = sorted(marks)[0]
    (ledger / lost).unlink()
    (result,) = FLOWS["attribute"](str(chain["config"]))
    assert result.new_images == 4
    again = {path.name: path.stat().st_mtime_ns for path in ledger.iterdir()}
    assert {name for name in marks if again[name] != marks[name]} == {lost}
    after = snapshot(root / "explanations")
    assert {
        name for name in before if after[name] != before[name] and "/ledger/" not in name
    } == set()


def test_maps_of_eyes_with_masks_are_judged_beside_baseline_maps(chain):
    """`dr synthesise` leaves masks beside its photographs: every map of an explained eye with
    lesions has its scores.
    """
    rows = chain["workspace"].frame("evaluation", stratum="masks")
    rows = rows[rows["explain_id"] == chain["workspace"].attributions().name]
    sources = {
        "pixels",
        "lesion",
        "stem",
        "gradient",
        "gradient_input",
        "gradcam_mixed2",
        "centre",
        "contrast",
    }
    assert sources <= set(rows["source"])
    assert set(rows.loc[rows["source"] == "pixels", "quantity"]) == {
        f"stage{stage}" for stage in range(5)
    } | {"referable"}
    auc = rows[(rows["metric"] == "pixel_auc") & (rows["lesion"] == "any")]
    assert auc["value"].between(0, 1).all()
    assert (auc["chance"] == 0.5).all()
    assert auc["images"].nunique() == 1, "every map is judged on the same eyes"
    share = rows[(rows["metric"] == "energy") & (rows["lesion"] == "any")]
    assert share["chance"].nunique() == 1
    assert "best map" in by_step(chain["runs"][4])["aggregate"].message


def test_a_mask_that_does_not_fit_is_named_and_costs_the_others_nothing(chain, tmp_path):
    from dr_lib.localisation import LocalisationParams
    from dr_lib.maps import HeatmapParams
    from flows.config import load_config
    from storage.arrays.store import Span
    from storage.photos.types import Source
    from tasks.access.explained import explained_eyes
    from tasks.access.masks import masks_location, masks_of, with_masks
    from tasks.aggregate.shard import AggregateJob, aggregate_shard
    from tasks.run.errors import UserError
    from tasks.run.table_part import TablePart

    folder = tmp_path / "masks"
    shutil.copytree(chain["photos"] / "masks", folder)
    workspace, recipe = chain["workspace"], load_config(chain["config"]).recipe
    ids = recipe.resolve(workspace)
    model_id = ids.model_id
    names = workspace.attributions()["image_id"].values.tolist()
    reshaped, broken = [name for name in names if name != chain["spoilt"]][:2]
    cv2.imwrite(
        str(folder / f"{reshaped}.png"), cv2.imread(str(folder / f"{reshaped}.png"))[:, :-60]
    )
    (folder / f"{broken}.png").write_bytes(b"no picture")
    index = masks_of(workspace, [Source("")], LocalisationParams(masks=str(folder)))
    eyes = with_masks(explained_eyes(workspace, model_id, names), index)
    judged, problems = [], []
    for start in range(0, len(names), 4):
        span = Span(start // 4, start, min(start + 4, len(names)))
        job = AggregateJob(
            ids,
            span,
            eyes.iloc[span.rows],
            TablePart(workspace, ids.explain_id, span.part, ""),
            recipe.preprocess,
            recipe.attribution,
            HeatmapParams(),
            LocalisationParams(baseline_maps=False),
            judged=True,
        )
        result = aggregate_shard(job)
        judged += result.judged
        problems += result.problems
    assert sorted(problem.image_id for problem in problems) == sorted([reshaped, broken])
    assert any("does not fit a photograph of" in problem.detail for problem in problems)
    assert any("no image that can be decoded" in problem.detail for problem in problems)
    assert len(judged) == len(names) - 3, "all but those two and the one without a fundus"

    assert masks_location(Source(str(tmp_path)), LocalisationParams()) == folder
    assert masks_location(Source(str(folder)), LocalisationParams()) is None
    assert masks_location(Source("s3://bucket/photos"), LocalisationParams()) is None
    with pytest.raises(UserError, match="no such folder or file"):
        masks_location(Source(""), LocalisationParams(masks=str(tmp_path / "elsewhere")))
    with pytest.raises(UserError, match=r"masks of the source far = .*: no such folder or file"):
        masks_location(Source("", "far", masks=str(tmp_path / "elsewhere")), LocalisationParams())
