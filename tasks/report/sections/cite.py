"""How to name the numbers, and how to get at the tables behind them."""

from dr_lib.report.pictures import Folder
from dr_lib.report.section import Address, Content
from storage.layout import CATALOG, table_folder
from storage.tables.schemas import SCHEMAS, TITLES
from tasks.report.data import ReportData
from tasks.run.run_log import versions

# A table of more rows is left in the workspace: the report must stay light enough to send.
CSV_ROWS = 100_000
DOWNLOADS = "tables"  # a folder of the report


def content(data: ReportData, folder: Folder) -> Content:
    """The ids and libraries to cite, and each table with its rows as CSV where it is small enough
    to travel with the report."""
    rows = []
    for name in [name for name in SCHEMAS if name != "runs"]:
        count = data.workspace.count(name, **data.ids_of(name))
        if not count:
            continue
        download: Address | str = "too large"
        if count <= CSV_ROWS:
            text = data.workspace.frame(name, **data.ids_of(name)).to_csv(index=False)
            download = Address(f"{name}.csv", folder.add(f"{DOWNLOADS}/{name}.csv", text.encode()))
        rows.append(
            {
                "table": name,
                "rows": count,
                "in the workspace": CATALOG if name == "photos" else table_folder(name),
                "download": download,
                "what it holds": TITLES[name].replace("`", ""),
            }
        )
    ids = {
        "Explanation": data.ids.explain_id,
        "Model": data.ids.model_id,
        "Preprocessing": data.ids.preprocess_id,
    }
    facts = ids | dict(sorted(versions().items()))
    return Content({"ids": data.ids, "facts": facts, "tables": rows})
