"""The atlas of units: an index of every channel of the explained layers, and a page for each."""

import pandas as pd

from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content
from dr_lib.report.units import mosaic_name, unit_scripts
from dr_lib.vocabulary import LESION_TYPES
from tasks.report.data import ReportData
from tasks.report.units import pictures_made

TELLS_FROM = 0.7  # AUC


def content(data: ReportData, folder: Folder) -> Content:
    """The numbers of both pages as scripts, and how many units there are."""
    units = merged(data.rows("units"), data.rows("unit_effects"))
    if units.empty:
        arrays = data.explained.store.nodes
        can_be = any(name.endswith("/channel_place") for name in arrays)
        return Content({"units": 0, "can_be": can_be})
    made, examples = pictures_made(data.ids), data.rows("unit_examples")
    examples["key"] = examples["image_id"].map(data.gallery.set_index("image_id")["key"])
    examples["photo"] = [
        f"{row.kind} {row.rank}" in made[mosaic_name(row.layer, row.unit)][1]
        for row in examples.itertuples()
    ]
    for name, script in unit_scripts(units, examples).items():
        folder.add(name, script)
    aucs = units[[f"auc_{name}" for name in LESION_TYPES]]
    return Content(
        {
            "units": len(units),
            "layers": units["layer"].unique().tolist(),
            "eyes": int(units["images"].max()),
            "judged": int(aucs.notna().any(axis=1).sum()),
            "tells": int((aucs.max(axis=1) > TELLS_FROM).sum()),
            "tells_from": TELLS_FROM,
            "verdicts": sorted(units["verdict"].dropna().unique()),
            "lesion_names": [name for name in LESION_TYPES if aucs[f"auc_{name}"].notna().any()],
        }
    )


def merged(units: pd.DataFrame, special: pd.DataFrame) -> pd.DataFrame:
    """A row for each unit of the study of contributions, with what the other studies say of it, and
    whether it is one of the special ones that have a `page`."""
    names = ["layer", "unit"]
    rows = units.sort_values("study", kind="stable").groupby(names, as_index=False, sort=False)
    pages = special[names].drop_duplicates().assign(page=True)
    found = rows.first().merge(pages, "left", names)
    return found[found["study"] == "contributions"]
