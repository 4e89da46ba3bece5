"""The whole chain on a handful of synthetic eyes: it ends, it leaves what DESIGN names, and it never works twice."""

import hashlib
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from storage import open_workspace
from storage.catalog import query
from storage.explanations import FAILED
from storage.schemas import SCHEMAS
from storage.verify import verify
from tasks.progress import duration

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def chain(tmp_path_factory, drawn_photos, prefect_server):
    """Five runs in one workspace: the first; nothing new; two more eyes and three bad inputs; an explained eye deleted and
    another replaced by what cannot be graded; nothing new."""
    from flows.pipeline import FLOWS
    from tests.flows.conftest import TINY

    root = tmp_path_factory.mktemp("chain")
    photos = root / "photos"
    shutil.copytree(drawn_photos, photos)
    held_back = [photos / "train" / f"{20}_{eye}.jpeg" for eye in ("left", "right")]
    for path in held_back:
        path.rename(root / path.name)
    config = root / "tiny.toml"
    config.write_text(TINY.format(photos=photos, workspace=root / "workspace"))

    first = FLOWS["run"](str(config))
    untouched = snapshot(root / "workspace")
    second = FLOWS["run"](str(config))
    after_second = snapshot(root / "workspace")

    for path in held_back:
        (root / path.name).rename(path)
    (photos / "train" / "501_left.jpeg").write_bytes(b"")
    (photos / "train" / "502_left.jpeg").write_bytes(b"this is no photograph")
    with (photos / "trainLabels.csv").open("a") as labels:
        labels.write("501_left,0\n502_left,1\n503_left,2\n")
    third = FLOWS["run"](str(config))

    workspace = open_workspace(root / "workspace")
    gone, spoilt = sorted(set(workspace.frame("attributions")["image_id"]))[:2]
    (photos / "train" / f"{gone}.jpeg").unlink()
    cv2.imwrite(str(photos / "train" / f"{spoilt}.jpeg"), np.full((400, 400, 3), 90, np.uint8))
    fourth = FLOWS["run"](str(config))
    fifth = FLOWS["run"](str(config))
    return {
        "config": config,
        "photos": photos,
        "workspace": workspace,
        "gone": gone,
        "spoilt": spoilt,
        "runs": (first, second, third, fourth, fifth),
        "snapshots": (untouched, after_second),
    }


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """The hash of every result; records of runs and the query catalogue tell of the run itself."""
    told = ("tables/runs/", "catalog.duckdb", "catalog.sql", ".locks/")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if not name.startswith(told)}


def by_stage(results):
    return {result.stage: result for result in results}


def test_every_stage_ran_in_order_and_says_what_it_did(chain):
    first = chain["runs"][0]
    stages = ["ingest", "preprocess", "train", "attribute", "aggregate", "counterfactuals", "linearity", "report"]
    assert [result.stage for result in first] == stages
    assert all(result.message for result in first)


def test_nothing_new_is_no_work_and_changes_no_byte(chain):
    assert [result.new_images for result in chain["runs"][1]] == [0] * 8
    assert chain["snapshots"][1] == chain["snapshots"][0]


def test_two_more_eyes_are_two_eyes_work(chain):
    third = by_stage(chain["runs"][2])
    assert third["ingest"].new_images == 2
    assert third["preprocess"].new_images == 2
    assert third["train"].message.split(":")[0] == by_stage(chain["runs"][0])["train"].message.split(":")[0], "the same model"
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
    for table in ("predictions", "attributions", "neurons", "lesion_regions", "heatmap_stats", "linearity"):
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
    assert list(pixels["quantity"].values) == ["stage0", "stage1", "stage2", "stage3", "stage4", "referable"]
    for name in ("outcome", "baseline_outcome", "gap", "map_error", "points", "converged"):
        assert pixels[name].dims == ("image", "quantity")
    stem = tree["layers/stem"]
    assert stem["neuron"].dims == ("image", "sign", "rank", "axis")
    assert stem["region"].dims == ("image", "sign", "rank", "region_y", "region_x")
    assert stem["resultant"].dims == ("image", "sign", "y", "x")
    for array in (pixels["attribution"], stem["region"]):
        assert {"long_name", "units", "description"} <= set(array.attrs)


def test_stored_maps_sum_to_their_outcome_but_for_the_stored_gap(chain):
    """Completeness, read back from disk: Σ attribution = F(x) − F(x') + gap, to what rounding to 9 bits may take."""
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
    assert (np.abs(stages.isel(quantity=slice(2, 5)).sum("quantity") - maps.sel(quantity="referable")) <= size).all()


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_every_table_reads_with_its_schema(chain, table):
    frame = chain["workspace"].frame(table)
    assert set(SCHEMAS[table].names) <= set(frame.columns)
    # The tiny model may take no stage-1 eye for stage 0 and have no special unit; a second model and further poses are asked for
    # only where the configuration says so.
    optional = ("counterfactuals", "adversarials", "comparisons", "transfers", "unit_effects", "pose_predictions")
    if table not in optional:
        assert len(frame)


def test_sql_answers_over_the_views(chain):
    rows = query(chain["workspace"], "select split, count(*) as eyes from latest_predictions group by split order by split")
    assert rows["eyes"].sum() == 39


def test_the_models_record_says_how_it_came_to_be_and_how_well_it_grades(chain):
    (record,) = chain["workspace"].models()
    told = {
        "architecture",
        "preprocess_id",
        "manifest",
        "seed",
        "versions",
        "git_commit",
        "metrics",
        "weights_sha256",
        "training",
    }
    assert told <= set(record)
    assert record["origin"] == "trained"
    graded = chain["workspace"].frame("evaluation", split="test", stratum="all", metric="qwk")
    assert record["metrics"]["test"]["qwk"]["value"] == pytest.approx(float(graded["value"].iloc[0]))
    assert {"keras", "tensorflow", "numpy", "python", "dr-explain"} <= set(record["versions"])
    assert record["input_wait_share"] >= 0


def test_the_workspace_verifies(chain):
    assert verify(chain["workspace"]) == []


def test_the_report_is_whole(chain):
    report = pathlib.Path(by_stage(chain["runs"][4])["report"].message)
    page = report.read_text()
    assert "confusion.svg" in page
    pages = list(report.parent.glob("eyes/*.html"))
    assert {path.stem for path in pages} == set(chain["workspace"].frame("attributions")["image_id"])
    without = {path.stem for path in pages if f"{path.stem}-figure-a.png" not in path.read_text()}
    assert without == {chain["gone"]}, "Fig (a) begins with the photograph"


def test_a_failing_stage_leaves_its_reason_in_the_runs(chain, tmp_path):
    from flows.pipeline import FLOWS
    from tasks.errors import UserError

    workspace = tmp_path / "fresh"
    with pytest.raises(UserError, match="run `dr train`"):
        FLOWS["attribute"](str(chain["config"]), [f"workspace={workspace}"])
    (row,) = open_workspace(workspace).frame("runs").to_dict("records")
    assert (row["stage"], row["state"]) == ("attribute", "failed")
    assert "run `dr train`" in row["message"]


def test_durations_read_like_speech():
    assert duration(3599) == "59 min 59 s"


def test_a_lost_shard_comes_back_with_the_same_bytes(chain):
    """What a kill leaves at worst: a shard without its mark. The other shards are not computed again."""
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
    assert {name for name in before if after[name] != before[name] and "/ledger/" not in name} == set()
