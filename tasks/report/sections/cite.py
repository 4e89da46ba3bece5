"""How to name the numbers, and how to get at the tables behind them."""

from dr_lib.report import Folder
from dr_lib.report.section import Address, Code, Content, Missing, Text, table
from dr_lib.report.words import number
from storage.layout import CATALOG, table_folder
from storage.tables.schemas import PARTITION, SCHEMAS, TITLES
from tasks.report.data import Shown
from tasks.run.run_log import versions

# a table of more rows is left in the workspace: the report must stay light enough to send
CSV_ROWS = 100_000
CITED = tuple(name for name in SCHEMAS if name != "runs")
DOWNLOADS = "tables"  # a folder of the report
EXAMPLE_QUERIES = (
    (
        "How well does the model do?",
        (
            "select metric, value, low, high from latest_evaluation where split = 'test' and"
            " stratum = 'all'"
        ),
    ),
    (
        "Which eyes did it miss?",
        (
            "select image_id, stage, predicted_stage from latest_predictions where split = 'test'"
            " and stage > predicted_stage"
        ),
    ),
    (
        "Where do the strongest regions lie?",
        (
            "select quadrant, ring, count(*) from latest_lesion_regions where sign = 'positive'"
            " group by all order by 3 desc"
        ),
    ),
)


def content(shown: Shown, folder: Folder) -> Content:
    """The ids and libraries to cite, and each table with its rows as CSV where it is small enough
    to travel with the report."""
    ids = {
        "model_id": shown.model_id,
        "explain_id": shown.explain_id,
        "preprocess_id": shown.recipe.preprocess_id,
    }
    rows = []
    for name in CITED:
        part = {key: ids[key] for key in [PARTITION[name]] if key}
        count = shown.workspace.count(name, **part)
        if not count:
            continue
        download: Address | str = "too large"
        if count <= CSV_ROWS:
            frame = shown.workspace.frame(name, **part)
            download = Address(
                f"{name}.csv",
                folder.add(f"{DOWNLOADS}/{name}.csv", frame.to_csv(index=False).encode()),
            )
        path = CATALOG if name == "photos" else table_folder(name)
        about = TITLES[name].replace("`", "")
        rows.append(
            {
                "table": name,
                "rows": count,
                "in the workspace": path,
                "download": download,
                "what it holds": about,
            }
        )
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = (
        f"Explanation {shown.explain_id} of model {shown.model_id} on fundi"
        f" {shown.recipe.preprocess_id}: the ids are hashes of what made them, so the same id means"
        f" the same numbers. Computed with {libraries}."
    )
    caption = "Tables: Parquet in the workspace; those of moderate size also here"
    missing = Missing("No tables are written yet. The first come with", "dr ingest CONFIG.toml")
    return Content(
        f"{number(len(rows))} tables hold every number; name them by model {shown.model_id} and"
        f" explanation {shown.explain_id}.",
        [
            Text(text),
            table(rows, caption) or missing,
            Text(f"All of them answer SQL: dr sql {shown.workspace.location} “…”"),
            *(Code(sql, question) for question, sql in EXAMPLE_QUERIES),
        ],
    )
