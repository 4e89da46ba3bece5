"""What each section of the report says and shows: of a workspace where later steps are still to
come, and of given rows.
"""

import html.parser
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dr_lib.evaluation.metrics import evaluate
from dr_lib.perturbation.comparison import MEASURES
from dr_lib.report import Head, render
from dr_lib.report.pictures import Folder, Strip
from dr_lib.report.section import Content, Section
from storage import open_workspace
from storage.photos.sources import PhotoSource
from storage.photos.types import Source
from storage.tables.schemas import empty_frame
from tasks.access.contact_sheets import Photos
from tasks.report import step as stage
from tasks.report.data import ReportData
from tasks.report.sections import (
    SECTIONS,
    counterfactuals,
    groups,
    linearity,
    model,
    photographs,
    regions,
)
from tests.flows.explained import MODEL_ID, RECIPE, explain

SIZE = 48
FUNDUS = np.full((SIZE, SIZE, 3), 128, np.uint8)
CONFIG = {
    "counterfactuals": {"true_stage": 1, "predicted_stage": 0, "target_stage": 1},
    "linearity": {"target_stage": 1},
    "training": {"batch_size": 16},
}
EYES = 6


class Page(html.parser.HTMLParser):
    """A page's pictures, addresses and words."""

    def __init__(self, text: str):
        super().__init__()
        self.pictures, self.addresses, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.pictures.append(attributes)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def page(name: str, values: dict, folder: Folder | None = None) -> Page:
    """A section's page, with nothing else in its report."""
    section = Section(name, "One", Content(values))
    return Page(render(Head(), [section], folder or Folder())[f"{name}.html"])


@pytest.fixture(scope="module")
def early(tmp_path_factory) -> dict[str, bytes | str]:
    """The sections of a workspace that is explained, but neither evaluated nor studied, nor are
    its photographs at hand.
    """
    workspace = open_workspace(tmp_path_factory.mktemp("early") / "workspace")
    explain(workspace, EYES)
    workspace.files.write(
        f"models/{MODEL_ID}/history.parquet", pd.DataFrame({"step": []}).to_parquet()
    )
    explain_id = RECIPE.explain_id(workspace)
    eyes = stage.explained_eyes(
        workspace, MODEL_ID, stage.explanation_store(workspace, explain_id).image_ids
    )
    photos = Photos(workspace, PhotoSource(Source(str(tmp_path_factory.mktemp("photos")))))
    data = ReportData(
        workspace, RECIPE, CONFIG, RECIPE.resolve(workspace), photos, eyes.assign(present=False)
    )
    folder = Folder()
    sections = [
        Section(name, title, content(data, folder)) for name, (title, content) in SECTIONS.items()
    ]
    return render(Head(), sections, folder, data.gallery)


def said(files: dict[str, bytes | str], name: str) -> str:
    """The words of a section's page."""
    return Page(files[f"{name}.html"]).text


def test_every_section_has_a_sentence_and_a_page_that_is_reached_in_one_click(early):
    overview = Page(early["index.html"])
    sentences = re.findall(r"<li id=.*?<span>(.+?)</span></li>", early["index.html"], re.DOTALL)
    assert len(sentences) == len(SECTIONS)
    for name, sentence in zip(SECTIONS, sentences, strict=True):
        assert Page(sentence).text.endswith(".")
        assert Page(sentence).text in said(early, name)
        assert f"{name}.html" in overview.addresses


def test_a_section_without_numbers_says_which_command_fills_it(early):
    for name in ("run", "counterfactuals", "linearity"):
        assert f"To fill this page, run dr {name} CONFIG.toml." in said(early, name)
    assert "To fill this page, run dr aggregate CONFIG.toml." in said(early, "units")
    assert "No labelled eye is in the test split." in said(early, "model")


def test_what_is_there_is_told_in_numbers(early):
    for name, words in {
        "data": f"{EYES} photographs of {EYES // 2} patients; none set aside, 0 of low quality.",
        "eyes": f"{EYES} eyes explained; 5 of {EYES} with a label are graded right.",
        "localisation": "there are no lesion masks to compare them with.",
        "regions": "px in stem",
    }.items():
        assert words in said(early, name)
    assert early["tables/predictions.csv"].startswith(b"image_id,")


def test_the_model_is_told_by_its_measures_and_its_weakest_stage():
    stages = np.arange(40) % 5
    given = np.where(np.arange(40) % 7 == 0, (stages + 1) % 5, stages)
    probabilities = np.where(np.arange(5) == given[:, None], 0.8, 0.05).astype(np.float32)
    rows = evaluate(
        stages, probabilities, bootstrap_patients=np.arange(40).astype(str), resamples=20
    ).rows()
    test = pd.DataFrame(rows)
    right = [int(np.sum((stages == stage) & (given == stage))) for stage in range(5)]
    assert [row["sensitivity"].split()[0] for row in model.stages(test)] == [
        f"{count / 8:.3f}" for count in right
    ]
    assert [row["held"] for row in model.operating(test)][:2] == [
        "specificity 0.90",
        "specificity 0.95",
    ]
    shown = [row["measure"] for row in model.scores(test)]
    assert shown[:2] == ["Quadratic weighted kappa", "Kappa of the expected stage"]
    assert len(shown) == len(model.MAIN)
    assert model.confusion(test).diagonal().tolist() == right
    both = pd.concat(
        [
            test.assign(stratum=name, source=None, images=40)
            for name in ("quality=good", "all", "reading=five")
        ]
    )
    assert [row["part"] for row in model.strata(both)] == [
        "all eyes",
        "of good quality",
        "reading: five",
    ]


def test_photographs_are_counted_by_split_and_stage_and_one_without_a_label_is_too():
    rows = pd.DataFrame(
        {"split": ["train", "train", "test"], "stage": pd.array([0, 0, None], "Int8")}
    )
    shown = photographs.by_split(rows)
    assert [*shown] == ["split", "0 none", "no label", "all"]
    assert shown.to_numpy().tolist() == [["train", 2, 0, 2], ["test", 0, 1, 1]]


def test_a_groups_map_is_a_figure():
    folder = Folder()
    picture = groups.picture(folder, "true stage 4, toward stage 4", 1, np.ones((SIZE, SIZE)))
    assert picture.signed
    assert picture.note.startswith("1 eye ·")
    assert {
        "figures/groups/true-stage-4-toward-stage-4.png",
        "figures/groups/true-stage-4-toward-stage-4.svg",
    } == set(folder.files)


# Counterfactuals

COUNTERFACTUAL_MEASURES = [
    column
    for column in empty_frame("counterfactuals")
    if column == "strength" or column in MEASURES or column.startswith("feature_distance")
]


def changed(**columns) -> pd.DataFrame:
    """Two eyes by two methods: one eye reaches the target by one of them."""
    rows = pd.DataFrame(
        {
            "image_id": ["10_left", "11_left"] * 2,
            "method": ["proportional"] * 2 + ["constant"] * 2,
            "reached": [True, False, False, False],
        }
    )
    return rows.assign(**dict.fromkeys(COUNTERFACTUAL_MEASURES, 0.5), **columns)


def compared(pairs: int) -> pd.DataFrame:
    one = {
        "first": "proportional",
        "second": "pgd_l2",
        "pairs": pairs,
        "median_difference": -0.02,
    }
    return pd.DataFrame(
        [
            {**one, "measure": measure, "low": -0.03, "high": 0.01, "p_value": 0.25}
            for measure in MEASURES
        ]
    )


def counterfactuals_page(
    folder: Folder,
    attacked: pd.DataFrame | None = None,
    pairs: int = 5,
    transfers: pd.DataFrame | None = None,
) -> Page:
    """The section's page, of which the stages and the strips are given."""
    attacked = changed() if attacked is None else attacked
    values = {
        "stages": CONFIG["counterfactuals"],
        "made": True,
        "strips": [],
        "transfers": pd.DataFrame() if transfers is None else transfers,
        **counterfactuals.compared(folder, changed(), attacked, compared(pairs)),
    }
    return page("counterfactuals", values, folder)


def test_what_was_not_reached_is_counted():
    attacked = changed(method="pgd_l2", reached=True)
    assert (
        "Of 2 eyes of stage 1 predicted as 0, 1 reached stage 1 along their attribution and 2 by"
        " an adversarial example."
    ) in counterfactuals_page(Folder(), attacked).text
    rows = counterfactuals.by_method(changed()).set_index("method")
    assert rows.loc["proportional", ["eyes", "reached", "l2"]].tolist() == [2, 1, 0.5]
    assert np.isnan(rows.loc["constant", "l2"]), "no median of what was not reached"


def test_only_what_reached_its_target_is_pictured():
    image_ids, shapes = ["10_left", "11_left"], {"image": (4, 4, 3), "probability": (5,)}
    store = SimpleNamespace(
        image_ids=image_ids,
        read_rows=lambda rows, paths: {
            path: np.zeros((1, *shapes.get(path.split("/")[1], ()))) for path in paths
        },
    )
    data = SimpleNamespace(fundi=lambda names: dict.fromkeys(names, FUNDUS[:4, :4]))

    def pictured(rows: pd.DataFrame) -> list[tuple[str, str]]:
        strips = counterfactuals.strips(data, Folder(), store, rows)
        return [(one.name, one.words) for one in strips]

    assert pictured(changed()) == [("10_left", "proportional, strength 0")]
    every = pictured(changed(reached=True))
    assert [words.split(",")[0] for _, words in every] == ["proportional", "constant"] * 2, (
        "the forms take turns"
    )
    assert pictured(changed(reached=False)) == []


def test_a_counterfactual_is_shown_with_its_signed_difference_and_its_probabilities():
    arrays = {
        "constant/image": np.zeros((1, SIZE, SIZE, 3)),
        "constant/strength": np.array([0.1]),
        "original/probability": np.array([[0.9, 0.1, 0, 0, 0]]),
        "constant/probability": np.array([[0.4, 0.6, 0, 0, 0]]),
    }
    store = SimpleNamespace(image_ids=["10_left"], read_rows=lambda rows, paths: arrays)
    data = SimpleNamespace(fundi=lambda names: {"10_left": FUNDUS // 2})
    rows = changed(method="constant", reached=True)[:1]
    folder = Folder()
    (strip,) = counterfactuals.strips(data, folder, store, rows)
    assert isinstance(strip, Strip)
    assert strip.words == "constant, strength 0.1"
    for part in ("original", "counterfactual", "difference", "probabilities"):
        assert f"figures/counterfactuals/10_left-constant-{part}.png" in folder.files
    assert {
        "figures/counterfactuals/10_left-constant.png",
        "figures/counterfactuals/10_left-constant.svg",
    } <= set(folder.files)
    assert [picture.caption for picture in strip.panels if picture.signed] == ["Difference"]


def test_a_comparison_of_five_pairs_is_drawn_and_says_so_in_words_and_one_of_four_is_counted():
    folder = Folder()
    made = counterfactuals_page(folder)
    assert {"figures/comparison.svg", "figures/comparison.png"} <= set(folder.files)
    assert any("SSIM −0.02" in picture["alt"] for picture in made.pictures)
    assert "too few to compare" not in made.text
    assert "Paired: the eyes that both methods brought to the target" in made.text
    for pairs in (4, 0):
        few = counterfactuals_page(Folder(), pairs=pairs)
        assert (
            "1 pair of methods has fewer than 5 eyes that both brought to the target, too few to"
            " compare."
        ) in few.text
        assert "Paired" not in few.text
        assert not few.pictures


def test_the_transfer_is_a_table():
    rows = pd.DataFrame([{"method": "pgd_l2", "eyes": 7, "transferred": 3, "share": 0.4286}])
    assert "0.429" in counterfactuals_page(Folder(), transfers=rows).text
    assert "second model" not in counterfactuals_page(Folder(), transfers=rows[:0]).text


# Units

UNITS = pd.DataFrame(
    {
        "layer": "fc1",
        "unit": range(4),
        "verdict": ["linear", "linear", "linear", "constant"],
        "linear_up_to": [0.25, 0.5, np.nan, 0.5],
        **dict.fromkeys(
            ("gradient_variation", "r2", "moved_share", "outcome_correlation", "mean_attribution"),
            0.25,
        ),
    }
)
FLIPS = pd.Series({"10_left": 0.25, "11_left": np.inf})


def test_how_far_units_are_linear_is_told_in_words():
    folder = Folder()
    picture = linearity.linear_range(folder, UNITS, np.array([0.5, 0.0, 0.25]), FLIPS)
    assert (
        picture.alt == "Units linear up to 0.25: fc1 75 %"
    )  # of four units three are linear where the median eye changes
    rows = linearity.by_layer(UNITS, FLIPS)
    assert rows.to_dict("records") == [
        {"layer": "fc1", "constant": 1, "linear": 3, "linear_until_the_grade_changes": 3}
    ]
    assert linearity.scatter(folder, UNITS).alt == "Units by verdict: 3 linear, 1 constant"


@pytest.mark.parametrize(
    ("flips", "words"),
    [
        (
            FLIPS,
            (
                "Of 2 eyes, 1 change to stage 1, half of these at a strength of at most 0.25 (32 of"
                " 256 gray levels)."
            ),
        ),
        (FLIPS[1:], "None of 1 eye changes to stage 1 at any strength."),
    ],
)
def test_how_many_eyes_change_their_stage_is_told_in_words(flips, words):
    made = page(
        "linearity",
        {
            "target": 1,
            "units": UNITS,
            "flips": flips,
            "reached": flips[np.isfinite(flips)],
            "by_layer": linearity.by_layer(UNITS, flips),
            **dict.fromkeys(("plots", "hintons", "special", "below"), ()),
        },
    )
    assert "of 4 units 3 are linear and 1 are constant. " + words in made.text


def test_a_layers_hinton_diagrams_are_one_eyes_on_one_scale():
    rows = pd.DataFrame(
        [
            {
                "image_id": name,
                "layer": "fc1",
                "unit": unit,
                "strength": strength,
                "attribution": strength * (unit - 1),
            }
            for name in ("10_left", "11_left")
            for strength in (0.0, 0.5, 1.0)
            for unit in range(4)
        ]
    ).assign(predicted_stage=1, outcome=0.5)
    folder = Folder()
    pictures = linearity.hintons(folder, rows, FLIPS, "fc1")
    assert [picture.caption for picture in pictures] == [
        f"fc1, 10_left, strength {c}" for c in ("0", "0.5", "1")
    ]
    assert all(picture.signed for picture in pictures)
    assert len(set(folder.files.values())) == 6, "twice the attribution is another picture"


def test_a_special_unit_has_a_page_of_its_own():
    stages = {
        f"{kind}_stage{stage}": [0.25 - 0.1 * stage]
        for stage in range(5)
        for kind in ("attribution", "effect")
    }
    rows = pd.DataFrame(
        {"image_id": ["10_left"], "predicted_before": [0], "predicted_after": [1], **stages}
    )
    folder = Folder()
    effect = SimpleNamespace(layer="fc1", unit=3, image_id="10_left")
    region = np.eye(SIZE, dtype=np.float32)
    pictures = linearity.unit_pictures(folder, effect, FUNDUS, region, {"caption": "10_left"})
    below = linearity.unit_page(folder, UNITS.iloc[3], rows, pictures)
    values = {"units": UNITS[:0], "studied": True}
    section = Section("linearity", "Linearity", Content(values, [below]))
    made = Page(render(Head(), [section], folder)["units/fc1-3.html"])
    for words in (
        "fc1, unit 3",
        "constant: it argues for stage 0 (none)",
        "Eyes graded otherwise without it",
        "0.25",
        "−0.15",
    ):
        assert words in made.text
    sources = [picture["src"] for picture in made.pictures]
    assert sources == [
        "../figures/units/fc1-3-10_left-fundus.png",
        "../figures/units/fc1-3-10_left-region.png",
    ]
    assert {"../assets/report.css", "../linearity.html", "../index.html"} <= set(made.addresses)


# Regions


def test_extents_come_most_local_first_and_are_drawn():
    neurons = pd.DataFrame(
        {
            "layer": ["fc1", "stem", "stem"],
            "region_extent_px": [40.0, 4.0, 5.0],
            "region_top1_share": 0.5,
        }
    )
    rows = regions.by_layer(neurons)
    assert rows[["layer", "neurons", "extent_px"]].values.tolist() == [
        ["stem", 2, 4.5],
        ["fc1", 1, 40.0],
    ]
    folder = Folder()
    regions.extents(folder, rows)
    assert "figures/neurons-by-layer.svg" in folder.files


def test_groups_of_regions_are_strips_of_patches_with_their_lesions_in_words():
    clusters = pd.DataFrame({"cluster": [0, 0, 1], "lesion": ["haemorrhage", "none", "none"]})
    folder, patch = Folder(), np.full((32, 32, 3), 90, np.uint8)
    looks = regions.looks(folder, {0: [patch] * 2, 1: [patch]}, clusters)
    units = pd.DataFrame({"unit": [17, 18, 19], "lesion_auc": [0.6, 0.15, 0.81]}).assign(
        layer="stem", best_lesion="haemorrhage"
    )
    layers = pd.DataFrame({"layer": ["stem"], "extent_px": [4.0]})
    plot = groups.picture(folder, "extents", 1, np.ones((SIZE, SIZE)))
    values = {"layers": layers, "extents": plot, "examples": ()}
    some = {
        "looks": looks,
        "channels": regions.lesion_channels(units),
        "shared_information": regions.shared_information(clusters),
    }
    made = page("regions", values | some, folder)
    for words in (
        "Group 0: 2 regions",
        "Group 1: 1 region",
        "50 % haemorrhage",
        "The information that they share",
        "0.15",
    ):
        assert words in made.text
    assert "0.81" not in made.text, "0.15 is further from chance"
    assert {"figures/looks/Group-0-2-regions.png", "figures/looks/Group-1-1-region.svg"} <= set(
        folder.files
    )
    none = {
        "looks": regions.looks(folder, {}, clusters[:0]),
        "channels": regions.lesion_channels(units.assign(best_lesion=None)),
        "shared_information": regions.shared_information(clusters[:0]),
    }
    made = page("regions", values | none)
    for words in ("Channels and lesion types", "Regions that look alike", "information"):
        assert words not in made.text


def test_a_strip_is_patches_enlarged_with_gaps():
    drawn = regions.strip([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    assert drawn.shape == (24, 24 + 4 + 24, 3)
    assert (drawn[:, :24] == 0).all()
    assert (drawn[:, 24:28] == 128).all()
    assert (drawn[:, 28:] == 255).all()
