"""Plots of the studies: what is drawn is what is given."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd

from dr_lib.drawing import study_plots
from dr_lib.drawing.plots import Plot


def texts(plot: Plot) -> list[str]:
    return [
        "".join(node.itertext()).strip()
        for node in ET.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def compared(**changes) -> pd.DataFrame:
    rows = [
        {
            "measure": measure,
            "first": first,
            "second": second,
            "pairs": 5,
            "median_difference": 0.1,
            "low": -0.2,
            "high": 0.3,
        }
        for measure in ("ssim", "l2")
        for first in ("proportional", "constant_regions")
        for second in ("fgsm_linf", "pgd_l2")
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_every_measure_has_a_panel_and_every_method_its_name():
    left = {"ssim": "less similar", "l2": "smaller change"}
    plot = study_plots.paired_differences(compared(), left)
    found = texts(plot)
    for words in (
        "SSIM",
        "L2",
        "fgsm linf",
        "pgd l2",
        "proportional",
        "constant, regions",
        "\u2190 smaller change",
    ):
        assert words in found
    assert plot == study_plots.paired_differences(compared(), left)


def test_comparisons_of_fewer_than_five_pairs_are_not_drawn():
    rows = compared()
    rows.loc[rows["measure"] == "ssim", "pairs"] = 4
    found = texts(study_plots.paired_differences(rows, {"ssim": "", "l2": ""}))
    assert "L2" in found
    assert "SSIM" not in found
    assert "SSIM" not in texts(study_plots.paired_differences(compared(pairs=0), {"ssim": ""}))


def units() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": "fc1",
            "verdict": ["linear", "linear", "nonlinear", "linear"],
            "gradient_variation": 0.1,
            "r2": 0.9,
            "linear_up_to": [0.25, 0.5, np.nan, 1.0],
        }
    )


def test_a_layer_s_line_falls_where_its_units_cease_to_be_linear():
    plot = study_plots.linear_range(units(), [0.25, 0.5, 1.0], np.array([0.5, np.inf]))
    assert {"fc1", "the stage changes", "Largest strength judged"} <= set(texts(plot))
    assert study_plots.linear_range(units(), [0.25, 0.5], np.array([np.inf])).png


def test_verdicts_are_counted_in_the_legend_and_no_unit_is_still_a_plot():
    assert {"linear (3)", "nonlinear (1)"} <= set(texts(study_plots.verdicts(units())))
    assert study_plots.verdicts(units()[:0]).png[:4] == b"\x89PNG"
