"""The report of a small run in a real browser, opened from disk as a person would open it.

Every test also holds the pages to this: no error on the console, no failed request, nothing from
anywhere but the folder.
"""

import pathlib

import pytest

from tasks.report.sections import SECTIONS
from tests import chromium

pytestmark = pytest.mark.skipif(chromium.CHROMIUM is None, reason=chromium.MISSING)
DRAWN = "document.body.dataset.drawn"
GREEN_RED, BLUE_ORANGE = "green-red", "blue-orange"
# Counts of pixels that are greener than red, and bluer than red, on the map of the most positive
# neurons.
COLOURS = """(() => {
  const [, ...panels] = [...document.querySelectorAll('[data-figure-a] canvas')];
  const map = panels.at(-2), data = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
  let green = 0, blue = 0;
  for (let at = 0; at < data.length; at += 4) {
    green += data[at + 1] > data[at] + 20 && data[at + 1] > data[at + 2] + 20;
    blue += data[at + 2] > data[at] + 20;
  }
  return [green, blue];
})()"""


@pytest.fixture(scope="module")
def folder(chain) -> pathlib.Path:
    (made,) = chain["workspace"].files.names("report")
    return pathlib.Path(chain["workspace"].location) / "report" / made


@pytest.fixture(scope="module")
def tab(folder):
    with chromium.browser() as page:
        yield page


@pytest.fixture
def page(tab, folder):
    tab.resize(1280, 900)
    tab.troubles.clear()
    tab.requests.clear()
    yield tab
    assert tab.troubles == []
    assert [
        one for one in tab.requests if not one.startswith((folder.as_uri(), "data:", "blob:"))
    ] == []


@pytest.fixture
def graded(chain):
    """Stage and grade of the explained eyes."""
    rows = chain["workspace"].frame("predictions").set_index("image_id")
    return rows.loc[
        sorted(set(chain["workspace"].frame("attributions")["image_id"])),
        ["stage", "predicted_stage"],
    ]


def names(page) -> set[str]:
    return set(
        page.evaluate(
            "[...document.querySelectorAll('#cards .name')].map((one) => one.textContent)"
        )
    )


def first_key(page, folder) -> str:
    page.open((folder / "eyes.html").as_uri())
    page.wait_for("document.body.dataset.shown")
    return page.evaluate("document.querySelector('#cards a').hash.slice(1)")


def test_the_overview_opens_and_leads_to_an_eye(page, folder):
    page.open((folder / "index.html").as_uri())
    assert page.evaluate(
        "[...document.images].every((one) => one.loading === 'lazy' || one.naturalWidth > 0)"
    )
    page.click(".lead a")
    page.wait_for(DRAWN)
    assert page.evaluate("document.querySelectorAll('[data-figure-a] canvas').length") >= 3


def test_the_gallery_filters_and_its_address_keeps_the_filter(page, folder, graded):
    page.open((folder / "eyes.html").as_uri())
    page.wait_for(f"document.body.dataset.shown === '{len(graded)}'")
    assert names(page) == set(graded.index)
    stage = int(graded["stage"].iloc[0])
    wanted = graded[graded["stage"] == stage]
    page.choose("select[name=true]", str(stage))
    page.wait_for(f"document.body.dataset.shown === '{len(wanted)}'")
    assert names(page) == set(wanted.index)
    wrong = wanted[wanted["stage"] != wanted["predicted_stage"]]
    page.choose("select[name=grade]", "wrong")
    page.wait_for(f"document.body.dataset.shown === '{len(wrong)}'")
    assert names(page) == set(wrong.index)
    assert page.evaluate("location.hash") == f"#true={stage}&grade=wrong"
    page.choose("select[name=grade]", "")
    page.choose("select[name=true]", "")
    page.choose("input[name=find]", graded.index[-1])
    page.wait_for("document.body.dataset.shown === '1'")
    assert names(page) == {graded.index[-1]}


def test_an_eyes_page_compares_any_two_stages(page, folder):
    key = first_key(page, folder)
    page.open(f"{(folder / 'eye.html').as_uri()}#{key}")
    page.wait_for(DRAWN)
    maps = "[...document.querySelectorAll('[data-figure-b] canvas')].map((one) => one.toDataURL())"
    before = page.evaluate(maps)
    page.choose("select[name=left]", "stage2")
    page.wait_for(f"{DRAWN}.includes(' stage2 stage4 ')")
    after = page.evaluate(maps)
    assert after[0] == before[0], "the fundus stays"
    assert after[1] != before[1]
    assert after[2] == before[2]
    assert "Toward stage 2 (moderate)" in page.evaluate(
        "document.querySelector('[data-figure-b]').textContent"
    )
    assert page.evaluate("location.hash").endswith("?left=stage2"), (
        "the comparison can be sent as an address"
    )
    page.choose("select[name=layer]", "fc1")
    page.wait_for(f"{DRAWN}.includes(' fc1 ')")
    assert "unit " in page.evaluate("document.querySelector('[data-neurons]').textContent")


def test_the_switch_of_colours_repaints_maps_and_thumbnails_and_is_remembered(page, folder):
    key = first_key(page, folder)
    page.open(f"{(folder / 'eye.html').as_uri()}#{key}")
    page.wait_for(DRAWN)
    green, blue = page.evaluate(COLOURS)
    assert green > blue
    page.click("#palette")
    page.wait_for(f"{DRAWN}.endsWith('{BLUE_ORANGE}')")
    green_after, blue_after = page.evaluate(COLOURS)
    assert blue_after > green_after
    page.open((folder / "eyes.html").as_uri())
    page.wait_for("document.body.dataset.shown")
    assert "blue-orange" in page.evaluate(
        "getComputedStyle(document.querySelector('#cards img.signed')).filter"
    )
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#cards img:not(.signed)')).filter")
        == "none"
    )
    page.click("#palette")
    assert page.evaluate("document.documentElement.dataset.palette") == GREEN_RED


def test_arrows_lead_through_the_eyes_of_the_filter(page, folder, graded):
    stage = int(graded["stage"].iloc[0])
    wanted = graded[graded["stage"] == stage]
    page.open(f"{(folder / 'eyes.html').as_uri()}#order=-miss")
    page.wait_for("document.body.dataset.shown")
    order = page.evaluate(
        "[...document.querySelectorAll('#cards .name')].map((one) => one.textContent)"
    )
    assert len(wanted) >= 1
    page.click("#cards a")
    page.wait_for(f"{DRAWN} && document.body.dataset.place === '1 of {len(graded)}'")
    assert page.evaluate("document.querySelector('[data-id]').textContent") == order[0]
    page.press("ArrowRight")
    page.wait_for(f"document.body.dataset.place === '2 of {len(graded)}'")
    assert page.evaluate("document.querySelector('[data-id]').textContent") == order[1]
    assert page.evaluate("document.querySelector('[data-back]').href").endswith(
        "eyes.html#order=-miss"
    )


def test_figures_can_be_taken_away_as_png_and_svg_in_the_chosen_colours(page, folder):
    key = first_key(page, folder)
    page.open(f"{(folder / 'eye.html').as_uri()}#{key}")
    page.wait_for(DRAWN)
    labels = page.evaluate(
        "[...document.querySelectorAll('.take')].map((one) => one.getAttribute('aria-label'))"
    )
    assert {"Fig (a) as PNG", "Fig (a) as SVG", "Fig (b) as PNG", "Fig (b) as SVG"} <= set(labels)
    png, svg = page.evaluate("""(async () => {
          const panels = [{ canvas: document.querySelector('[data-figure-b] canvas'), caption: 'a < b' }];
          const [png, svg] = [await report.draw.toPng('title', panels, 4), await report.draw.toSvg('title', panels, 4)];
          return [[...new Uint8Array(await png.arrayBuffer()).slice(0, 4)], await svg.text()];
        })()""")
    assert bytes(png) == b"\x89PNG"
    assert "a &lt; b" in svg
    assert svg.count("data:image/png;base64,") == 1


def test_an_unknown_eye_is_answered_in_words_and_a_name_alone_is_found(page, folder, graded):
    page.open(f"{(folder / 'eye.html').as_uri()}#{graded.index[0]}")
    # By its name, not by being drawn: an eye of the test before is, until this one's data has come.
    page.wait_for(f"document.querySelector('[data-id]').textContent === '{graded.index[0]}'")
    page.open(f"{(folder / 'eye.html').as_uri()}?other#nobody_left")
    page.wait_for("!document.querySelector('[data-trouble]').hidden")
    assert "no eye nobody_left" in page.evaluate(
        "document.querySelector('[data-trouble]').textContent"
    )


def test_the_index_of_units_is_filtered_by_words_and_by_numbers(page, folder, chain):
    units = chain["workspace"].frame("units", study="contributions")
    page.open((folder / "units.html").as_uri())
    page.wait_for(f"document.body.dataset.shown === '{len(units)}'")
    graded = units["median_by_predicted_stage"].map(lambda medians: medians[0])
    conditions = {
        "speaks against stage 0": (graded < 0).sum(),
        "stem, mean over 0": ((units["layer"] == "stem") & (units["mean_attribution"] > 0)).sum(),
        "fc1 3": 1 + sum(str(unit).startswith("3") for unit in range(10, 16)),
    }
    for words, count in conditions.items():
        page.choose("input[name=find]", words)
        page.wait_for(f"document.body.dataset.shown === '{count}'")
    page.choose("input[name=find]", "beauty over 3")
    page.wait_for("document.body.dataset.shown === '0'")
    told = page.evaluate("document.querySelector('.none-match').textContent")
    assert "no number called “beauty”" in told
    page.choose("input[name=find]", "")
    page.choose("select[name=order]", "-mean")
    page.wait_for(f"document.body.dataset.shown === '{len(units)}'")
    first = units.sort_values("mean_attribution", ascending=False).iloc[0]
    link = page.evaluate("document.querySelector('.unit-index a').getAttribute('href')")
    assert link == f"unit.html#{first['layer']}/{first['unit']}"
    assert page.evaluate("location.hash") == "#order=-mean"


def test_a_units_page_shows_its_eyes_and_leads_to_them_and_to_other_units(page, folder, chain):
    examples = chain["workspace"].frame("unit_examples")
    layer, unit = examples.iloc[0][["layer", "unit"]]
    own = examples[(examples["layer"] == layer) & (examples["unit"] == unit)]
    page.open(f"{(folder / 'unit.html').as_uri()}#{layer}/{unit}")
    page.wait_for(f"{DRAWN} === '{layer}/{unit}'")
    assert page.evaluate("document.querySelectorAll('.examples li').length") == len(own)
    page.wait_for("[...document.querySelectorAll('.examples img')].every((one) => one.complete)")
    assert page.evaluate(
        "[...document.querySelectorAll('.examples img')].every((one) => one.naturalWidth === 960)"
    )
    assert page.evaluate("document.querySelectorAll('svg.histogram').length") == 2
    page.click(".examples a")
    page.wait_for(f"{DRAWN}.includes('green-red')")
    page.open(f"{(folder / 'unit.html').as_uri()}?again#nothing/7")
    page.wait_for("!document.querySelector('[data-trouble]').hidden")
    assert "no unit nothing/7" in page.evaluate(
        "document.querySelector('[data-trouble]').textContent"
    )


def every_page(page, folder) -> list[str]:
    """The overview, every section, a page below one where there is any, an eye and a unit."""
    below = sorted(f"units/{one.name}" for one in folder.glob("units/*.html"))[:1]
    return (
        [one.name for one in sorted(folder.glob("*.html")) if one.name != "eye.html"]
        + below
        + [f"eye.html#{first_key(page, folder)}", "unit.html#stem/1"]
    )


def test_the_overview_fits_two_windows_and_each_section_is_one_click_away(page, folder):
    for width, height in ((1280, 900), (390, 844)):
        page.resize(width, height)
        page.open((folder / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollHeight") <= 2.1 * height
    links = page.evaluate(
        "[...document.querySelectorAll('.findings a')].map((one) => one.getAttribute('href'))"
    )
    assert links == [f"{name}.html" for name in SECTIONS]
    assert page.evaluate(
        "[...document.querySelectorAll('.findings span')].every((one) =>"
        " one.textContent.trim().endsWith('.'))"
    )


def test_a_section_is_printed_whole_and_dark_on_white(page, folder):
    page.resize(1280, 900, dark=True)
    page.open((folder / "run.html").as_uri())
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(
        "document.querySelectorAll('details').length > 0 &&"
        " !document.querySelector('details:not([open])')"
    )
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("!document.querySelector('details[open]')")
    page._call(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    red, *_ = page.evaluate("getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
    assert red < 60
    assert page.evaluate("getComputedStyle(document.querySelector('.site')).display") == "none"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    )
    page._call("Emulation.setEmulatedMedia", media="")


def test_pages_fit_a_phone_and_follow_dark(page, folder):
    names = every_page(page, folder)
    page.resize(390, 844, dark=True)
    for name in names:
        page.open(f"{folder.as_uri()}/{name}")
        page.wait_for(DRAWN if "#" in name else "document.readyState === 'complete'")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, (
            f"{name} is wider than the phone"
        )
        red, *_ = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
        )
        assert red < 60


def test_every_control_has_a_name_and_every_picture_words(page, folder):
    for name in every_page(page, folder):
        page.open(f"{folder.as_uri()}/{name}")
        if "#" in name:
            page.wait_for(DRAWN)
        unnamed = page.evaluate(
            """[...document.querySelectorAll('input, select, button, a[href], img, canvas')].filter((one) => {
              const label = one.closest('label') ? one.closest('label').textContent : '';
              const words = one.getAttribute('aria-label') || one.alt || one.textContent || label;
              return !words.trim() && !one.hidden;
            }).map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert unnamed == []
