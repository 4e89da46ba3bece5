"""The twenty questions of docs/questions.md: each runs, answers with the columns that the page
shows, and answers rightly.
"""

import numpy as np
import pandas as pd
import pytest

from storage.admin.catalog import query
from tests.analyst.questions import as_text, questions

QUESTIONS = {question.number: question for question in questions()}


@pytest.fixture(scope="module")
def answers(filled):
    return {number: query(filled, question.sql) for number, question in QUESTIONS.items()}


def test_there_are_twenty():
    assert list(QUESTIONS) == list(range(1, 21))
    assert all(question.text.endswith("?") for question in QUESTIONS.values())


@pytest.mark.parametrize("number", range(1, 21))
def test_a_question_has_an_answer_with_the_columns_of_the_page(answers, number):
    assert len(answers[number]), QUESTIONS[number].text
    shown = QUESTIONS[number].columns
    assert shown == tuple(answers[number].columns), (
        "fill the page in: python -m tests.analyst.questions WORKSPACE"
    )


def same(found, expected):
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(expected, float), rtol=1e-5
    )  # float32 sums


def test_stages_taken_for_others_are_the_confusion_matrix(filled, answers):
    eyes = filled.frame("predictions", split="test")
    counted = eyes.groupby(["stage", "predicted_stage"]).size()
    found = answers[2].set_index(["true_stage", "predicted_stage"])["eyes"]
    assert found.to_dict() == {(int(a), int(b)): int(n) for (a, b), n in counted.items()}


def test_missed_eyes_are_those_that_pandas_finds(filled, answers):
    eyes = filled.frame("predictions", split="test")
    missed = eyes[(eyes["stage"] >= 2) & (eyes["predicted_stage"] < 2)]
    missed = missed.sort_values(["probability_referable", "image_id"]).head(8)
    assert answers[3]["image_id"].tolist() == missed["image_id"].tolist()


def test_exactness_leaves_failed_maps_out_of_medians_but_not_out_of_the_share(filled, answers):
    rows = filled.frame("attributions", quantity="stage4")
    found = answers[5].set_index("quantity").loc["stage4"]
    same(found["median_gap"], rows["relative_gap"].median())
    same(found["gap_95"], rows["relative_gap"].quantile(0.95))
    same(found["share_converged"], rows["converged"].mean())
    assert found["maps"] == len(rows)


def test_maps_to_leave_out_begin_with_those_that_failed(filled, answers):
    rows = filled.frame("attributions")
    failed = rows[rows["failure"].notna()]
    assert (~answers[6]["why"].eq("tolerance not met")).sum() == min(8, len(failed))
    kept = answers[6][answers[6]["why"] == "tolerance not met"]["relative_gap"]
    assert kept.is_monotonic_decreasing


def test_extents_a_layer_are_pandas_medians(filled, answers):
    found = answers[8].set_index("layer")
    rows = filled.frame("neurons").groupby("layer")
    same(found["extent_px"], rows["region_extent_px"].median().loc[found.index])
    same(found["top1_share"], rows["region_top1_share"].median().loc[found.index])
    assert found.index.tolist() == ["stem", "mixed2", "fc1"], "from local to scattered"


def test_symmetry_by_stage_is_a_join_that_loses_no_eye(filled, answers):
    stats = filled.frame("heatmap_stats", source="pixels", quantity="stage0")
    joined = stats.merge(filled.frame("predictions"), on="image_id")
    found = answers[11].set_index("stage")
    assert found["eyes"].sum() == 120
    same(found["mean_correlation"], joined.groupby("stage")["symmetry_stage0_stage4"].mean())


def test_regions_of_each_stage_are_counted_by_eye(filled, answers):
    rows = filled.frame("lesion_regions", source="stem", sign="positive")
    by_eye = rows.groupby("image_id").agg(
        regions=("region", "size"), area=("area_px", "median"), share=("image_share", "sum")
    )
    by_eye = by_eye.join(filled.frame("predictions").set_index("image_id")["stage"]).groupby(
        "stage"
    )
    found = answers[14].set_index("stage")
    same(found["regions"], by_eye["regions"].mean())
    same(found["median_area_px"], by_eye["area"].median())
    same(found["share_of_the_map"], by_eye["share"].mean())


def test_the_best_channel_of_a_type_is_the_one_furthest_from_chance(filled, answers):
    units = filled.frame("units", study="lesions")
    for row in answers[19].itertuples():
        some = units[(units["layer"] == row.layer) & (units["best_lesion"] == row.best_lesion)]
        best = some.loc[(some["lesion_auc"] - 0.5).abs().idxmax()]
        assert row.channel == best["unit"]
        same([row.auc, row.held_out], [best["lesion_auc"], best["lesion_auc_held_out"]])


def test_groups_of_regions_hold_every_region_once(filled, answers):
    regions = filled.frame("lesion_regions", source="stem", sign="positive")
    assert answers[20]["regions"].sum() == len(regions)
    shares = answers[20][
        ["no_lesion", "microaneurysm", "haemorrhage", "exudate", "new_vessels"]
    ].sum(axis=1)
    same(shares, np.ones(len(shares)))


def test_an_answer_is_written_so_that_a_page_can_show_it():
    frame = pd.DataFrame({"name": ["a", None], "value": [0.123456, np.nan], "count": [3, 4]})
    assert (
        as_text(frame)
        == "| name | value | count |\n|---|---|---|\n| a | 0.123 | 3 |\n| – | – | 4 |"
    )
    assert as_text(frame.head(0)).endswith("| – | – | – |")
