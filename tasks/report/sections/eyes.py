"""The explained eyes: how many, how exact; the gallery below them shows each."""

from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content
from tasks.report.data import ReportData


def content(data: ReportData, folder: Folder) -> Content:
    """Counts, and how far the attributions are from the outcome that they explain."""
    last = data.last_work
    return Content(
        {
            "eyes": data.gallery,
            "photographs": data.workspace.photos()["present"].sum(),
            "attributed": last[last["stage"] == "attribute"].to_dict("records"),
            "layer": data.recipe.attribution.layers[0],
        }
    )
