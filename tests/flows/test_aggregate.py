"""From stored arrays to tables, bad maps among them: nothing is lost, and what is wrong is said
(no model, no photograph).
"""

import collections
import types

import cv2
import numpy as np
import pandas as pd
import pytest

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.localisation import LocalisationParams, UnusableMask
from dr_lib.localisation.channel_dissection import ChannelDissectionParams
from dr_lib.maps import HeatmapParams
from dr_lib.maps.region_clustering import RegionClusteringParams
from dr_lib.synthetic import MASK_COLOURS
from storage import open_workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ShardedStore
from storage.contents.explanations import (
    DONE,
    FAILED,
    ExplanationRecord,
    LayerShape,
    explanation_specs,
    save_record,
)
from storage.contents.fundus import fundus_specs
from storage.contents.snapshots import open_set
from storage.layout import attributions_path, fundus_path
from storage.photos.masks import MaskFile
from storage.photos.types import Source
from storage.tables.schemas import SCHEMAS
from tasks.access.masks import read_planes
from tasks.access.stores import blank
from tasks.aggregate import lesion_study
from tasks.aggregate import step as stage
from tasks.report.units import Atlas, cut_out
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session
from tests.flows import explained
from tests.flows.inline import InlinePool, run_here

SIZE = 64
IDS = ["1_left", "1_right", "2_left", "2_right"]
GOOD, ZERO, LOST, LOOSE = range(
    4
)  # an ordinary map, a map of zeros, one that failed, one that missed its tolerance
PARAMS = AttributionParams(
    quantities=("stage0", "stage2", "stage4"), layers=("stem",), neurons=1, lesion_poses=0
)
RECIPE = types.SimpleNamespace(
    explain_id=lambda ws: "e" * 12,
    model_id=lambda ws: "m" * 12,
    resolve=lambda ws: ResolvedIds(ws.location, "p" * 12, "m" * 12, "e" * 12),
    preprocess_id="p" * 12,
    attribution=PARAMS,
    preprocess=PreprocessParams(size=SIZE),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    ws = open_workspace(tmp_path_factory.mktemp("aggregate"))
    count = len(IDS)
    common = {
        "image_id": IDS,
        "patient_id": ["1", "1", "2", "2"],
        "eye": ["left", "right"] * 2,
        "split": "test",
        "stage": [4, 2, 4, 4],
    }
    photos = {
        "position": range(count),
        "path": IDS,
        "bytes": 1,
        "width_px": SIZE,
        "height_px": SIZE,
        "sha256": IDS,
        "present": True,
    }
    ws.write_table("photos", _frame("photos", common | photos))
    ws.write_table(
        "predictions",
        _frame("predictions", common | {"predicted_stage": [4, 2, 4, 4]}),
        partition="m" * 12,
    )
    fundi = ShardedStore.create_or_open(
        ws.files, fundus_path("p" * 12), fundus_specs(SIZE), attrs={"preprocess": {"crop": 0.1}}
    )
    fundi.extend(IDS)
    (span,) = fundi.spans()
    arrays = blank(fundi, span)
    arrays["pixels"][:] = np.random.default_rng(0).integers(
        100, 156, arrays["pixels"].shape, dtype=np.uint8
    )
    fundi.write_shard(span, arrays, digests=IDS)

    layers = {"stem": LayerShape((16, 16, 3), 8, 1)}
    # As an earlier version made it, without what tells the units apart.
    specs = explanation_specs(PARAMS.quantities, SIZE, layers)
    specs = [spec for spec in specs if not spec.path.endswith(("_place", "channel_activation"))]
    store = ShardedStore.create_or_open(ws.files, attributions_path("e" * 12), specs)
    save_record(ws.files, ExplanationRecord("e" * 12, "m" * 12))
    store.extend(IDS)
    (span,) = store.spans()
    arrays = blank(store, span)
    spot = np.zeros((SIZE, SIZE), np.float32)
    spot[20:26, 40:46] = 1e-3
    for row in (GOOD, ZERO, LOOSE):
        scale = 0.0 if row == ZERO else 1.0
        arrays["pixels/attribution"][row] = [-scale * spot, scale * spot / 2, scale * spot]
        arrays["layers/stem/resultant"][row] = [scale * spot, -scale * spot[::-1]]
        (
            arrays["pixels/outcome"][row],
            arrays["pixels/baseline_outcome"][row],
            arrays["pixels/gap"][row],
        ) = (0.5, 0.2, 0.0)
    arrays["pixels/converged"][[GOOD, ZERO]] = True
    arrays["pixels/status"][:] = [DONE, DONE, FAILED, DONE]
    store.write_shard(
        span,
        arrays,
        digests=IDS,
        record=ShardRecord(failed={IDS[LOST]: "its results are not finite"}),
    )
    return ws


def _frame(table, given):
    return pd.DataFrame(given).reindex(columns=SCHEMAS[table].names)


def run(ws, monkeypatch, **heatmaps):
    run_here(monkeypatch, stage, lesion_study)
    session = Session(ws, InlinePool())
    result = stage.aggregate(
        session, RECIPE, [Source(ws.location)], HeatmapParams(**heatmaps), LocalisationParams()
    )
    studies = LocalisationParams(), RegionClusteringParams(clusters=2), ChannelDissectionParams()
    assert lesion_study.lesion_study(session, RECIPE, [Source(ws.location)], *studies) == "", (
        "there are no masks"
    )
    return result


def test_nothing_is_lost_and_what_is_wrong_is_said(workspace, monkeypatch):
    result = run(workspace, monkeypatch)
    assert result.new_images == 4
    told = workspace.frame("attributions").set_index(["image_id", "quantity"]).sort_index()
    assert len(told) == 4 * 3, "every image has its rows"
    lost = told.loc[IDS[LOST]]
    assert (lost["failure"] == "its results are not finite").all()
    assert lost[["outcome", "gap", "relative_gap", "positive_sum"]].isna().all(axis=None)
    assert not lost["converged"].any()
    assert told["failure"].notna().sum() == len(lost), "the others did not fail"

    stats = (
        workspace.frame("heatmap_stats").set_index(["image_id", "source", "quantity"]).sort_index()
    )
    zero = stats.loc[(IDS[ZERO], "pixels", "stage4")]
    assert (zero["positive_total"], zero["negative_total"], zero["regions_positive"]) == (0, 0, 0)
    assert np.isnan(zero["gini"]), "nothing is distributed"
    regions = workspace.frame("lesion_regions")
    assert set(regions["image_id"]) == {IDS[GOOD], IDS[LOOSE]}
    loose = regions[(regions["image_id"] == IDS[LOOSE]) & (regions["source"] == "pixels")]
    assert len(loose)
    assert loose["converged"].eq(False).all(), "kept, and marked"
    assert regions[regions["source"] == "stem"]["converged"].isna().all(), (
        "a resultant has no such mark"
    )
    assert len(workspace.frame("lesion_regions", converged=True)) == 3, (
        "and so excluded by asking for it"
    )
    assert run(workspace, monkeypatch).new_images == 0


def test_groups_count_what_they_hold_and_can_leave_unconverged_maps_out(workspace, monkeypatch):
    """Right and left eye of stage 4 hold the same spot: mirrored, the left one's lies at 63 − x."""
    run(workspace, monkeypatch)
    name = "stage=4,predicted_stage=4"
    key = {
        "group_name": name,
        "source": "pixels",
        "quantity": "stage4",
        "profile": "radial",
        "bin": 0,
    }
    assert workspace.frame("group_heatmaps", **key)["images"].tolist() == [2]
    maps = open_set(workspace.files, "e" * 12, "groups").to_dataframe().reset_index()
    both = maps[
        (maps["group_name"] == name) & (maps["source"] == "pixels") & (maps["quantity"] == "stage4")
    ]
    lit = both[both["mean_positive"] > 0]
    assert sorted(lit["x"].unique() if "x" in lit else lit.groupby("x").groups) == [
        *range(18, 24),
        *range(40, 46),
    ]
    assert lit["mean_positive"].to_numpy() == pytest.approx(5e-4, rel=2e-3), (
        "each in one of two images"
    )
    run(workspace, monkeypatch, unconverged="leave_out")
    assert workspace.frame("group_heatmaps", **key)["images"].tolist() == [1]


def test_regions_have_a_group_each_and_without_masks_no_lesion(workspace, monkeypatch):
    run(workspace, monkeypatch)
    clusters = workspace.frame("region_clusters")
    regions = workspace.frame("lesion_regions", source="stem", sign="positive")
    assert len(clusters) == len(regions) == 2
    assert clusters["lesion"].isna().all()
    assert workspace.frame("units").empty, "no mask, no verdict on channels"
    assert workspace.frame("unit_examples").empty, "an earlier version kept no places"


def test_a_shard_is_read_once_whatever_is_made_of_it(tmp_path, monkeypatch):
    """Rows, sums over groups and judgements by masks in one reading, and no other to see who is
    explained; nothing to do reads nothing.
    """
    ws = open_workspace(tmp_path / "workspace")
    explained.explain(ws, 8)
    masks = tmp_path / "photos" / "masks"
    masks.mkdir(parents=True)
    mask = np.zeros((*explained.PHOTO_SHAPE, 3), np.uint8)
    mask[60:78, 60:76] = MASK_COLOURS["haemorrhage"][::-1]
    for name in explained.names(8):
        cv2.imwrite(str(masks / f"{name}.png"), mask)
    readings = collections.Counter()
    read = ShardedStore.read

    def counted(store, span, paths=None):
        readings[store.path.split("/")[0], span.index] += 1
        return read(store, span, paths)

    monkeypatch.setattr(ShardedStore, "read", counted)
    run_here(monkeypatch, stage, lesion_study)
    session, photos = Session(ws, InlinePool()), [Source(str(tmp_path / "photos"))]
    judge = LocalisationParams(baseline_maps=False, resamples=10)

    def aggregate():
        result = stage.aggregate(session, explained.RECIPE, photos, HeatmapParams(), judge)
        studies = LocalisationParams(), RegionClusteringParams(), ChannelDissectionParams()
        lesion_study.lesion_study(session, explained.RECIPE, [Source("")], *studies)
        return result

    assert "lesions in 8 masks" in aggregate().message
    assert readings == {("explanations", 0): 1, ("explanations", 1): 1}
    assert len(ws.frame("group_heatmaps"))
    assert len(ws.frame("region_clusters"))
    readings.clear()
    assert "lesions in 8 masks" in aggregate().message
    assert not readings


@pytest.fixture
def aggregated(tmp_path, monkeypatch):
    """Makes a workspace of so many explained eyes, in shards of four, and aggregates it; returns it
    and the shards that were read for that."""
    readings = []
    read = ShardedStore.read

    def noted(store, span, paths=None):
        readings.append(span.index)
        return read(store, span, paths)

    monkeypatch.setattr(ShardedStore, "read", noted)
    run_here(monkeypatch, stage)

    def make(name, count=None):
        ws = open_workspace(tmp_path / name)
        if count:
            explained.explain(ws, count)
        readings.clear()
        judge = LocalisationParams(baseline_maps=False)
        session = Session(ws, InlinePool())
        stage.aggregate(session, explained.RECIPE, [], HeatmapParams(), judge)
        return ws, list(readings)

    return make


def sums(ws) -> dict[str, bytes]:
    """What is made of all eyes together: two tables, groups' maps, and what is kept."""
    names = [name for place in ("tables", "explanations") for name in ws.files.walk(place)]
    parts = ("contributions.parquet", "groups.parquet", "groups-", "groups.json", "sums")
    return {name: ws.files.read(name) for name in names if any(part in name for part in parts)}


def test_new_eyes_are_added_to_the_sums_over_full_shards_that_were_kept(aggregated):
    ws, _ = aggregated("grown", 10)
    ws, readings = aggregated("grown", 11)
    assert readings == [2], "two full shards are in the sums already"
    _, readings = aggregated("grown")
    assert readings == [], "nothing is new"
    at_once, _ = aggregated("at once", 11)
    assert sums(ws) == sums(at_once), "the way there leaves no trace"
    examples = ws.frame("unit_examples")
    assert set(examples["kind"]) == {"for", "against", "excites"}
    units = ws.frame("units", study="contributions")
    assert units.groupby("layer").size().to_dict() == {"stem": 8, "fc1": 16}
    assert (units["images"] == 11).all()
    dense = units["layer"] == "fc1"
    assert units.loc[dense, "place_vessel"].isna().all()
    assert units.loc[~dense, "place_vessel"].notna().all()


def test_a_changed_eye_in_a_kept_shard_makes_all_sums_anew(aggregated):
    ws, _ = aggregated("changed", 8)
    predictions = ws.frame("predictions").drop(columns="model_id")
    predictions.loc[1, "stage"] = 4
    ws.write_table("predictions", predictions, partition=explained.MODEL_ID)
    _, readings = aggregated("changed")
    assert readings == [0, 1]


def test_a_unit_is_drawn_once_until_its_eyes_change(aggregated):
    ws, _ = aggregated("drawn", 8)
    ids = explained.RECIPE.resolve(ws)

    def draw() -> int:
        atlas = Atlas(ids, ())
        windows = sum(atlas.collect(cut_out(job)) for job in atlas.jobs())
        atlas.write()
        return windows

    folder = f"report/{ids.explain_id}/atlas"
    assert draw() == len(ws.frame("unit_examples"))
    pictures = {name: ws.files.read(name) for name in ws.files.walk(folder)}
    assert len(pictures) == 8 + 16 + 1
    assert draw() == 0
    ws.files.remove(f"{folder}/made.json")  # killed before that was noted
    assert draw() > 0
    assert {name: ws.files.read(name) for name in ws.files.walk(folder)} == pictures
    aggregated("drawn", 9)
    assert 0 < draw() <= len(ws.frame("unit_examples"))


@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "a text"])
def test_a_mask_is_unusable_for_what_it_holds_and_not_for_a_disk_that_is_away(tmp_path, content):
    """What is noted of a mask's bytes is not looked at again until the file changes; an absent disk
    does not change it.
    """
    path = tmp_path / "1_left.png"
    path.write_bytes(content)
    for lesion in ("", "haemorrhage"):
        with pytest.raises(UnusableMask, match="no image that can be decoded"):
            read_planes([MaskFile(str(path), lesion)])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_planes([MaskFile(str(path))])
