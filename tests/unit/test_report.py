"""The report: whole, safe to open, and honest about what is missing."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import pathlib
import posixpath
import re

import cv2
import numpy as np
import pandas as pd
import pytest

from dr_lib import report
from dr_lib.drawing import figures, plots
from dr_lib.drawing.figures import Panel
from dr_lib.drawing.panels import hinton
from dr_lib.report.entry import EyeEntry, LayerMaps, NeuronEntry, OutcomeMap
from dr_lib.report.eyes import (
    DRAWING_VERSION,
    STEPS,
    THUMB_PX,
    eye_files,
    eye_sheet,
    figure_a,
    figure_b,
)
from dr_lib.report.gallery import CHUNK_EYES, chunk_names, gallery_files, ordered
from dr_lib.report.pictures import Folder
from dr_lib.report.section import (
    Address,
    Content,
    Pair,
    Pairs,
    Section,
    Share,
    Subpage,
    Whisker,
    table,
)

SIZE = 48
# A section with every macro of blocks.html.j2, which stands in the place of the pipeline's.
TEMPLATES = pathlib.Path(__file__).with_name("report_templates")
EVIL = "<script>alert('x')</script>&\"../"


def eye(image_id: str, stage: int | None = 2, predicted: int = 2, **changes) -> EyeEntry:
    rng = np.random.default_rng(7)
    maps = rng.normal(size=(4, SIZE, SIZE)).astype(np.float32)
    neurons = tuple(
        NeuronEntry(
            sign, rank, (3, 4, 17), 0.2 if sign == "positive" else -0.2, maps[0, :16, :16], (8, 32)
        )
        for sign in ("positive", "negative")
        for rank in range(2)
    )
    outcomes = {"stage0": maps[2], "stage2": maps[3], "stage4": -maps[2]}
    entry = EyeEntry(
        image_id,
        stage,
        predicted,
        (0.1, 0.1, 0.5, 0.2, 0.1),
        rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        rng.integers(0, 256, (SIZE, 2 * SIZE, 3), dtype=np.uint8),
        tuple(
            OutcomeMap(name, values, 0.6, 0.2, 0.004, 64, True) for name, values in outcomes.items()
        ),
        (LayerMaps("stem", "stage2", maps[0], maps[1], neurons),),
        crop=0.1,
    )
    return dataclasses.replace(entry, **changes)


def gallery() -> pd.DataFrame:
    rows = [
        ("0/10_left", "10_left", 2, 2, 0.01),
        ("0/2_left", "2_left", 2, 3, 0.02),
        ("0/10_right", "10_right", None, 2, np.nan),
    ]
    eyes = pd.DataFrame(rows, columns=["key", "image_id", "stage", "predicted", "gap"])
    return eyes.assign(patient=["10", "2", "10"]).astype({"stage": "Int8", "predicted": "Int8"})


def explained(eyes: pd.DataFrame) -> Content:
    """The content of the section with the gallery."""
    return Content({"eyes": eyes, "photographs": 3, "attributed": [], "layer": "stem"})


@pytest.fixture(scope="module", autouse=True)
def templates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "TEMPLATES", [*report.TEMPLATES, TEMPLATES])
        yield


def full(words: str = "some words") -> dict:
    """The arguments of a report with every kind of block."""
    folder, fundus = Folder(), np.full((SIZE, SIZE, 3), 128, np.uint8)
    panels = [Panel(fundus, "fundus"), Panel(fundus, words, words, signed=True)]
    before, after = (folder.photo(f"samples/{name}", fundus, words) for name in ("before", "after"))
    whole = folder.strip("whole", panels, words, words)
    picture = folder.figure(
        "groups", fundus, words, caption=f"true stage 4 {words}", note=words, signed=True
    )
    curve = folder.plot(
        "bars",
        plots.bars(pd.DataFrame({"value": [1.0]}, [words])),
        words,
        caption=words,
        note=words,
    )
    rows = [
        {"image_id": words, "value": 0.5, "how": Share(words, 50.0)},
        {"image_id": "7", "value": None, "how": "–"},
    ]
    cells = [
        {
            "quantity": "stage2",
            "interval": Whisker(0.2, 0.4, 0.3),
            "file": Address(words, folder.add("tables/x.csv", b"1")),
        }
    ]
    shown = {
        "words": words,
        "counts": pd.Series({words: 3, "other": 6}),
        "pictures": [
            picture,
            folder.figure("units", hinton(np.ones(6), scale=1.0), words, caption="c 0.1"),
        ],
        "plots": [curve],
        "strip": whole,
        "drawn": Pairs([Pair(before, after, words, (words,))], before),
        "rows": rows,
        "cells": cells,
    }
    below = Subpage("units/fc1-4.html", words, "every_block", shown)
    sections = [
        Section("every_block", "Data", Content(shown, [below])),
        Section("eyes", "Explained eyes", explained(gallery())),
    ]
    head = report.Head(words, "workspaces/x", "", "0123456789ab", "ba9876543210")
    return {
        "head": head,
        "sections": sections,
        "folder": folder,
        "gallery": gallery(),
        "lead": (eye("10_left"), "0/10_left"),
    }


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
        self.addresses += [
            attributes[name]
            for name in ("src", "href", "srcset", "poster", "action")
            if name in attributes
        ]
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
    return report.render(**full())


def pages(files) -> dict[str, Page]:
    return {name: Page(text) for name, text in files.items() if name.endswith(".html")}


def record(eye: EyeEntry, key: str = "00000/10_left") -> dict:
    """What an eye's script tells the page."""
    script = eye_files(eye, key)[f"eyes/{key}.js"].decode()
    assert script.startswith("report.eye(")
    return json.loads(script.removeprefix("report.eye(").removesuffix(");\n"))


def pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def rows(files: dict, number: int = 0) -> dict[str, list]:
    """The columns that a script of the gallery brings."""
    found = json.loads(
        f"[{files[f'gallery/{number:03d}.js'].removeprefix('report.rows(').removesuffix(');' + chr(10))}]"
    )
    assert found[0] == number
    return found[1]


def test_every_address_is_a_file_of_the_report_and_every_file_is_reached(files):
    reached = {"index.html"}
    for name, page in pages(files).items():
        for address in page.addresses:
            path, _, anchor = address.partition("#")
            if address == "data:," or path.startswith(
                "eyes/"
            ):  # the eyes' own files are drawn apart
                continue
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            )
            assert target in files, f"{name} points at {address}"
            reached.add(target)
            if anchor and target != "eye.html":
                assert anchor in Page(files[target]).ids
        (body,) = (attributes for tag, attributes in page.tags if tag == "body")
        reached |= set(body.get("data-chunks", "").split())
    # This report has no atlas yet, whose pages the script is for.
    assert reached | {"assets/units.js"} == set(files)


def test_nothing_comes_from_the_network(files):
    for name, content in (files | eye_files(eye("10_left"), "0/10_left")).items():
        if name.endswith((".html", ".css", ".js", ".svg")):
            text = content if isinstance(content, str) else content.decode()
            # Names of XML's own vocabularies are no addresses: nothing is asked for there.
            text = re.sub(
                r'(xmlns(:\w+)?="[^"]*"|"-//W3C[^>]*>|https?://www\.w3\.org/2000/svg)', "", text
            )
            text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
            assert "http:" not in text, name
            assert "https:" not in text, name
            assert "@import" not in text, name


def test_every_picture_has_words_and_a_size_and_every_page_one_heading(files):
    for name, page in pages(files).items():
        pictures = [attributes for tag, attributes in page.tags if tag == "img"]
        assert pictures or name != "index.html"
        assert all(
            picture["alt"] and int(picture["width"]) and int(picture["height"])
            for picture in pictures
        )
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert len(page.ids) == len(set(page.ids))


def test_every_figure_is_there_as_png_and_as_svg(files):
    for name in ("lead", "groups/true-stage-4-some-words", "units/c-0.1", "whole", "bars"):
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
        assert b"<svg" in files[f"figures/{name}.svg"]


def test_every_section_is_a_sentence_of_the_overview_and_one_click_from_every_page(files):
    overview = Page(files["index.html"])
    for words in ("some words", "3 eyes explained; 1 of 2", "0.684"):
        assert words in overview.text
    for name, page in pages(files).items():
        root = "../" if "/" in name else ""
        assert {
            f"{root}{target}" for target in ("index.html", "every_block.html", "eyes.html")
        } <= set(page.addresses), name


def test_a_block_that_is_nothing_leaves_nothing_and_a_cell_is_what_it_is(files):
    page = Page(files["every_block.html"])
    assert "None" not in page.text
    assert "stage 2 (moderate)" in page.text, "a quantity is written out"
    assert "left:20.0%;width:20.0%" in files["every_block.html"]
    assert "tables/x.csv" in page.addresses
    assert sum(tag == "details" for tag, _ in page.tags) == 3


def test_a_percent_sign_stays_on_its_numbers_line(files):
    every = {**files, **eye_files(eye("10_left"), "0/10_left")}
    shown = full("a gap of 3.3 %")
    report.render(**shown)
    every |= {f"percent/{name}": text for name, text in shown["folder"].files.items()}
    for name, text in every.items():
        if name.endswith((".html", ".js")):
            text = text if isinstance(text, str) else text.decode()
            text = re.sub("<pre.*?</pre>", "", text, flags=re.DOTALL)
            assert not re.search(r"[0-9}] %[^ ]", text), name
    assert "a gap of 3.3\N{NBSP}%" in every["percent/index.html"]


def test_a_long_table_says_how_much_is_left_out():
    shown = table([{"n": number} for number in range(70)], limit=60)
    assert (len(shown.rows), shown.left_out, shown.columns) == (60, 10, [("N", True)])


def test_the_gallery_holds_every_eye_in_the_order_of_numbers_and_knows_the_other_eye(files):
    assert rows(files) == {
        "key": ["0/2_left", "0/10_left", "0/10_right"],
        "id": ["2_left", "10_left", "10_right"],
        "stage": [2, 2, None],
        "predicted": [3, 2, 2],
        "gap": [0.02, 0.01, None],
        "fellow": [-1, 2, 1],
    }
    fields = {
        attributes.get("name")
        for tag, attributes in Page(files["eyes.html"]).tags
        if tag in ("select", "input")
    }
    assert {"find", "true", "predicted", "grade", "gap"} <= fields
    assert "share" not in fields, "no lesion share is known, so none is asked for"


def test_a_large_gallery_comes_in_scripts_of_which_each_row_is_in_one():
    count = CHUNK_EYES * 2 + 1
    names = [f"{number}_left" for number in range(count)]
    eyes = pd.DataFrame({"key": names, "image_id": names, "stage": 0, "predicted": 0})
    files = gallery_files(ordered(eyes.sample(frac=1, random_state=1)))
    assert list(files) == chunk_names(count)
    assert [name for number in range(3) for name in rows(files, number)["id"]] == names


def test_an_eye_tells_its_page_everything_it_shows():
    told = record(eye("10_left"))
    assert (told["id"], told["stage"], told["predicted"], told["size"]) == (
        "10_left",
        2,
        2,
        [SIZE, SIZE],
    )
    assert told["tiles"] == ["stage0", "stage2", "stage4", "stem/positive", "stem/negative"]
    assert told["correlations"]["stage0|stage4"] == "−1.00"
    assert len(told["correlations"]) == 3
    assert [neuron["window"] for neuron in told["neurons"]] == [[8, 32, 16, 16]] * 4
    assert ["Completeness gap of the grade", "1.0\N{NBSP}%"] in told["facts"]
    assert json.dumps(told["tables"]).count("stage 2 (moderate)") == 1


def test_an_eye_drawn_otherwise_has_another_version_of_drawing():
    """Raise `DRAWING_VERSION` where this fails, and write the new version's words and pictures
    here.
    """
    files = eye_files(eye("10_left"), "0/10_left")
    told = record(eye("10_left"))
    pictures = [pixels(told.pop(name)) for name in ("photo", "fundus", "maps", "regions")]
    pictures.append(
        cv2.imdecode(np.frombuffer(files["eyes/0/10_left.jpg"], np.uint8), cv2.IMREAD_COLOR)
    )
    scales = told.pop("scales")
    words = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    assert (DRAWING_VERSION, words) == (4, "01a0e3c9c69f")
    assert scales == pytest.approx([0.718469, 0.652451, 0.718469, 0.688606, 0.625559], rel=1e-3)
    assert [picture.shape for picture in pictures] == [
        (400, 400, 3),
        (48, 48, 3),
        (240, 48),
        (384, 96),
        (120, 480, 3),
    ]
    # Another processor's kernels may move a pixel by a grey level.
    assert [picture.mean() for picture in pictures] == pytest.approx(
        [63.5, 127.3, 125.1, 118.5, 93.6], abs=0.3
    )
    assert [picture.std() for picture in pictures] == pytest.approx(
        [75.2, 52.6, 55.6, 60.5, 56.5], abs=0.3
    )


def test_a_map_reaches_the_page_as_it_would_be_drawn():
    """The page takes a byte's distance from 128 as opacity: what it draws is figures.overlay,
    but for JPEG's losses.
    """
    ramp = np.linspace(-1, 1, SIZE)[None, :] * np.ones((SIZE, 1))
    told = record(
        eye("10_left", outcomes=(OutcomeMap("stage0", ramp.astype(np.float32)),), layers=())
    )
    strip = pixels(told["maps"])
    assert strip.shape == (SIZE, SIZE)
    opacity = (strip.astype(float) - 128) * figures.OPACITY / STEPS
    assert np.abs(opacity - figures.signed_opacity(ramp)).max() < 0.06
    assert strip[SIZE // 2, 4] < 64
    assert strip[SIZE // 2, -5] > 192


def test_figure_a_is_the_photograph_the_fundus_and_both_resultants_in_words_and_pixels():
    shown = eye("10_left")
    panels = figure_a(shown)
    captions = ["Original", "Preprocessed", "Most positive neurons", "Most negative neurons"]
    assert [panel.caption for panel in panels] == captions
    assert [panel.note for panel in panels] == ["", "", "stem", "stem"]
    wanted = [
        shown.photo,
        shown.fundus,
        figures.overlay(shown.fundus, shown.layers[0].positive),
        figures.overlay(shown.fundus, shown.layers[0].negative),
    ]
    for panel, drawn in zip(panels, wanted, strict=True):
        np.testing.assert_array_equal(panel.image, drawn)
    without = LayerMaps("stem", "stage2", shown.layers[0].positive)
    missing = figure_a(eye("10_left", photo=None, layers=(without,)))
    assert [panel.image is None for panel in missing] == [True, False, False, True]


def test_figure_b_compares_two_maps_and_says_how_alike_they_are():
    panels = figure_b(eye("10_left"), ("stage2", "stage4"))
    assert [panel.caption for panel in panels] == [
        "Preprocessed",
        "Toward stage 2 (moderate)",
        "Toward stage 4 (proliferative)",
    ]
    correlation = record(eye("10_left"))["correlations"]["stage2|stage4"]
    assert panels[2].note == f"correlation {correlation}"
    opposite = figure_b(eye("10_left"), ("stage0", "stage4"))
    assert opposite[2].note == "correlation −1.00"
    shown = eye("10_left")
    np.testing.assert_array_equal(
        opposite[1].image, figures.overlay(shown.fundus, shown.outcomes[0].values)
    )


def test_thumbnails_are_fig_a_in_a_row_with_grey_for_what_is_missing():
    data = eye_files(eye("10_left", photo=None, layers=()), "0/10_left")["eyes/0/10_left.jpg"]
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (THUMB_PX, 4 * THUMB_PX, 3)
    # Away from the fundus: JPEG keeps colour in blocks of 16 pixels.
    assert np.abs(picture[:, : THUMB_PX - 16].astype(int) - 128).max() < 3
    assert np.abs(picture[:, 2 * THUMB_PX + 16 :].astype(int) - 128).max() < 3


def test_only_drawings_on_grey_are_recoloured(files):
    for page in pages(files).values():
        signed = {
            attributes["src"] for _, attributes in page.tags if attributes.get("class") == "signed"
        }
        assert not any("photo" in name or "fundus" in name for name in signed)
    assert "figures/lead-most-positive-neurons.png" in {
        a.get("src") for _, a in Page(files["index.html"]).tags if a.get("class") == "signed"
    }


def test_names_from_outside_cannot_become_markup_or_paths():
    eyes = gallery().assign(image_id=[EVIL, EVIL + "2", EVIL + "3"])
    given = full(EVIL) | {"gallery": eyes, "lead": (eye(EVIL, split=EVIL), "0/x")}
    files = report.render(**given)
    for name, page in pages(files).items():
        assert EVIL in "".join(page.words), name
        scripts = [attributes["src"] for tag, attributes in page.tags if tag == "script"]
        assert all(
            script.removeprefix("../").startswith(("assets/", "gallery/")) for script in scripts
        )
    (figure,) = (name for name in files if re.fullmatch(r"figures/groups/.*\.svg", name))
    assert EVIL not in files[figure].decode("latin1")
    assert all(
        name == posixpath.normpath(name) and not name.startswith(("/", "..")) for name in files
    )
    assert not any(set(name) & set("<>'\"&\\ ") for name in files)


def test_an_empty_report_is_still_one():
    empty = Section("eyes", "Explained eyes", explained(gallery()[:0]))
    files = report.render(report.Head(), [empty], Folder())
    assert {name for name in files if not name.startswith("assets/")} == {
        "index.html",
        "eyes.html",
        "eye.html",
    }
    assert "No eye could be explained;" in Page(files["index.html"]).text
    assert "dr show WORKSPACE IMAGE_ID" in Page(files["eye.html"]).text


def test_an_eye_with_failed_maps_is_still_shown():
    lost = np.full((SIZE, SIZE), np.nan, np.float32)
    bare = eye(
        "12_left",
        photo=None,
        outcomes=(OutcomeMap("stage2", lost, gap=float("nan")),),
        layers=(LayerMaps("stem", positive=lost),),
    )
    told = record(bare)
    assert told["photo"] is None
    assert np.abs(pixels(told["maps"]).astype(int) - 128).max() <= 1
    assert told["tiles"] == ["stage2", "stem/positive"]
    assert "nan" not in json.dumps(told["tables"]).lower()


def test_numpys_scalars_are_as_good_as_pythons():
    """Rows of tables bring them: `np.bool_(False) is False` is false, and np.int64 is no int."""
    maps = eye("12_left").outcomes
    plain = eye(
        "12_left", 2, 3, outcomes=(dataclasses.replace(maps[0], converged=False, gap=0.25),)
    )
    numpy = eye(
        "12_left",
        np.int64(2),
        np.int64(3),
        outcomes=(dataclasses.replace(maps[0], converged=np.False_, gap=np.float32(0.25)),),
        probabilities=np.array(plain.probabilities),
    )
    assert record(plain) == record(numpy)


def test_a_region_beyond_the_fundus_is_refused():
    neuron = NeuronEntry("positive", 0, (1, 1, 1), 1.0, np.ones((16, 16)), (40, 40))
    with pytest.raises(ValueError, match="reaches beyond"):
        eye_files(eye("10_left", layers=(LayerMaps("stem", neurons=(neuron,)),)), "0/10_left")


def test_the_same_data_gives_the_same_bytes(files):
    assert report.render(**full()) == files
    assert eye_files(eye("10_left"), "0/10_left") == eye_files(eye("10_left"), "0/10_left")


def test_an_eyes_picture_for_the_terminal_holds_both_figures_and_the_neurons():
    whole, without = (
        eye_sheet(eye("10_left", **changes), ("stage0", "stage4"))
        for changes in ({}, {"layers": ()})
    )
    assert whole.shape[0] > without.shape[0]
    assert whole.shape[1] >= 4 * 256
