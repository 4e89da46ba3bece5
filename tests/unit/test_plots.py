"""Plots: the numbers drawn are the numbers given, in both formats, without a trace in
matplotlib's settings.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from dr_lib.drawing import plots


def texts(plot: plots.Plot) -> list[str]:
    return [
        "".join(node.itertext()).strip()
        for node in ET.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def history(steps: int = 250) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    kappa = np.where(step % 50 == 0, step / steps * 0.7, np.nan)
    return pd.DataFrame(
        {
            "step": step,
            "loss": 2 / step,
            "validation_qwk": kappa,
            "learning_rate": np.where(step < 100, 1e-3, 2e-4),
            "step_s": 1,
        }
    )


def rows(**numbers: tuple[float, ...]) -> pd.DataFrame:
    """Value, low and high by label."""
    return pd.DataFrame.from_dict(numbers, "index", columns=["value", "low", "high"])


DRAWN = {
    "learning": lambda: plots.learning_curves(history()),
    "confusion": lambda: plots.confusion_matrix(np.arange(25).reshape(5, 5)),
    "reliability": lambda: plots.reliability(
        np.array([0.1, 0.9, np.nan]), np.array([0.2, 0.8, np.nan]), np.array([30, 4, 0])
    ),
    "roc": lambda: plots.roc(
        np.array([0, 0.2, 1]), np.array([0, 0.9, 1]), [("sensitivity 0.9", 0.2, 0.9)]
    ),
    "bars": lambda: plots.bars(rows(a=(0.7, 0.6, 0.8), b=(0.6, np.nan, np.nan)), reference=0.5),
    "dots": lambda: plots.bars(rows(a=(0.7, 0.6, 0.8), b=(0.6, 0.5, 0.7)), dots=True),
    "referral": lambda: plots.referral(
        rows(a=(0.7, 0.6, 0.8), b=(0.8, 0.7, 0.9)).assign(side="sensitivity", share=[0.0, 0.5])
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_both_formats_are_whole_alike_twice_and_leave_no_trace(name):
    before = dict.copy(mpl.rcParams)  # asking for an item would choose a backend and import pyplot
    first, second = DRAWN[name](), DRAWN[name]()
    assert first.svg == second.svg
    assert cv2.imdecode(np.frombuffer(first.png, np.uint8), 1).min() < 200
    assert ET.fromstring(first.svg).tag.endswith("svg")
    assert dict.copy(mpl.rcParams) == before


def test_drawing_imports_no_pyplot_and_importing_imports_no_matplotlib():
    code = (
        "import sys, dr_lib.report, dr_lib.drawing.plots as plots; assert 'matplotlib' not in"
        " sys.modules;import pandas; plots.bars(pandas.DataFrame({'value': [1.0]})); assert 'matplotlib.pyplot'"
        " not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", DRAWN)
def test_every_ink_of_the_svg_turns_with_the_readers_setting(name):
    style, drawing = DRAWN[name]().svg.decode().split("</style>", 1)
    assert "prefers-color-scheme:dark" in style
    for light, name in plots.INKS.items():
        assert light not in drawing
        assert f"--{name}:{light}" in style
        assert style.count(f"--{name}:#") == 2, "one for light, one for dark"


def test_the_style_sheet_knows_no_other_ink():
    colours = {f"#{found}" for found in re.findall(r"\b[0-9a-f]{6}\b", plots.STYLE.read_text())}
    assert colours <= {*plots.INKS, plots.ACCENT, plots.SECOND, *plots.STAGE_COLOURS}


def test_the_confusion_matrix_shows_each_count_once_and_names_the_stages():
    counts = 100 + np.arange(25).reshape(5, 5)
    shown = texts(plots.confusion_matrix(counts))
    assert [text for text in shown if text.isdigit()] == [str(count) for count in counts.ravel()]
    assert shown.count("4 proliferative") == 2


def test_bars_tell_their_values_and_names():
    assert {"stem", "0.703", "plain IG", "0.62"} <= set(
        texts(plots.bars(pd.DataFrame({"value": [0.703, 0.62]}, ["stem", "plain IG"])))
    )


def test_learning_curves_show_losses_and_scores_but_no_timings():
    shown = texts(plots.learning_curves(history()))
    assert {"Loss", "Validation kappa", "Learning", "rate"} <= set(shown)
    assert not any("step s" in text for text in shown)
    both = history().assign(validation_auc=0.8)
    assert {"Validation score", "validation kappa", "validation auc"} <= set(
        texts(plots.learning_curves(both))
    )
    # Only a loss, and few rows: one panel, still a plot.
    assert not {"Validation kappa", "Learning"} & set(
        texts(plots.learning_curves(history(3)[["step", "loss"]]))
    )


def test_operating_points_are_numbered_and_named_and_those_in_one_place_share_a_mark():
    curve = np.array([0, 0.2, 1.0]), np.array([0, 0.9, 1.0])
    points = [
        ("specificity 0.90", 0.2, 0.9),
        ("specificity 0.95", np.nan, np.nan),
        ("sensitivity 0.90", 0.2, 0.9),
    ]
    shown = texts(plots.roc(*curve, points))
    assert {"1·2", "1  specificity 0.90", "2  sensitivity 0.90"} <= set(shown)
    assert not any("0.95" in text for text in shown), "a point that is undefined has no mark"


@pytest.mark.parametrize("empty", ["roc", "bars", "reliability"])
def test_nothing_to_draw_is_still_a_plot(empty):
    none = np.array([])
    made = {
        "roc": lambda: plots.roc(none, none),
        "bars": lambda: plots.bars(rows()),
        "reliability": lambda: plots.reliability(none, none, none),
    }[empty]()
    assert made.png[:4] == b"\x89PNG"
