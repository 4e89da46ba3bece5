"""Flagged eyes: listed, told apart in the evaluation, and, when that is asked, neither learnt
from nor explained.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.fundus.quality import FAULTS, MEASURES, OFFSET, score, score_parts
from dr_lib.network.model import ModelParams
from dr_lib.training import TrainingParams
from storage import open_workspace
from storage.admin.catalog import query
from storage.arrays.store import ShardedStore
from storage.contents.fundus import DONE, REJECTED, fundus_specs
from storage.contents.models import load_records
from storage.layout import fundus_path
from tasks.access.images import usable_rows
from tasks.access.quality import (
    COLUMNS,
    FLAGGED,
    GOOD,
    eye_quality,
    shortcomings,
    strata,
    write_quality,
)
from tasks.run.recipe import Recipe

SCORES = (0.9, 0.2, 0.8, 0.38, 0.4)
RECIPE = Recipe(
    PreprocessParams(size=32),
    ModelParams(backbone="small", backbone_weights="none", input_size=32),
    TrainingParams(),
    AttributionParams(),
)


@pytest.fixture
def workspace(tmp_path):
    """Six photographs in shards of four: five with the scores above, of which the second is
    dark, and one rejected.
    """
    ws = open_workspace(tmp_path / "workspace")
    measures = [name for name in MEASURES if name not in ("score", "confidence")]
    store = ShardedStore.create_or_open(
        ws.files, fundus_path(RECIPE.preprocess_id), fundus_specs(32, measures), 4
    )
    store.extend([f"{row}_left" for row in range(6)])
    for span in store.spans():
        arrays = {
            spec.path: np.full((span.images, *spec.shape), 0.5, spec.dtype) for spec in store.specs
        }
        arrays["quality"] = np.array([*SCORES, np.nan], np.float32)[span.rows]
        arrays["status"] = np.array([DONE] * 5 + [REJECTED], np.uint8)[span.rows]
        arrays["redness"] = np.array([0.7, 0.1, 0.7, 0.7, 0.7, np.nan], np.float32)[span.rows]
        store.write_shard(
            span, arrays, digests=[f"sha-{row}" for row in range(span.start, span.stop)]
        )
    return ws


def exclude(recipe: Recipe, threshold: float = 0.39) -> Recipe:
    preprocess = dataclasses.replace(recipe.preprocess, quality_threshold=threshold)
    return dataclasses.replace(recipe, preprocess=preprocess, flagged="exclude")


def test_the_table_has_a_column_for_every_measure():
    assert set(MEASURES) <= set(COLUMNS), (
        "a new measure needs a column in storage/tables/columns.toml"
    )


def test_every_eye_with_a_fundus_is_listed_and_the_low_ones_are_flagged(workspace):
    assert write_quality(workspace, RECIPE)
    found = query(workspace, "select image_id, score, flagged from latest_quality order by 1")
    assert found["image_id"].tolist() == [f"{row}_left" for row in range(5)]
    assert found["flagged"].tolist() == [score < 0.39 for score in SCORES]
    assert (
        workspace.frame("quality", preprocess_id="latest")["image_id"].tolist()
        == found["image_id"].tolist()
    )


def test_what_is_written_is_written_once_until_the_threshold_changes(workspace):
    assert write_quality(workspace, RECIPE)
    assert not write_quality(workspace, RECIPE)
    stricter = dataclasses.replace(
        RECIPE, preprocess=dataclasses.replace(RECIPE.preprocess, quality_threshold=0.85)
    )
    assert stricter.preprocess_id == RECIPE.preprocess_id, "a flag decides no pixel"
    assert write_quality(workspace, stricter)
    assert eye_quality(workspace, stricter)["flagged"].tolist() == [False, True, True, True, True]


def test_flagged_eyes_are_used_unless_they_are_excluded(workspace):
    kept, left = RECIPE.least_quality, exclude(RECIPE).least_quality
    assert usable_rows(workspace, RECIPE.preprocess_id, kept).tolist() == [0, 1, 2, 3, 4]
    assert usable_rows(workspace, RECIPE.preprocess_id, left).tolist() == [0, 2, 4]


def test_ids_change_only_where_eyes_are_left_out(workspace, monkeypatch):
    monkeypatch.setattr(Recipe, "model_id", lambda self, workspace: "m" * 12)
    assert not load_records(workspace.files)
    stricter = dataclasses.replace(
        RECIPE, preprocess=dataclasses.replace(RECIPE.preprocess, quality_threshold=0.5)
    )
    same, other = (RECIPE, stricter), (RECIPE, exclude(RECIPE), exclude(RECIPE, 0.5))
    for identity in (
        lambda recipe: recipe.training_id,
        lambda recipe: recipe.explain_id(workspace),
    ):
        assert len({identity(recipe) for recipe in same}) == 1
        assert len({identity(recipe) for recipe in other}) == 3


def test_each_eye_is_in_the_stratum_of_its_quality(workspace):
    asked = pd.Series(["1_left", "2_left", "3_left"], index=[7, 5, 9])
    assert strata(workspace, RECIPE, asked).to_dict() == {7: FLAGGED, 5: GOOD, 9: FLAGGED}


def test_what_lowers_a_score_most_is_named_with_its_usual_value(workspace):
    why = shortcomings(eye_quality(workspace, RECIPE)).iloc[1]
    assert (why["fault"], why["measure"]) == ("dark", "redness")
    assert (why["value"], why["usual"]) == pytest.approx((0.1, 0.7))


def test_the_parts_of_a_score_are_its_logit():
    """logit(score) = offset + the parts, as long as the disc is wholly seen; then what is
    missing multiplies the score.
    """
    measures = dict.fromkeys(MEASURES, 0.5) | {"visible": 1.0, "confidence": 1.0}
    parts = score_parts({name: np.array([value]) for name, value in measures.items()})
    assert set(parts) == set(FAULTS)
    logit = OFFSET + sum(part.item() for part in parts.values())
    assert score(measures) == pytest.approx(1 / (1 + np.exp(-logit)))
    cut = score_parts(
        {name: np.array([value]) for name, value in (measures | {"visible": 0.3}).items()}
    )
    assert np.exp(cut["visible"].item()) == pytest.approx(
        score(measures | {"visible": 0.3}) / score(measures)
    )
