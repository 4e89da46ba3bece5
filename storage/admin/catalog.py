"""Queries: a view for every table, and latest_* views, in catalog.sql and catalog.duckdb. For local
workspaces.

The views only name the Parquet files; nothing is copied. `query` makes them afresh in memory each
time, so it sees new files, a moved workspace and new tables, and needs no write access.
catalog.duckdb is for other programs.
"""

import glob
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from storage import layout
from storage.errors import Refused
from storage.tables.parts import all_parts, former_names, part_path, stored_schema
from storage.tables.schemas import PARTITION, SCHEMAS, TITLES, dataset_schema
from storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


DUCKDB_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "timestamp[us, tz=UTC]": "TIMESTAMP",
}
# DuckDB would fetch extensions from the network in the middle of a query. None is needed.
OFFLINE: dict[str, str | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def refresh(ws: Workspace) -> Path:
    """Writes catalog.sql and catalog.duckdb anew and returns the latter's path. Raises
    ValueError for a remote workspace.
    """
    import duckdb

    sql = views_sql(ws)
    ws.files.write(layout.VIEWS, sql.encode())
    with tempfile.TemporaryDirectory() as folder:
        # Not in the workspace itself: DuckDB takes a "?" in a path for the beginning of options.
        made = Path(folder) / layout.VIEWS_DATABASE
        with duckdb.connect(str(made), config=OFFLINE) as connection:
            connection.execute(
                f"BEGIN;\n{sql}COMMIT;"
            )  # one by one, each comment would wait for the disk
        ws.files.write(layout.VIEWS_DATABASE, made.read_bytes())
    return Path(ws.files.path(layout.VIEWS_DATABASE))


def query(ws: Workspace, sql: str) -> "pd.DataFrame":
    """The result of one SELECT over the views. Raises Refused with what DuckDB says, in one
    line.

    Only reads: any other statement is refused.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1:
            raise Refused(f"one query at a time, got {len(statements)}")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise Refused(
                "only queries (SELECT, FROM, DESCRIBE, SUMMARIZE) are allowed, not"
                f" {statements[0].type.name}"
            )
        with duckdb.connect(":memory:", config=OFFLINE) as connection:
            connection.execute(views_sql(ws, comments=False))
            return connection.execute(sql).df()
    except duckdb.Error as error:
        # Without its drawing of where.
        said = str(error).split("\n\nLINE")[0]
        raise Refused(re.sub(r"\s+", " ", said).strip()) from None


def views_sql(ws: Workspace, *, comments: bool = True) -> str:
    """The SQL text that makes every view, with comments on views and columns."""
    if not ws.is_local:
        raise Refused(
            f"{ws.location}: queries need a local workspace; read ws.table(…) or copy the tables"
            " folder"
        )
    latest = {
        "preprocess_id": ws.preprocess_ids()[::-1],
        "model_id": [record.model_id for record in reversed(ws.models())],
        "explain_id": [record.explain_id for record in reversed(ws.explanations())],
    }
    blocks = [
        (
            "-- One view per table, and latest_* for the newest model or explanation. Made by the"
            " pipeline: do not edit."
        )
    ]
    for table in SCHEMAS:
        views = [(table, _view(ws, table), TITLES[table])]
        if key := PARTITION[table]:
            newest = _latest_partition(ws, table, latest[key])
            test = f"{key} = {_text(newest)}" if newest else "false"
            view = f"CREATE OR REPLACE VIEW latest_{table} AS SELECT * FROM {table} WHERE {test};"
            views.append((f"latest_{table}", view, f"{TITLES[table]} Only the latest {key}."))
        for name, view, title in views:
            blocks += [view, _comments(name, table, title)] if comments else [view]
    return "\n".join(blocks) + "\n"


def _view(ws: Workspace, table: str) -> str:
    schema, key = dataset_schema(table), PARTITION[table]
    body = _no_rows(schema)
    files = [(place[0], part_path(table, *place)) for place in all_parts(ws.files, table)]
    if files:
        options, pattern = "hive_partitioning = false", layout.catalogue_path(table)
        if key:
            options = f"hive_partitioning = true, hive_types = {{{_text(key)}: VARCHAR}}"
        if table not in layout.CATALOGUE_TABLES:
            pattern = f"{layout.table_folder(table, key, '*')}/*.parquet"
        older = _older(ws, table, files)
        # By name only where it must be: DuckDB then opens every file before the first query.
        if older and len(files) > 1:
            options += ", union_by_name = true"
        # Escaped, or DuckDB would take the folder's name for a pattern of other workspaces' too.
        rows = f"read_parquet({_text(glob.escape(ws.files.path()) + '/' + pattern)}, {options})"
        if older:  # written before there were all these columns: those are null
            former = former_names(table, stored_schema(ws.files, files[0][1]).names)
            pairs = ", ".join(f"{_name(old)} AS {_name(new)}" for old, new in former.items())
            renamed = f" RENAME ({pairs})" if pairs else ""
            rows = f"(SELECT *{renamed} FROM {rows} UNION ALL BY NAME {body})"
        body = f"SELECT {', '.join(map(_column, schema))} FROM {rows}"
    return f"CREATE OR REPLACE VIEW {table} AS {body};"


def _older(ws: Workspace, table: str, files: list[tuple[str | None, str]]) -> bool:
    """Whether a file of the table has fewer columns than it would have today. Of each partition's
    files, which are written in order, the first and the last tell.
    """
    first_and_last = {*dict(reversed(files)).values(), *dict(files).values()}
    wanted = set(SCHEMAS[table].names)
    return any(not wanted <= set(stored_schema(ws.files, path).names) for path in first_and_last)


def _no_rows(schema) -> str:
    nulls = ", ".join(
        f"CAST(NULL AS {_duckdb_type(field.type)}) AS {_name(field.name)}" for field in schema
    )
    return f"SELECT {nulls} WHERE false"


def _duckdb_type(kind: "pa.DataType") -> str:
    items = getattr(kind, "value_type", None)  # of a list
    return f"{_duckdb_type(items)}[]" if items else DUCKDB_TYPES[str(kind)]


def _column(field) -> str:
    """A column of a view. Times become plain UTC ones: those with a zone need an extension that
    DuckDB does not carry.
    """
    name = _name(field.name)
    if str(field.type).startswith("timestamp"):
        return f"make_timestamp(epoch_us({name})) AS {name}"
    return name


def _latest_partition(ws: Workspace, table: str, order: list[str]) -> str | None:
    """The newest id that has rows in the table; without a record an id is as old as its newest
    file.
    """
    there = {partition or "" for partition, _ in all_parts(ws.files, table)}
    if known := [partition for partition in order if partition in there]:
        return known[0]

    def written(partition: str) -> tuple[float, str]:
        folder = layout.table_folder(table, PARTITION[table], partition)
        return ws.files.newest(folder), partition

    return max(there, key=written, default=None)


def _comments(view: str, table: str, title: str) -> str:
    lines = [f"COMMENT ON VIEW {view} IS {_text(title)};"]
    for field in dataset_schema(table):
        unit, description, range_ = (
            field.metadata[key].decode() for key in (b"unit", b"description", b"range")
        )
        words = (
            description
            + (f" [{unit}]" if unit else "")
            + (f"; range {range_}" if range_ not in ("", "text") else "")
        )
        lines.append(f"COMMENT ON COLUMN {view}.{_name(field.name)} IS {_text(words)};")
    return "\n".join(lines)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
