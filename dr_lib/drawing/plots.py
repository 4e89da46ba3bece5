"""Numbers in, one plot as SVG and PNG bytes out.

Drawn with `matplotlib.figure.Figure` itself, never pyplot: no window, no current figure, no backend
chosen for the process, and matplotlib is imported only when something is drawn. The SVG keeps its
text as text and carries two inks in a stylesheet of its own, so that an <img> of it follows the
reader's light or dark setting; the PNG is the light one.
Same input, same bytes.
"""

import functools
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from dr_lib.formatting import number, stage_text
from dr_lib.vocabulary import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ordered from cool to hot, told apart in the common colour-vision deficiencies, legible on white
# and on near-black.
STAGE_COLOURS = ("#5a8fd6", "#35a39a", "#c9a227", "#e2793b", "#cf4a68")
ACCENT, SECOND = "#3f7fd0", "#e2793b"
DOTTED, DASHED = (0, (2, 3)), (0, (3, 3))
# Inks of the light drawing; in an SVG they are names, to which theme.css gives both colours.
INK, MUTED, GRID, PAPER = "#16202a", "#64707c", "#d9dee3", "#fdfdfc"
INKS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
STYLE, THEME = map(pathlib.Path(__file__).with_name, ("house.mplstyle", "theme.css"))
BESIDE: dict[str, Any] = {  # where a legend stands: right of the axes
    "loc": "upper left",
    "bbox_to_anchor": (1.0, 1.0),
    "borderaxespad": 0,
}

Drawing = ParamSpec("Drawing")


class Plot(NamedTuple):
    """One drawing in both formats, and its size in CSS pixels."""

    svg: bytes
    png: bytes
    width: int
    height: int


def plot(draw: "Callable[Drawing, Figure]") -> Callable[Drawing, Plot]:
    """Makes a function that draws a figure one that returns it in the house style, in both
    formats. Settings of the process in matplotlib are lent, then given back."""

    @functools.wraps(draw)
    def drawn(*args: Drawing.args, **settings: Drawing.kwargs) -> Plot:
        from matplotlib import rc_context

        with rc_context(fname=STYLE):
            return rendered(draw(*args, **settings))

    return drawn


def figure(
    width_in: float, height_in: float, row_heights: Sequence[float] = (1,), columns: int = 1
) -> "tuple[Figure, list[Axes]]":
    """An empty figure and its axes, row by row."""
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = empty.subplots(len(row_heights), columns, squeeze=False, height_ratios=row_heights)
    return empty, axes.ravel().tolist()


def rendered(drawing: "Figure", *, themed: bool = True) -> Plot:
    """The figure in both formats.

    themed: the SVG follows the reader's light or dark setting, without paper of its own; otherwise
    both formats keep the figure's colours and, at its own resolution, its pixels.
    """
    dpi, css = (160, 96) if themed else (drawing.dpi, drawing.dpi)
    width, height = (round(css * inches) for inches in drawing.get_size_inches())
    drawn = _saved(drawing, format="png", dpi=dpi, metadata={"Software": None})
    return Plot(svg(drawing, themed=themed), drawn, width, height)


def svg(drawing: "Figure", *, themed: bool = True) -> bytes:
    """The figure as SVG; see `rendered`."""
    text = _saved(drawing, format="svg", transparent=themed, metadata={"Date": None}).decode()
    if not themed:
        return text.encode()
    for light, name in INKS.items():
        text = text.replace(light, f"var(--{name})")
    return text.replace("<defs>", f"<style>{THEME.read_text()}</style><defs>", 1).encode()


def _saved(drawing: "Figure", **settings) -> bytes:
    """The file's bytes."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(fname=STYLE):
        drawing.savefig(file, **settings)
    return file.getvalue()


@plot
def learning_curves(history: pd.DataFrame) -> "Figure":
    """Loss, the validation scores and the learning rate by mini-batch, one below the other; dotted
    lines where the rate changes.

    Parameters
    ----------
    history: one row a report; `step`, and any of: columns with "loss" in the name, `learning_rate`,
        scores between −1 and 1 (qwk, auc, accuracy, score). Missing values are left out of their
        line.
    """
    kinds = {"Loss": "loss", "Validation score": "qwk|auc|accuracy|score"}
    chosen = {title: list(history.filter(regex=words)) for title, words in kinds.items()}
    groups = [(title, names) for title, names in chosen.items() if names]
    rate = history.reindex(columns=["step", "learning_rate"]).dropna()
    heights = [1.0] * max(1, len(groups)) + [0.5] * (len(rate) > 0)
    drawing, axes = figure(4.6, 0.6 + 1.75 * sum(heights), heights)
    changes = rate["step"][rate["learning_rate"].diff().fillna(0) != 0]
    for panel, (title, names) in zip(axes, groups, strict=False):
        for name in names:
            known = history[["step", name]].dropna()
            words = name.replace("qwk", "kappa").replace("_", " ")
            style: dict[str, Any] = {"marker": "o" if len(known) <= 30 else None}
            line = known[name]
            if len(line) >= 200:
                # A mini-batch's own loss is noise: its running mean in front, itself behind.
                (behind,) = panel.plot(known["step"], line, linewidth=0.6, alpha=0.25)
                line = line.ewm(span=max(1, len(line) // 40)).mean()
                style = {"color": behind.get_color()}
            panel.plot(known["step"], line, linewidth=1.8, markersize=3.5, label=words, **style)
        panel.set(ylabel=title if len(names) > 1 else words.capitalize(), xlim=(0, None))
        panel.set_ylim(min(0.0, *panel.get_ylim()), None if title == "Loss" else 1)
        for step in changes if len(changes) < 10 else ():
            panel.axvline(step, color=MUTED, linewidth=0.8, linestyle=DOTTED)
        if len(names) > 1:
            panel.legend(loc="upper right" if title == "Loss" else "lower right")
    if len(rate):
        axes[-1].plot(rate["step"], rate["learning_rate"], color=MUTED, linewidth=1.6)
        axes[-1].set(ylabel="Learning\nrate", xlim=(0, None), ylim=(0, None))
        scientific(axes[-1], "y", (0, 0))
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
    axes[-1].set(xlabel="Mini-batch")
    return drawing


def scientific(axes: "Axes", which: Literal["x", "y"], powers: tuple[int, int]) -> None:
    """Writes the axis' numbers beyond these powers of ten with their power apart, small."""
    axes.ticklabel_format(axis=which, scilimits=powers, useMathText=True)
    getattr(axes, f"{which}axis").offsetText.set(color=MUTED, size=8)


@plot
def confusion_matrix(counts: Shaped[np.ndarray, "true predicted"]) -> "Figure":
    """Counts by true (rows) and predicted stage; the shade is the share of the row, so that rare
    stages are seen."""
    from matplotlib.colors import LinearSegmentedColormap

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    drawing, (axes,) = figure(4.6, 4.0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    shades = LinearSegmentedColormap.from_list("share", [f"{ACCENT}14", ACCENT])
    axes.pcolormesh(share, cmap=shades, vmin=0, vmax=1, edgecolors=PAPER, linewidth=3)
    for (row, column), count in np.ndenumerate(counts):
        colour = "#ffffff" if share[row, column] > 0.6 else INK if count else MUTED
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{int(count)}",
            color=colour,
            ha="center",
            va="center",
            fontsize=10.5,
        )
    names, places = [stage_text(stage) for stage in STAGES], np.arange(len(counts)) + 0.5
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set_yticks(places, names)
    axes.set(xlabel="Predicted stage", ylabel="True stage", ylim=(len(counts), 0), aspect="equal")
    return drawing


def _unit_square(x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    """Axes from 0 to 1 with their dashed diagonal."""
    drawing, (axes,) = figure(4.2, 3.8)
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel=x_label, ylabel=y_label)
    return drawing, axes


@plot
def reliability(
    predicted: Float[np.ndarray, "bins"],
    observed: Float[np.ndarray, "bins"],
    counts: Shaped[np.ndarray, "bins"],
) -> "Figure":
    """Observed frequency against predicted probability by bin; a dot's area is its number of eyes;
    empty bins are left out."""
    filled = (counts > 0) & np.isfinite(predicted) & np.isfinite(observed)
    drawing, axes = _unit_square("Predicted probability", "Observed frequency")
    area = 18 + 220 * counts[filled] / max(1, counts.max(initial=1))
    axes.scatter(
        predicted[filled], observed[filled], s=area, edgecolor=PAPER, linewidth=1.2, zorder=3
    )
    return drawing


@plot
def roc(
    false_positive: Float[np.ndarray, "points"],
    sensitivity: Float[np.ndarray, "points"],
    operating_points: Sequence[tuple[str, float, float]] = (),
) -> "Figure":
    """A receiver operating characteristic with numbered points (name, false-positive rate,
    sensitivity) on it, whose names stand in the corner below the diagonal, where no curve comes."""
    drawing, axes = _unit_square("False-positive rate (1 − specificity)", "Sensitivity")
    axes.plot(false_positive, sensitivity, linewidth=2)
    known = [point for point in operating_points if np.isfinite(point[1:]).all()]
    numbers: dict[tuple[float, float], list[str]] = {}
    for order, (_, x, y) in enumerate(known, 1):
        numbers.setdefault((round(x, 3), round(y, 3)), []).append(str(order))
    for (x, y), orders in numbers.items():
        axes.plot(x, y, "o", color=SECOND, markeredgecolor=PAPER, markersize=11, zorder=4)
        axes.text(
            x,
            y,
            "·".join(orders),
            color="#ffffff",
            fontsize=7,
            ha="center",
            va="center_baseline",
            zorder=5,
        )
    words = "\n".join(f"{order}  {name}" for order, (name, *_) in enumerate(known, 1))
    axes.text(0.99, 0.02, words, color=INK, fontsize=8.5, ha="right", va="bottom", linespacing=1.5)
    return drawing


@plot
def referral(rows: pd.DataFrame) -> "Figure":
    """Sensitivity and specificity of the eyes that the network grades itself against the share sent
    to a person, each with its 95 % interval.

    Parameters
    ----------
    rows: columns `side`, `share`, `value`, `low` and `high`.
    """
    drawing, (axes,) = figure(4.2, 3.8)
    for side, line in rows.groupby("side"):
        axes.plot(line["share"], line["value"], marker="o", markersize=3.5, label=side)
        axes.fill_between(line["share"], line["low"], line["high"], alpha=0.18, linewidth=0)
    lowest = np.nanmin(rows["low"].to_numpy(float), initial=0.9)
    axes.set(
        xlim=(-0.01, rows["share"].max() + 0.01),
        ylim=(max(0.0, lowest - 0.03), 1.01),
        xlabel="Share of eyes sent to a person",
        ylabel="Of the eyes that are left",
    )
    if len(rows):
        axes.legend(loc="lower right")
    return drawing


@plot
def bars(
    rows: pd.DataFrame, *, x_label: str = "", reference: float | None = None, dots: bool = False
) -> "Figure":
    """One line a row: a bar, or a dot, with its value, an interval where both ends are known; and a
    reference line.

    Parameters
    ----------
    rows: the index holds the words beside them; columns `value` and, where there are any, `low` and
        `high`.
    x_label: under the axis.
    reference: where a dashed line stands, such as chance.
    dots: dots on a band instead of bars with a line.
    """
    drawing, (axes,) = figure(5.6, 0.9 + 0.42 * max(1, len(rows)))
    places = np.arange(len(rows))
    values, low, high = rows.reindex(columns=["value", "low", "high"]).to_numpy(float).T
    known = np.isfinite(low) & np.isfinite(high)
    line: dict[str, Any] = {"color": INK, "linewidth": 1.4, "zorder": 3}
    band: dict[str, Any] = {"color": ACCENT, "linewidth": 6, "alpha": 0.35}
    axes.hlines(places[known], low[known], high[known], **(band if dots else line))
    if dots:
        axes.plot(values, places, "o", markersize=9, markeredgecolor=PAPER)
    else:
        axes.barh(places, values, height=0.62, alpha=0.85)
    tips = np.fmax(values, np.where(known, high, values))
    room = float(np.nanmax(np.abs(tips), initial=0)) or 1.0
    for place, value, tip in zip(places, values, tips, strict=True):
        axes.text(
            max(tip, 0) + room * 0.02, place, number(value), va="center", fontsize=9, color=INK
        )
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.set_yticks(places, rows.index, color=INK)
    lowest = min(0.0, float(np.nanmin(np.fmin(values, low), initial=0)) * 1.1)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(lowest, room * 1.14), xlabel=x_label)
    axes.grid(axis="y", visible=False)
    return drawing
