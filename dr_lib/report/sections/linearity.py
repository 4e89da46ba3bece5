"""Linearity: units along growing adversarial strength, their verdicts, and Hinton diagrams."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd

from dr_lib import figures, plots
from dr_lib.report.data import LinearitySection
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import label, number, records, slugs


def view(folder: Folder, part: LinearitySection) -> SimpleNamespace:
    scatter = None
    units = pd.DataFrame(records(part.units))
    if len(units):
        kinds = [str(verdict) for verdict in units["verdict"]]
        x, y = (units[name].to_numpy(float) for name in (part.x, part.y))
        plot = plots.linearity_scatter(x, y, kinds, x_label=part.x_label, y_label=part.y_label)
        counts = ", ".join(f"{count} {name}" for name, count in Counter(kinds).most_common())
        scatter = folder.plot("linearity", plot, f"Units by verdict: {counts}", caption="Units and their verdicts")
    largest = max((figures.robust_scale(np.asarray(one.values, float), 100.0) for one in part.hintons), default=None)
    hintons = [
        folder.hinton(
            f"units/{name}", one.values, f"Hinton diagram: {one.title}", scale=largest, caption=one.title, note=one.note
        )
        for name, one in zip(slugs(one.title for one in part.hintons), part.hintons, strict=True)
    ]
    total = sum(part.verdicts.values()) or 1
    verdicts = [
        SimpleNamespace(name=label(name), count=number(count), share=100 * count / total)
        for name, count in sorted(part.verdicts.items(), key=lambda item: -item[1])
    ]
    exceptions = table(records(part.exceptions), 60)
    return SimpleNamespace(verdicts=verdicts, scatter=scatter, hintons=hintons, exceptions=exceptions, note=part.note)


SECTION = Section("linearity", "Linearity", LinearitySection, view)
