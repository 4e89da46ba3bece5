"""The tables' schemas: one `pyarrow.Schema` each, every column with a description, a unit and a
range.

`SCHEMAS[table]` holds the columns of its files; the id of the partition (`PARTITION[table]`) is in
the folder's name and joins them on reading. `to_table` is the only way a frame becomes a table, so
nothing else reaches a file.
"""

from typing import Any

import pyarrow as pa

from dr_lib.vocabulary import LESION_TYPES, STAGES
from storage.errors import one_line
from storage.files.text import shipped_toml

PARTITION_TEXT = {
    "preprocess_id": "the preprocessing: hash of its settings",
    "model_id": "the model: hash of its weights",
    "explain_id": "the explanation: hash of model, preprocessing and attribution settings",
}
TIME = pa.timestamp("us", tz="UTC")

_TABLES = shipped_toml("storage.tables", "columns.toml")
TITLES: dict[str, str] = {table: entry["title"] for table, entry in _TABLES.items()}
KEYS: dict[str, list[str]] = {table: entry["keys"] for table, entry in _TABLES.items()}
PARTITION: dict[str, str | None] = {
    table: entry["partition"] or None for table, entry in _TABLES.items()
}
# By table the present name of each column that was called otherwise in earlier versions.
RENAMED: dict[str, dict[str, str]] = {
    table: entry.get("renamed", {}) for table, entry in _TABLES.items()
}


def _fields(column: list[str]) -> list[pa.Field]:
    """The columns that one line of columns.toml stands for: one, or one a stage or lesion type."""
    for name, values in (("stage", STAGES), ("lesion", LESION_TYPES)):
        if f"{{{name}}}" in column[0]:
            lines = [
                [text.replace(f"{{{name}}}", str(value)) for text in column] for value in values
            ]
            return [_field(*line) for line in lines]
    return [_field(*column)]


def _field(name: str, kind: str, unit: str, range_: str, description: str) -> pa.Field:
    nullable = kind.endswith("?") or kind.startswith("float")
    words = {"description": description, "unit": unit, "range": range_}
    alias, lists = kind.rstrip("?"), kind.startswith("list of ")
    alias = alias.removeprefix("list of ")
    type_ = TIME if alias == "timestamp" else pa.type_for_alias(alias)
    type_ = pa.list_(type_) if lists else type_
    return pa.field(name, type_, nullable, words)


SCHEMAS: dict[str, pa.Schema] = {
    table: pa.schema(
        [field for column in entry["columns"] for field in _fields(column)],
        {"description": entry["title"]},
    )
    for table, entry in _TABLES.items()
}


def dataset_schema(table: str) -> pa.Schema:
    """The columns of a table as it is read: those of its files and the partition's id.

    >>> dataset_schema("predictions").names[-1]
    'model_id'
    """
    schema = _known(table)
    name = PARTITION[table]
    return (
        schema
        if name is None
        else schema.append(_field(name, "string", "", "text", PARTITION_TEXT[name]))
    )


def to_table(table: str, rows) -> pa.Table:
    """`rows` (a list of mappings or a DataFrame) as a table of exactly the schema's columns, types
    and order.

    NaN in a measure becomes null. Raises ValueError with one line for an unknown or missing column,
    a null where none may be, or a value that the type cannot hold.

    >>> to_table("linearity", [{"layer": "fc1"}])
    Traceback (most recent call last):
    ValueError: table linearity: missing columns image_id, strength, unit, outcome,
    predicted_stage, activation_difference, mean_gradient, attribution
    """
    schema = _known(table)
    columns = _columns(rows, schema)
    _add_sources(columns, schema)
    unknown = [name for name in columns if name not in schema.names]
    missing = [name for name in schema.names if name not in columns]
    if unknown:
        raise ValueError(f"table {table}: unknown columns {', '.join(map(str, unknown))}")
    if missing:
        raise ValueError(f"table {table}: missing columns {', '.join(missing)}")
    arrays = [_cast(table, field, columns[field.name]) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_frame(table: pa.Table):
    """A pandas DataFrame; integers that may be null become pandas' own nullable ones, so that
    they stay integers.
    """
    import pandas as pd

    def nullable(type_: pa.DataType) -> Any:
        return pd.api.types.pandas_dtype(str(type_).capitalize())  # int8 becomes Int8

    columns = {
        field.name: table.column(field.name).to_pandas(
            types_mapper=nullable if field.nullable and pa.types.is_integer(field.type) else None
        )
        for field in table.schema
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))


def empty_frame(table: str):
    """A DataFrame without rows, with the table's columns and types."""
    return to_frame(dataset_schema(table).empty_table())


def source_column(schema: pa.Schema) -> str | None:
    """The column with the photograph's source, in tables that speak of images; it is younger than
    the first files of these tables.

    >>> source_column(SCHEMAS["neurons"]), source_column(SCHEMAS["lesion_regions"])
    ('source', 'image_source')
    """
    if "image_id" not in schema.names:
        return None
    return "image_source" if "image_source" in schema.names else "source"


def _add_sources(columns: dict, schema: pa.Schema) -> None:
    """Fills the column of the photograph's source, where the rows do not give it, from the image
    ids, which begin with it where there are several sources.
    """
    name = source_column(schema)
    if name and name not in columns:
        columns[name] = [
            image_id.partition("/")[0] if isinstance(image_id, str) and "/" in image_id else None
            for image_id in columns.get("image_id", ())
        ]


def _known(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise ValueError(f"no table is called {table!r}; there are {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _columns(rows, schema: pa.Schema) -> dict:
    """`rows` by column."""
    if hasattr(rows, "columns"):
        return dict(rows.items())
    rows = list(rows)
    # A column counts as given when every row gives it; one that any row brings in addition is
    # unknown or incomplete.
    names = dict.fromkeys(name for row in rows for name in row) if rows else schema.names
    given = [name for name in names if name not in schema.names or all(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in given}


def _cast(table: str, field: pa.Field, values) -> pa.Array:
    try:
        if not hasattr(values, "dtype"):
            values = [value.item() if hasattr(value, "item") else value for value in values]
        array = pa.array(values, from_pandas=True)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if all(map(pa.types.is_timestamp, (field.type, array.type))) and not array.type.tz:
            raise pa.ArrowInvalid("a time without a time zone")
        # Numbers may narrow to float32 (that is the schema's choice) but never overflow an integer.
        # Whole floats, which integers beside missing values arrive as, become integers here.
        array = array.cast(field.type, safe=not pa.types.is_floating(field.type))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"table {table}, column {field.name}: not {field.type}: {one_line(error)}"
        ) from None
    if not field.nullable and array.null_count:
        raise ValueError(
            f"table {table}, column {field.name}: {array.null_count} of {len(array)} values are"
            " missing"
        )
    return array
