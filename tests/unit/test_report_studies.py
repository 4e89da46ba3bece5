"""The report's studies: counterfactuals with their comparison, units with a page each."""

import html.parser

import numpy as np
import pytest

from dr_lib import report

SIZE = 48
FUNDUS = np.full((SIZE, SIZE, 3), 128, np.uint8)
COUNTERFACTUALS = report.CounterfactualSection(
    summary=[{"method": "proportional", "eyes": 2, "reached": 1}],
    triptychs=(
        report.Triptych("10_left", FUNDUS, FUNDUS, reached=False),
        report.Triptych(
            "10_left",
            FUNDUS,
            FUNDUS // 2,
            (0.9, 0.1, 0, 0, 0),
            (0.4, 0.6, 0, 0, 0),
            "constant, strength 0.1",
            True,
        ),
    ),
    adversarial=[{"method": "pgd_l2", "eyes": 2, "reached": 2}],
    comparisons=[
        {
            "true_stage": 1,
            "measure": "ssim",
            "first": "proportional",
            "second": "pgd_l2",
            "pairs": 7,
            "median_difference": -0.02,
            "low": -0.03,
            "high": 0.01,
            "p_value": 0.25,
        }
    ],
    transfers=[{"method": "pgd_l2", "eyes": 7, "transferred": 3, "share": 0.4286}],
)
LINEARITY = report.LinearitySection(
    verdicts={"linear": 3, "constant": 1},
    by_layer=[{"layer": "fc1", "linear": 3, "constant": 1}],
    units=[{"unit": 0, "gradient_change": 0.1, "r_squared": 0.9, "verdict": "linear"}],
    hintons=(report.HintonEntry("c = 0.1", np.ones(6)),),
    exceptions=[{"unit": 4, "verdict": "constant"}],
    pages=(
        report.UnitEntry(
            *("fc1", 4, "constant", "it argues for stage 0 (none)"),
            facts={"Eyes graded otherwise without it": 2},
            stages=[{"stage": "0 none", "argues for it by": 0.25}],
            eyes=(report.UnitEye("10_left", FUNDUS, np.eye(SIZE, dtype=np.float32), "graded 0"),),
            rows=[{"image_id": "10_left", "effect_stage0": -0.31}],
        ),
    ),
    up_to={"fc1": np.array([0.25, 0.5, np.nan, 0.5])},
    strengths=[0.25, 0.5],
    flips=np.array([0.25, np.inf]),
)


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


@pytest.fixture(scope="module")
def files():
    return report.render(
        report.ReportData(parts={"counterfactuals": COUNTERFACTUALS, "linearity": LINEARITY})
    )


def test_a_special_unit_has_a_page_of_its_own(files):
    assert "units/fc1-4.html" in Page(files["index.html"]).addresses
    page = Page(files["units/fc1-4.html"])
    for words in (
        "fc1, unit 4",
        "constant: it argues for stage 0 (none)",
        "Eyes graded otherwise without it",
        "0.25",
        "−0.31",
    ):
        assert words in page.text
    sources = [picture["src"] for picture in page.pictures]
    assert sources == [
        "../figures/units/fc1-4-10_left-fundus.png",
        "../figures/units/fc1-4-10_left-region.png",
    ]
    assert "../assets/report.css" in page.addresses
    local = [address for address in page.addresses if address.startswith("../")]
    assert {address.removeprefix("../").partition("#")[0] for address in local} <= set(files)


def test_a_counterfactual_is_shown_with_its_signed_difference_and_its_probabilities(files):
    for part in ("fundus", "changed", "difference", "probabilities"):
        assert f"figures/counterfactuals/10_left-constant-{part}.png" in files
    assert {
        "figures/counterfactuals/10_left-constant.png",
        "figures/counterfactuals/10_left-constant.svg",
    } <= set(files)
    page = Page(files["index.html"])
    assert page.text.count("not reached") == 1
    signed = {picture["src"] for picture in page.pictures if picture.get("class") == "signed"}
    assert "figures/counterfactuals/10_left-constant-difference.png" in signed
    assert "figures/counterfactuals/10_left-constant-changed.png" not in signed


def test_the_comparison_the_transfer_and_the_range_are_drawn_and_say_so_in_words(files):
    assert {"figures/comparison.svg", "figures/linear-range.svg"} <= set(files)
    page = Page(files["index.html"])
    words = " ".join(picture["alt"] for picture in page.pictures)
    assert "SSIM −0.02" in words
    assert "fc1 75 %" in words  # of four units three are linear where the median eye changes
    assert "0.429" in page.text
    assert "True stage" not in page.text, "what is the same in every row is not a column"
