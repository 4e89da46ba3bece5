"""Numbers in, one plot as SVG and PNG bytes out.

Drawn with `matplotlib.figure.Figure` itself, never pyplot: no window, no current figure, no backend
chosen for the process, and matplotlib is imported only when something is drawn. The SVG keeps its
text as text and carries two inks in a stylesheet of its own, so that an <img> of it follows the
reader's light or dark setting; the PNG is the light one. Same input, same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_NAMES = ("none", "mild", "moderate", "severe", "proliferative")
# Ordered from cool to hot, told apart in the common colour-vision deficiencies, legible on white
# and on near-black.
STAGE_COLOURS = ("#5a8fd6", "#35a39a", "#c9a227", "#e2793b", "#cf4a68")
ACCENT, SECOND = "#3f7fd0", "#e2793b"
# Placeholders of the light drawing; the SVG gets the dark ones through its stylesheet.
INK, MUTED, GRID, PAPER = "#16202a", "#64707c", "#d9dee3", "#fdfdfc"
DARK = {INK: "#e8ecf0", MUTED: "#9aa6b2", GRID: "#333c45", PAPER: "#14191e"}
NAMES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}


class Plot(NamedTuple):
    """One drawing in both formats, and its size in CSS pixels."""

    svg: bytes
    png: bytes
    width: int
    height: int


def figure(
    width_in: float, height_in: float, row_heights: Sequence[float] = (1,), columns: int = 1
) -> "tuple[Figure, list[Axes]]":
    """An empty figure in the house style and its axes, row by row."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    grid = made.subplots(len(row_heights), columns, squeeze=False, height_ratios=row_heights)
    axes = grid.ravel().tolist()
    for one in axes:
        one.set_facecolor("none")
        for side, spine in one.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GRID)
        one.tick_params(colors=MUTED, labelsize=9, length=0, pad=5)
        one.grid(color=GRID, linewidth=0.7)
        one.set_axisbelow(True)
        one.xaxis.label.set(color=MUTED, size=9.5)
        one.yaxis.label.set(color=MUTED, size=9.5)
        one.title.set(color=INK, size=10.5)
    return made, axes


def rendered(made: "Figure", *, themed: bool = True) -> Plot:
    """The figure's bytes. Fonts and the salt of SVG ids are settings of the process in matplotlib:
    lent, then given back.

    themed: the SVG follows the reader's light or dark setting, without paper of its own; otherwise
    both formats keep the figure's colours and, at its own resolution, its pixels.
    """
    from matplotlib import rc_context

    svg, png = io.BytesIO(), io.BytesIO()
    dpi, css = (160, 96) if themed else (made.dpi, made.dpi)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plots"}):
        made.savefig(svg, format="svg", transparent=themed, metadata={"Date": None})
        made.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    text = svg.getvalue().decode()
    if themed:
        for light, name in NAMES.items():
            text = text.replace(light, f"var({name})")
        light = ";".join(f"{name}:{colour}" for colour, name in NAMES.items())
        dark = ";".join(f"{name}:{DARK[colour]}" for colour, name in NAMES.items())
        family = (
            "text{font-family:Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif!important}"
        )
        style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{family}</style>"
        text = text.replace("<defs>", f"{style}<defs>", 1)
    width, height = (round(css * inches) for inches in made.get_size_inches())
    return Plot(text.encode(), png.getvalue(), width, height)


def legend(axes: "Axes", **where) -> None:
    """The axes' legend: no frame, small, in ink."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=1.4, **where)


def learning_curves(history: pd.DataFrame, *, x: str = "step") -> Plot:
    """Loss, the validation scores and the learning rate by mini-batch, one below the other; dotted
    lines where the rate changes.

    history: one row a report; the column `x`, and any of: columns with "loss" in the name,
    `learning_rate`, other numeric columns (scores between −1 and 1). Missing values are left out of
    their line.
    """
    numeric = [
        name
        for name in history.columns
        if name != x and pd.api.types.is_numeric_dtype(history[name])
    ]
    losses = [name for name in numeric if "loss" in name]
    scores = [
        name
        for name in numeric
        if any(word in name for word in ("qwk", "kappa", "auc", "accuracy", "score"))
    ]
    groups = [
        (names, label) for names, label in ((losses, "Loss"), (scores, "Validation score")) if names
    ]
    rate = history[[x, "learning_rate"]].dropna() if "learning_rate" in history else None
    heights = [1.0] * max(1, len(groups)) + ([0.5] if rate is not None else [])
    made, axes = figure(4.6, 0.6 + 1.75 * sum(heights), heights)
    for one, (names, label) in zip(axes, groups, strict=False):
        for name, colour in zip(
            names, (ACCENT, SECOND, STAGE_COLOURS[1], STAGE_COLOURS[4]), strict=False
        ):
            known = history[[x, name]].dropna()
            line = known[name].to_numpy(float)
            smooth = pd.Series(line).ewm(span=max(1, len(line) // 40)).mean()
            if (
                len(line) >= 200
            ):  # a mini-batch's own loss is noise: its running mean in front, itself behind
                one.plot(known[x], line, color=colour, linewidth=0.6, alpha=0.25)
                one.plot(known[x], smooth, color=colour, linewidth=1.8, label=_line_name(name))
            else:
                few = "o" if len(line) <= 30 else None
                one.plot(
                    known[x],
                    line,
                    color=colour,
                    linewidth=1.8,
                    marker=few,
                    markersize=3.5,
                    label=_line_name(name),
                )
        alone = _line_name(names[0]).capitalize()
        one.set(ylabel=label if len(names) > 1 else alone, xlim=(0, None))
        one.set_ylim(min(0.0, *one.get_ylim()), None if names is losses else 1)
        if rate is not None:
            changes = rate[x][rate["learning_rate"].diff().fillna(0) != 0]
            for step in changes if len(changes) < 10 else ():
                one.axvline(step, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        if len(names) > 1:
            legend(one, loc="upper right" if names is losses else "lower right")
    if rate is not None:
        axes[-1].plot(rate[x], rate["learning_rate"], color=MUTED, linewidth=1.6)
        axes[-1].set(ylabel="Learning\nrate", xlim=(0, None), ylim=(0, None))
        axes[-1].ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
        axes[-1].yaxis.offsetText.set(color=MUTED, size=8.5)
    for one in axes[:-1]:
        one.tick_params(labelbottom=False)
    axes[-1].set(xlabel="Mini-batch")
    return rendered(made)


def _line_name(column: str) -> str:
    return column.replace("qwk", "kappa").replace("_", " ")


def confusion_matrix(
    counts: Shaped[np.ndarray, "true predicted"], names: Sequence[str] = STAGE_NAMES
) -> Plot:
    """Counts by true (rows) and predicted stage; the shade is the share of the row, so that rare
    stages are seen.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    made, (axes,) = figure(4.6, 4.0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    size = len(counts)
    for (row, column), count in np.ndenumerate(counts):
        weight = float(share[row, column])
        axes.add_patch(_tile(column, row, GRID, 0.35))
        axes.add_patch(_tile(column, row, ACCENT, 0.12 + 0.88 * weight if count else 0.0))
        colour = "#ffffff" if weight > 0.6 else INK if count else MUTED
        axes.text(
            column, row, f"{int(count)}", ha="center", va="center", color=colour, fontsize=10.5
        )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.set_xticks(
        range(size),
        [f"{stage} {name}" for stage, name in enumerate(names)],
        rotation=30,
        ha="right",
    )
    axes.set_yticks(range(size), [f"{stage} {name}" for stage, name in enumerate(names)])
    axes.set(xlabel="Predicted stage", ylabel="True stage")
    return rendered(made)


def _tile(column: int, row: int, colour: str, alpha: float):
    from matplotlib.patches import FancyBboxPatch

    box = "round,pad=0,rounding_size=0.08"
    return FancyBboxPatch(
        (column - 0.46, row - 0.46),
        0.92,
        0.92,
        boxstyle=box,
        facecolor=colour,
        edgecolor="none",
        alpha=alpha,
    )


def reliability(
    predicted: Float[np.ndarray, "bins"],
    observed: Float[np.ndarray, "bins"],
    counts: Shaped[np.ndarray, "bins"],
) -> Plot:
    """Observed frequency against predicted probability by bin; a dot's area is its number of
    eyes; empty bins are left out.
    """
    filled = (counts > 0) & np.isfinite(predicted) & np.isfinite(observed)
    made, (axes,) = figure(4.2, 3.8)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    area = 18 + 220 * counts[filled] / max(1, counts.max(initial=1))
    axes.scatter(
        predicted[filled],
        observed[filled],
        s=area,
        color=ACCENT,
        edgecolor=PAPER,
        linewidth=1.2,
        zorder=3,
    )
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
        xlabel="Predicted probability",
        ylabel="Observed frequency",
    )
    return rendered(made)


def roc(
    curves: Mapping[str, tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]],
    operating_points: Sequence[tuple[str, float, float]] = (),
) -> Plot:
    """Receiver operating characteristics: `curves` name → (false-positive rate, sensitivity),
    and numbered points on them, whose names stand in the corner below the diagonal, where no
    curve comes.
    """
    made, (axes,) = figure(4.2, 3.8)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    for (name, (false_positive, sensitivity)), colour in zip(
        curves.items(), (ACCENT, *STAGE_COLOURS[1:]), strict=False
    ):
        axes.plot(false_positive, sensitivity, color=colour, linewidth=2, label=name)
    known = [(name, at) for name, *at in operating_points if np.isfinite(at).all()]
    for place, (x, y) in {(round(x, 3), round(y, 3)): (x, y) for _, (x, y) in known}.items():
        numbers = [
            str(n)
            for n, (_, at) in enumerate(known, 1)
            if (round(at[0], 3), round(at[1], 3)) == place
        ]
        axes.plot(x, y, "o", color=SECOND, markeredgecolor=PAPER, markersize=11, zorder=4)
        axes.text(
            x,
            y,
            "·".join(numbers),
            color="#ffffff",
            fontsize=7,
            ha="center",
            va="center_baseline",
            zorder=5,
        )
    if known:
        words = "\n".join(f"{n}  {name}" for n, (name, _) in enumerate(known, 1))
        axes.text(
            0.99, 0.02, words, color=INK, fontsize=8.5, ha="right", va="bottom", linespacing=1.5
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="False-positive rate (1 − specificity)", ylabel="Sensitivity")
    if len(curves) > (1 if known else 0):
        legend(axes, loc="center right" if known else "lower right")
    return rendered(made)


def bars(
    labels: Sequence[str],
    values: Shaped[np.ndarray, "bars"],
    low: Shaped[np.ndarray, "bars"] | None = None,
    high: Shaped[np.ndarray, "bars"] | None = None,
    *,
    x_label: str = "",
    reference: float | None = None,
) -> Plot:
    """Horizontal bars with their values, intervals where both ends are known, and a reference
    line (such as AUC 0.5).
    """
    made, (axes,) = figure(5.6, 0.9 + 0.42 * max(1, len(labels)))
    places = np.arange(len(labels))
    axes.barh(places, values, height=0.62, color=ACCENT, alpha=0.85)
    tips = np.asarray(values, float)
    if low is not None and high is not None:
        known = np.isfinite(low) & np.isfinite(high)
        axes.hlines(places[known], low[known], high[known], color=INK, linewidth=1.4)
        tips = np.fmax(tips, np.where(known, high, tips))
    room = float(np.nanmax(np.abs(tips), initial=0)) or 1.0
    for place, value, tip in zip(places, values, tips, strict=True):
        axes.text(
            max(tip, 0) + room * 0.02, place, f"{value:.3g}", va="center", fontsize=9, color=INK
        )
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_yticks(places, labels, color=INK)
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=x_label)
    axes.set_xlim(min(0.0, float(np.nanmin(values, initial=0)) * 1.1), room * 1.14)
    axes.grid(axis="y", visible=False)
    return rendered(made)


def spreads(
    labels: Sequence[str],
    low: Shaped[np.ndarray, "rows"],
    middle: Shaped[np.ndarray, "rows"],
    high: Shaped[np.ndarray, "rows"],
    *,
    x_label: str = "",
) -> Plot:
    """One line a row from `low` to `high` with a dot and its value at `middle`."""
    made, (axes,) = figure(5.6, 0.9 + 0.42 * max(1, len(labels)))
    places = np.arange(len(labels))
    axes.hlines(places, low, high, color=ACCENT, linewidth=6, alpha=0.35)
    axes.plot(middle, places, "o", color=ACCENT, markersize=9, markeredgecolor=PAPER)
    room = float(np.nanmax(high, initial=0)) or 1.0
    for place, value, tip in zip(places, middle, high, strict=True):
        axes.text(tip + room * 0.02, place, f"{value:.3g}", va="center", fontsize=9, color=INK)
    axes.set_yticks(places, labels, color=INK)
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlim=(0, room * 1.14), xlabel=x_label)
    axes.grid(axis="y", visible=False)
    return rendered(made)


def linearity_scatter(
    x: Shaped[np.ndarray, "units"],
    y: Shaped[np.ndarray, "units"],
    verdicts: Sequence[str],
    *,
    x_label: str,
    y_label: str,
) -> Plot:
    """One dot a unit, its colour the verdict: who follows the straight line, who does not."""
    made, (axes,) = figure(5.2, 3.9)
    names = sorted(set(verdicts), key=lambda name: (-list(verdicts).count(name), name))
    for name, colour in zip(
        names,
        (ACCENT, SECOND, STAGE_COLOURS[1], STAGE_COLOURS[4], STAGE_COLOURS[2], MUTED),
        strict=False,
    ):
        chosen = np.array([verdict == name for verdict in verdicts])
        label = f"{name.replace('_', ' ')} ({int(chosen.sum())})"
        axes.scatter(
            x[chosen],
            y[chosen],
            s=26,
            color=colour,
            edgecolor=PAPER,
            linewidth=0.6,
            alpha=0.9,
            label=label,
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    if names:
        legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
    return rendered(made)
