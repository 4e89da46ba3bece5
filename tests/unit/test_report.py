"""The report: whole, safe to open, and honest about what is missing."""

import dataclasses
import html.parser
import json
import posixpath

import numpy as np
import pandas as pd
import pytest

from dr_lib import report

SIZE = 48
EVIL = "<script>alert('x')</script>&\"../"


def eye(image_id: str, stage: int | None = 2, predicted: int = 2, **changes) -> report.EyeEntry:
    rng = np.random.default_rng(7)
    maps = rng.normal(size=(4, SIZE, SIZE)).astype(np.float32)
    neurons = tuple(
        report.NeuronEntry(sign, rank, (3, 4, 17), 0.2 if sign == "positive" else -0.2, maps[0, :16, :16], (8, 32))
        for sign in ("positive", "negative")
        for rank in range(2)
    )
    entry = report.EyeEntry(
        image_id,
        stage,
        predicted,
        (0.1, 0.1, 0.5, 0.2, 0.1),
        rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        rng.integers(0, 256, (SIZE, 2 * SIZE, 3), dtype=np.uint8),
        maps[0],
        maps[1],
        {"stage0": maps[2], "stage2": maps[3], "stage4": -maps[2]},
        gap=0.004,
        relative_gap=0.01,
        points=64,
        converged=True,
        neurons=neurons,
    )
    return dataclasses.replace(entry, **changes)


def full() -> report.ReportData:
    """A report with something in every section."""
    fundus = np.full((SIZE, SIZE, 3), 128, np.uint8)
    ends = np.linspace(0, 1, 5)
    return report.ReportData(
        run=report.RunSummary(
            title="A run",
            workspace="workspaces/x",
            model_id="0123456789ab",
            explain_id="ba9876543210",
            stages=(report.StageTime("attribute", 120.0, 30), report.StageTime("aggregate", 0.5)),
            versions={"keras": "3.15.1"},
            config={"training": {"batch_size": 16}},
        ),
        data=report.DataSection(
            photographs=644,
            patients=322,
            split_stage=[{"split": "test", "stage": 0, "count": 9}, {"split": "test", "stage": None, "count": 1}],
            rejects=pd.DataFrame([{"image_id": "7_left", "reason": "empty", "detail": "0 bytes"}]),
            quality=[{"measure": "diameter", "median": 900.0}],
            samples=(report.BeforeAfter("10_left", fundus, fundus, ("stage 2",)),),
            flagged=(report.BeforeAfter("10_right", fundus, fundus, ("score 0.11: dark", "redness 0.2"), (20.0, 24.0, 30.0)),),
            flagged_text="1 of 644 eyes is flagged.",
            set_aside=(report.SetAside("7_left", "empty", "0 bytes"), report.SetAside("8_left", "no_retina", "", fundus)),
        ),
        model=report.ModelSection(
            evaluation=pd.DataFrame([{"metric": "kappa", "value": 0.6839, "low": 0.59, "high": 0.76}]),
            confusion=np.eye(5, dtype=int),
            history=pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0]}),
            reliability=(ends, ends, np.ones(5, int)),
            roc={"referable": (ends, ends**0.5)},
            operating_points=(("specificity 0.90", 0.25, 0.5), ("sensitivity 0.97", float("nan"), float("nan"))),
            stages=[{"stage": "1 mild", "eyes": 41, "sensitivity": "0.123 (0.010 to 0.200)"}],
            strata=[{"part": "of good quality", "kappa": "0.711"}],
        ),
        eyes=(eye("10_left"), eye("10_right", 2, 3), eye("11_left", None)),
        groups=(report.GroupMap("true stage 4", 3, np.ones((SIZE, SIZE))),),
        heatmap_stats=[{"image_id": "10_left", "positive_share": 0.6}],
        localisation=report.Localisation(scores=[{"method": "stem", "value": 0.7, "low": 0.6, "high": None}]),
        counterfactuals=report.CounterfactualSection(
            summary=[{"image_id": "10_left", "strength": 0.1}],
            triptychs=(report.Triptych("10_left", fundus, fundus, reached=False),),
            adversarial=[{"method": "FGSM", "total_variation": 0.09}],
        ),
        linearity=report.LinearitySection(
            verdicts={"linear": 3, "constant": 1},
            units=[{"unit": 0, "gradient_change": 0.1, "r_squared": 0.9, "verdict": "linear"}],
            hintons=(report.HintonEntry("c = 0.1", np.ones(6)),),
            exceptions=[{"unit": 4, "verdict": "constant"}],
        ),
        citation=report.Citation(
            tables=[{"name": "predictions", "path": "tables/predictions/"}], queries=(("How many?", "SELECT 1 < 2"),)
        ),
    )


class Page(html.parser.HTMLParser):
    """Tags, addresses, ids and text of a page; refuses a page whose tags don't close in order."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "fecolormatrix"})

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.ids, self.tags, self.open, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.addresses += [attributes[name] for name in ("src", "href", "srcset", "poster", "action") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def files():
    return report.render(full())


def pages(files) -> dict[str, Page]:
    return {name: Page(text) for name, text in files.items() if name.endswith(".html")}


def test_every_address_is_a_file_of_the_report_and_every_file_is_reached(files):
    reached = {"index.html"}
    for name, page in pages(files).items():
        for address in page.addresses:
            if address == "data:,":
                continue
            path, _, anchor = address.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert target in files, f"{name} points at {address}"
            reached.add(target)
            if anchor:
                assert anchor in Page(files[target]).ids
    assert reached == set(files)


def test_nothing_comes_from_the_network(files):
    for name, content in files.items():
        if name.endswith((".html", ".css", ".js")):
            assert "http:" not in content
            assert "https:" not in content
            assert "@import" not in content


def test_every_picture_has_words_and_a_size_and_every_page_one_heading(files):
    for page in pages(files).values():
        pictures = [attributes for tag, attributes in page.tags if tag == "img"]
        assert pictures
        assert all(picture["alt"] and int(picture["width"]) and int(picture["height"]) for picture in pictures)
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert len(page.ids) == len(set(page.ids))


def test_the_contents_name_every_section(files):
    page = Page(files["index.html"])
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert [address[1:] for address in page.addresses if address.startswith("#") and address != "#main"] == sections


def test_numbers_appear_as_given(files):
    text = Page(files["index.html"]).text
    for words in ("0.684", "0.590 to 0.760", "2 min", "644 photographs of 322 patients; 1 set aside"):
        assert words in text
    assert "SELECT 1 < 2" in text
    assert "training.batch_size = 16" in text
    assert "No label" in text


def test_the_gallery_carries_what_its_filter_asks_for(files):
    cards = [attributes for tag, attributes in Page(files["index.html"]).tags if tag == "article"]
    asked = [[card[f"data-{name}"] for name in ("id", "true", "predicted", "right", "gap")] for card in cards]
    assert asked == [
        ["10_left", "2", "2", "true", "0.01"],
        ["10_right", "2", "3", "false", "0.01"],
        ["11_left", "", "2", "", "0.01"],
    ]


def test_eyes_are_linked_to_their_neighbours_in_order(files):
    def steps(name):
        return [(a["rel"], a["href"]) for tag, a in Page(files[name]).tags if tag == "a" and "rel" in a]

    assert steps("eyes/10_left.html") == [("next", "../eyes/10_right.html")]
    assert steps("eyes/10_right.html") == [("prev", "../eyes/10_left.html"), ("next", "../eyes/11_left.html")]


def test_an_eyes_page_knows_the_correlation_of_any_two_maps(files):
    pick = next(attributes for _, attributes in Page(files["eyes/10_left.html"]).tags if "data-correlations" in attributes)
    correlations = json.loads(pick["data-correlations"])
    assert correlations["stage0|stage4"] == "−1.00"
    assert correlations["stage2|stage2"] == "+1.00"
    assert correlations["stage0|stage2"] == correlations["stage2|stage0"]


def test_only_drawings_on_grey_are_recoloured(files):
    signed = {attributes["src"] for _, attributes in Page(files["eyes/10_left.html"]).tags if attributes.get("class") == "signed"}
    assert "../figures/eyes/10_left-positive.png" in signed
    assert not any("photo" in name or "fundus" in name for name in signed)


def test_names_from_outside_cannot_become_markup_or_paths():
    data = full()
    evil = dataclasses.replace(
        data,
        run=dataclasses.replace(data.run, title=EVIL, workspace=EVIL, config=EVIL),
        eyes=(eye(EVIL), eye(EVIL + "2", layer=EVIL, split=EVIL)),
        data=dataclasses.replace(data.data, rejects=[{"image_id": EVIL, "reason": EVIL, EVIL: EVIL}]),
        groups=(report.GroupMap(EVIL, 1, np.ones((SIZE, SIZE)), note=EVIL),),
        citation=report.Citation(text=EVIL, queries=((EVIL, EVIL),)),
    )
    files = report.render(evil)
    for name, page in pages(files).items():
        assert EVIL in "".join(page.words), name
        assert [attributes for tag, attributes in page.tags if tag == "script"] == [
            {"src": "../" * name.count("/") + "assets/report.js", "defer": None}
        ]
    assert all(name == posixpath.normpath(name) and not name.startswith(("/", "..")) for name in files)
    assert not any(set(name) & set("<>'\"&\\ ") for name in files)


def test_an_empty_report_says_for_every_section_which_command_fills_it():
    files = report.render(report.ReportData())
    assert set(files) == {"index.html", "assets/report.css", "assets/report.js"}
    page = Page(files["index.html"])
    for command in ("run", "ingest", "train", "attribute", "aggregate", "counterfactuals", "linearity"):
        assert f"dr {command} CONFIG.toml" in page.text
    assert [tag for tag, _ in page.tags].count("section") == 9


def test_a_study_that_found_nothing_says_so_instead_of_asking_to_be_run():
    note = "No eye of the true stage was taken for the predicted one."
    data = report.ReportData(
        model=report.ModelSection(note=note),
        localisation=report.Localisation(note=note),
        counterfactuals=report.CounterfactualSection(note=note),
        linearity=report.LinearitySection(note=note),
    )
    text = Page(report.render(data)["index.html"]).text
    assert text.count(note) == 4
    assert "dr counterfactuals" not in text
    assert "dr linearity" not in text
    assert "dr train" not in text


def test_an_eye_with_failed_maps_is_still_shown():
    lost = np.full((SIZE, SIZE), np.nan, np.float32)
    bare = eye(
        "12_left", positive=lost, negative=None, photo=None, stage_maps={}, neurons=(), gap=float("nan"), relative_gap=None
    )
    page = Page(report.render(report.ReportData(eyes=(bare,)))["eyes/12_left.html"])
    assert "Some pictures of this eye are missing" in page.text
    assert "nan" not in page.text.lower()


def test_numpys_scalars_are_as_good_as_pythons():
    """Rows of tables bring them: `np.bool_(False) is False` is false, and np.int64 is no int."""
    plain = eye("12_left", 2, 3, converged=False)
    numpy = eye(
        "12_left",
        np.int64(2),
        np.int64(3),
        converged=np.False_,
        relative_gap=np.float32(0.25),
        symmetry=np.float32(-1),
        probabilities=np.array(plain.probabilities, np.float32),
    )
    pages = [report.render(report.ReportData(eyes=(one,))) for one in (dataclasses.replace(plain, relative_gap=0.25), numpy)]
    for name in ("index.html", "eyes/12_left.html"):
        assert pages[0][name] == pages[1][name]
    assert "above tolerance" in pages[0]["index.html"]


def test_a_region_beyond_the_fundus_is_refused():
    neuron = report.NeuronEntry("positive", 0, (1, 1, 1), 1.0, np.ones((16, 16)), (40, 40))
    with pytest.raises(ValueError, match="reaches beyond"):
        report.render(report.ReportData(eyes=(eye("10_left", neurons=(neuron,)),)))


def test_the_same_data_gives_the_same_bytes(files):
    assert report.render(full()) == files
