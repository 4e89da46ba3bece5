"""Compared: this model and its explanation beside others of the workspace."""

from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content
from tasks.report.compare import TABLE
from tasks.report.data import ReportData


def content(data: ReportData, folder: Folder) -> Content:
    """Each comparison that there is, by its measures over all eyes."""
    rows = data.rows(TABLE)
    rows = rows[(rows["explain_id"] == data.ids.explain_id) & rows["stage"].isna()]
    return Content({"workspace": data.workspace.location, "rows": rows.to_dict("records")})
