"""What a fundus shows ends where its own `preprocess.crop` says, in every step that asks where that
is.
"""

import numpy as np
import pytest

import tasks.aggregate.step
import tasks.attribute.step
import tasks.counterfactuals.shard
import tasks.counterfactuals.step
import tasks.counterfactuals.tables
import tasks.linearity.step
from dr_lib.fundus import PreprocessParams
from dr_lib.fundus.anatomy import visible_disc
from storage.ids import content_id
from tasks.access.stores import crop_settings
from tasks.aggregate.step import aggregate
from tasks.attribute.step import attribute
from tasks.counterfactuals.step import counterfactuals
from tasks.linearity.step import linearity
from tasks.run.session import Session
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool, run_here

SIZE, CROP = 32, 0.4
SEEN = visible_disc(SIZE, crop=CROP)
SETTINGS = [
    f"preprocess.crop={CROP}",
    "attribution.neurons=1",
    "attribution.limit=2",
    "counterfactuals.methods=['constant_regions']",
    "counterfactuals.bisections=0",
    "adversarials.methods=['fgsm_linf']",
    "adversarials.bisections=0",
    "linearity.layers=['fc1']",
    "linearity.limit=1",
    "linearity.strengths=2",
    "linearity.points=2",
]


@pytest.fixture(scope="module")
def steps(tmp_path_factory, tiny_trunk):
    """(workspace, what each function was told of the disc) after all steps that ask for it, on
    fundi cropped to 0.6 R.
    """
    folder = tmp_path_factory.mktemp("crop")
    config, workspace = prepare(write_config(folder, size=SIZE), image_ids(2), settings=SETTINGS)
    model_id = config.recipe.model_id(workspace)
    eyes = workspace.frame("predictions", model_id=model_id).drop(columns="model_id")
    workspace.write_table(
        "predictions", eyes.assign(stage=1, predicted_stage=0), partition=model_id
    )
    told: dict[str, object] = {}
    modules = (
        tasks.attribute.step,
        tasks.aggregate.step,
        tasks.counterfactuals.step,
        tasks.counterfactuals.tables,
        tasks.linearity.step,
    )
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, *modules, tasks.linearity.step)
        for module, name, argument in (
            (tasks.counterfactuals.shard, "smallest_strength", "crop"),
            (tasks.counterfactuals.shard, "smallest_epsilon", "inside"),
            (tasks.linearity.step, "linearity_study", "inside"),
        ):
            patch.setattr(module, name, _noting(told, getattr(module, name), argument))
        session = Session(workspace, InlinePool())
        attribute(session, config.recipe, config.storage)
        aggregate(
            session, config.recipe, config.data.every_source, config.heatmaps, config.localisation
        )
        counterfactuals(
            session, config.recipe, config.counterfactuals, config.adversarials, config.storage
        )
        linearity(session, config.recipe, config.linearity)
    return workspace, told


def _noting(told, function, argument):
    def noted(*values, **settings):
        told[function.__name__] = settings[argument]
        return function(*values, **settings)

    return noted


def test_regions_and_statistics_lie_within_the_disc_that_the_fundi_show(steps):
    workspace, _ = steps
    regions = workspace.frame("lesion_regions")
    assert len(regions)
    np.testing.assert_allclose(regions["area_px"] / regions["disc_share"], SEEN.sum(), rtol=1e-6)
    y, x = (regions[f"centroid_{axis}_px"] - (SIZE - 1) / 2 for axis in "yx")
    np.testing.assert_allclose(
        regions["radius_share"], np.hypot(y, x) / ((1 - CROP) * SIZE / 2), rtol=1e-5
    )
    place = np.flatnonzero(SEEN.any(axis=1))
    assert regions["bbox_top_px"].min() >= place[0]
    assert regions["bbox_bottom_px"].max() <= place[-1] + 1
    stats = workspace.frame("heatmap_stats", source="pixels", quantity="stage4").set_index(
        "image_id"
    )
    maps = workspace.attributions()["pixels"].to_dataset()["attribution"].sel(quantity="stage4")
    for image_id, row in stats.iterrows():
        size = np.abs(maps.sel(image_id=image_id).values[SEEN].astype(np.float64))
        share = size / size.sum()
        assert row["entropy"] == pytest.approx(-(share * np.log2(share)).sum(), rel=1e-5)


def test_group_profiles_are_means_over_that_disc(steps):
    workspace, _ = steps
    rows = workspace.frame(
        "group_heatmaps", group_name="all", source="pixels", quantity="stage4", profile="radial"
    )
    maps = (
        workspace.attributions()["pixels"].to_dataset()["attribution"].sel(quantity="stage4").values
    )
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius = np.hypot(y, x) / ((1 - CROP) * SIZE / 2)
    last = (radius <= 1) & (radius >= 0.9)  # ten bins
    assert rows.set_index("bin")["mean_positive"][9] == pytest.approx(
        np.maximum(maps, 0)[:, last].mean(), rel=1e-4
    )


def test_counterfactuals_adversarials_and_the_linearity_study_move_pixels_of_that_disc_only(steps):
    _, told = steps
    assert told["smallest_strength"] == CROP
    assert np.array_equal(told["smallest_epsilon"], SEEN)
    assert np.array_equal(told["linearity_study"], SEEN)


def test_results_of_the_crop_that_earlier_versions_assumed_keep_their_digests_and_others_are_made_again():
    settings = {"any": 1}
    assert content_id(settings | crop_settings(PreprocessParams())) == content_id(settings)
    assert content_id(settings | crop_settings(PreprocessParams(crop=CROP))) != content_id(settings)
