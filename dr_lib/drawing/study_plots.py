"""Plots of the two studies: paired differences between methods, and how far units stay linear. In
the style of `plots`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from dr_lib.drawing.plots import BESIDE, DASHED, INK, MUTED, PAPER, figure, plot, scientific
from dr_lib.formatting import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
LEAST_PAIRS = 5  # a median of fewer says nothing, and its interval less


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `dr_lib.perturbation.comparison.comparisons` that rest on enough pairs to be
    drawn.
    """
    return rows[rows["pairs"] >= LEAST_PAIRS]


@plot
def paired_differences(rows: pd.DataFrame, left: Mapping[str, str]) -> "Figure":
    """One panel a measure: median of first − second with its 95 % interval, a row for each second
    method, a colour for each first.

    Parameters
    ----------
    rows: those of `dr_lib.perturbation.comparison.comparisons`; those of fewer than `LEAST_PAIRS`
        pairs are left out.
    left: the measures that are drawn, and what lies left of their line of zero, such as "smoother".
    """
    rows = comparable(rows).dropna(subset="median_difference")
    measures = [name for name in left if name in set(rows["measure"])]
    firsts, seconds = list(dict.fromkeys(rows["first"])), list(dict.fromkeys(rows["second"]))
    columns = max(1, min(COLUMNS, len(measures)))
    lines = max(1, -(-len(measures) // columns))
    height = 0.9 + 0.13 * len(seconds) * (len(firsts) + 1)
    drawing, axes = figure(2.5 * columns + 0.6, lines * height + 0.4, (1.0,) * lines, columns)
    for panel in axes[len(measures) :]:
        panel.set_visible(False)
    names = [name.replace("_", " ") for name in seconds]
    for index, (panel, measure) in enumerate(zip(axes, measures, strict=False)):
        panel.axvline(0, color=INK, linewidth=0.9)
        for order, first in enumerate(firsts):
            part = rows[(rows["measure"] == measure) & (rows["first"] == first)]
            place = part["second"].map(seconds.index) + 0.7 * ((order + 0.5) / len(firsts) - 0.5)
            (dots,) = panel.plot(
                part["median_difference"],
                place,
                "o",
                markeredgecolor=PAPER,
                markersize=5,
                label=first.replace("_", ", "),
            )
            panel.hlines(
                place, part["low"], part["high"], color=dots.get_color(), linewidth=1.8, zorder=1.5
            )
        panel.set_yticks(range(len(seconds)), [] if index % columns else names)
        panel.set(ylim=(len(seconds) - 0.5, -0.5), title=label(measure))
        panel.set_xlabel(f"\u2190 {left[measure]}", loc="left")
        scientific(panel, "x", (-2, 3))
        panel.locator_params(axis="x", nbins=4)
        panel.grid(axis="y", visible=False)
    if measures and len(firsts) > 1:
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawing


@plot
def linear_range(
    units: pd.DataFrame, strengths: Sequence[float], flips: Shaped[np.ndarray, "eyes"]
) -> "Figure":
    """The share of each layer's units that are linear up to a strength, and where the eyes change
    their stage.

    Parameters
    ----------
    units: a row a live unit, with `layer` and `linear_up_to` (NaN: never linear).
    strengths: those of the study above 0.
    flips: each eye's smallest strength at the target, infinite where none was; the middle half of
        them is shaded.
    """
    drawing, (axes,) = figure(5.6, 3.6)
    reached = flips[np.isfinite(flips)]
    if len(reached):
        low, middle, high = np.quantile(reached, [0.25, 0.5, 0.75])
        axes.axvspan(low, high, color=MUTED, alpha=0.18, linewidth=0)
        axes.axvline(middle, color=MUTED, linewidth=1, linestyle=DASHED, label="the stage changes")
    for layer, up_to in units.groupby("layer")["linear_up_to"]:
        share = [(up_to >= strength).mean() for strength in strengths]
        axes.plot(strengths, share, linewidth=1.9, marker="o", markersize=3.5, label=layer)
    axes.set_xscale("log", base=2)
    axes.set(
        ylim=(-0.03, 1.03),
        xlabel="Largest strength judged",
        ylabel="Units that are linear up to it",
    )
    axes.legend(**BESIDE)
    return drawing


@plot
def verdicts(units: pd.DataFrame) -> "Figure":
    """One dot a unit, its colour the verdict: who follows the straight line, who does not.

    Parameters
    ----------
    units: rows of `dr_lib.linearity.verdicts.unit_verdicts`.
    """
    drawing, (axes,) = figure(5.2, 3.9)
    for name, count in units["verdict"].value_counts().items():
        chosen = units[units["verdict"] == name]
        words = f"{name} ({count})"
        axes.scatter(
            chosen["gradient_variation"],
            chosen["r2"],
            label=words,
            s=26,
            edgecolor=PAPER,
            linewidth=0.6,
            alpha=0.9,
        )
    axes.set(xlabel="Variation of the average gradient", ylabel="R² of the straight line")
    if len(units):
        axes.legend(**BESIDE)
    return drawing
