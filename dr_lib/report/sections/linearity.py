"""Units in the report: verdicts, how far they are linear, Hinton diagrams, and a page for each
that does not follow.
"""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd

from dr_lib.drawing import figures, plots, study_plots
from dr_lib.report.data import HintonEntry, LinearitySection, UnitEntry
from dr_lib.report.pictures import Folder, Picture, table
from dr_lib.report.section import Section
from dr_lib.report.words import label, number, percent, records, slugs


def view(folder: Folder, part: LinearitySection) -> SimpleNamespace:
    """The section's pictures and tables, and its units' pages."""
    total = sum(part.verdicts.values()) or 1
    verdicts = [
        SimpleNamespace(name=label(name), count=number(count), share=100 * count / total)
        for name, count in sorted(part.verdicts.items(), key=lambda item: -item[1])
    ]
    return SimpleNamespace(
        verdicts=verdicts,
        by_layer=table(records(part.by_layer)),
        scatter=_scatter(folder, part),
        linear_range=_linear_range(folder, part),
        hintons=_hintons(folder, part.hintons),
        exceptions=table(records(part.exceptions), 60),
        pages=[unit_view(folder, one) for one in part.pages],
        note=part.note,
    )


def unit_view(folder: Folder, one: UnitEntry) -> SimpleNamespace:
    """One unit as its page shows it."""
    (name,) = slugs([f"{one.layer}-{one.unit}"])
    eyes = []
    for slug, eye in zip(slugs(eye.image_id for eye in one.eyes), one.eyes, strict=True):
        place, of = f"units/{name}-{slug}", f"of eye {eye.image_id}"
        region = figures.overlay(eye.fundus, eye.region)
        alt = f"Region of unit {one.unit} of {one.layer} on the fundus {of}"
        pair = [
            folder.picture(
                f"{place}-fundus", eye.fundus, f"Fundus {of}", caption=eye.image_id, note=eye.note
            ),
            folder.picture(f"{place}-region", region, alt, caption="Its region", signed=True),
        ]
        eyes.append(pair)
    return SimpleNamespace(
        page=f"units/{name}.html",
        title=f"{one.layer}, unit {one.unit}",
        verdict=one.verdict,
        lede=one.lede,
        facts=[(name, number(value)) for name, value in one.facts.items()],
        stages=table(records(one.stages)),
        eyes=eyes,
        rows=table(records(one.rows)),
    )


def _scatter(folder: Folder, part: LinearitySection) -> Picture | None:
    units = pd.DataFrame(records(part.units))
    if units.empty:
        return None
    kinds = [str(verdict) for verdict in units["verdict"]]
    x, y = (units[name].to_numpy(float) for name in (part.x, part.y))
    plot = plots.linearity_scatter(x, y, kinds, x_label=part.x_label, y_label=part.y_label)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(kinds).most_common())
    return folder.plot(
        "linearity", plot, f"Units by verdict: {counts}", caption="Units and their verdicts"
    )


def _linear_range(folder: Folder, part: LinearitySection) -> Picture | None:
    if not part.up_to or not len(part.strengths):
        return None
    flips = np.asarray(part.flips, float)
    plot = study_plots.linear_range(part.up_to, [float(one) for one in part.strengths], flips)
    reached = flips[np.isfinite(flips)]
    at = float(np.median(reached)) if len(reached) else float(part.strengths[-1])
    shares = {
        layer: np.mean(np.nan_to_num(values, nan=-1.0) >= at) if len(values) else np.nan
        for layer, values in part.up_to.items()
    }
    alt = f"Units linear up to {at:.3g}: " + ", ".join(
        f"{layer} {percent(float(share))}" for layer, share in shares.items()
    )
    note = (
        "Shaded: where the middle half of the eyes change to the target stage; dashed, the median."
    )
    return folder.plot("linear-range", plot, alt, caption="How far units are linear", note=note)


def _hintons(folder: Folder, entries: tuple[HintonEntry, ...]) -> list[Picture]:
    scales: dict[str, float] = {}
    for one in entries:
        largest = figures.robust_scale(np.asarray(one.values, float), 100.0)
        scales[one.layer] = max(scales.get(one.layer, 0.0), largest)
    return [
        folder.hinton(
            f"units/{name}",
            one.values,
            f"Hinton diagram: {one.title}",
            scale=scales[one.layer],
            caption=one.title,
            note=one.note,
        )
        for name, one in zip(slugs(one.title for one in entries), entries, strict=True)
    ]


SECTION = Section("linearity", "Linearity", LinearitySection, view)
