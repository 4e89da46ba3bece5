"""Localisation: how well maps find lesions, where there are masks, and the regions they consist
of.
"""

from types import SimpleNamespace

import numpy as np

from dr_lib.drawing import plots
from dr_lib.report.data import Localisation
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import finite, number, records


def view(folder: Folder, part: Localisation) -> SimpleNamespace:
    picture = None
    scores = [row for row in records(part.scores) if finite(row.get("value")) is not None]
    if scores:
        ends = [
            np.array([finite(row.get(name)) or np.nan for row in scores])
            for name in ("low", "high")
        ]
        values = np.array([finite(row["value"]) for row in scores])
        reference = 0.5 if "auc" in part.score_name.lower() else None
        names = [str(row.get("method", "")) for row in scores]
        plot = plots.bars(names, values, *ends, x_label=part.score_name, reference=reference)
        best = names[int(values.argmax())]
        alt = f"{part.score_name} by method; the highest is {best} with {number(values.max())}"
        picture = folder.plot("localisation", plot, alt, caption=f"{part.score_name} by method")
    return SimpleNamespace(
        picture=picture, regions=table(records(part.regions), limit=60), note=part.note
    )


SECTION = Section("localisation", "Localisation", Localisation, view)
