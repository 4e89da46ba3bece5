"""The demo's settings fit its photographs and one another, read without running anything."""

import pathlib
import re

import pandas as pd

from dr_lib.perturbation.counterfactual import METHODS
from dr_lib.synthetic import SynthesisParams, plan
from dr_lib.training.splits import split_of
from dr_lib.vocabulary import STAGE_COUNT
from flows.config import load_config
from tasks.access.images import chosen_images

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = load_config(ROOT / "deployments" / "demo.toml")
SYNTHESISE = re.search(
    r"dr synthesise (?P<folder>\S+) --count (?P<count>\d+) --seed (?P<seed>\d+) --balanced",
    (ROOT / "Makefile").read_text(),
)


def catalogue() -> pd.DataFrame:
    """The demo's photographs with their true stages and splits."""
    assert SYNTHESISE is not None, "the Makefile no longer draws the demo's photographs"
    eyes = plan(
        int(SYNTHESISE["count"]), SynthesisParams(seed=int(SYNTHESISE["seed"]), balanced=True)
    )
    data = CONFIG.data
    splits = [
        split_of(
            str(eye.patient),
            seed=data.split_seed,
            validation_fraction=data.validation_fraction,
            test_fraction=data.test_fraction,
        )
        for eye in eyes
    ]
    return pd.DataFrame(
        {
            "image_id": [eye.image_id for eye in eyes],
            "stage": [eye.stage for eye in eyes],
            "split": splits,
            "position": range(len(eyes)),
        }
    )


def stages_in(split: str) -> list[int]:
    """The true stages of the demo's eyes in one split."""
    eyes = catalogue()
    return eyes.loc[eyes["split"] == split, "stage"].tolist()


def test_the_makefile_draws_the_photographs_that_the_demo_reads():
    assert SYNTHESISE is not None
    assert SYNTHESISE["folder"] == CONFIG.data.photos


def test_the_readme_shows_an_eye_that_the_demo_explains():
    shown = re.search(r"dr show workspaces/demo (\S+)", (ROOT / "README.md").read_text())
    assert shown is not None
    assert shown[1] in chosen_images(catalogue(), CONFIG.attribution)["image_id"].tolist()


def test_every_stage_has_eyes_to_learn_from_and_eyes_to_be_tested_on():
    for split, least in (("train", 30), ("test", 8)):
        stages = stages_in(split)
        counts = [stages.count(stage) for stage in range(STAGE_COUNT)]
        assert min(counts) >= least, (split, counts)
    assert min(CONFIG.training.composition) >= 2


def test_two_workers_share_the_explained_eyes_and_the_study_of_linearity_equally():
    assert CONFIG.attribution.limit == 2 * CONFIG.storage.shard_images
    assert CONFIG.attribution.limit % STAGE_COUNT == 0  # as many eyes of every stage
    assert CONFIG.attribution.limit <= len(stages_in("test"))


def test_a_handful_of_missed_eyes_is_changed_along_stored_or_quickly_made_maps():
    changed = CONFIG.counterfactuals
    assert 5 <= changed.limit <= 8  # fewer than five pairs are not compared
    assert (changed.true_stage, changed.predicted_stage, changed.target_stage) == (1, 0, 1)
    assert f"stage{changed.target_stage}" in CONFIG.attribution.quantities
    assert set(changed.methods) <= set(METHODS)


def test_the_linearity_study_follows_strengths_from_no_change_to_a_visible_one():
    strengths = CONFIG.linearity.grid
    assert strengths[0] == 0
    assert strengths[1] < 1 / 128 < strengths[-1]  # from below one level of a pixel to above
