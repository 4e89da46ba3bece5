"""The tables' schemas: one `pyarrow.Schema` each, every column with a description, a unit and a
range.

`SCHEMAS[table]` holds the columns of its files; the id of the partition (`PARTITION[table]`) is in
the folder's name and joins them on reading. `to_table` is the only way a frame becomes a table, so
nothing else reaches a file.
"""

import importlib.resources
import tomllib

import pyarrow as pa

from dr_lib.vocabulary import LESION_TYPES, STAGES

__all__ = [
    "CATALOGUE",
    "KEYS",
    "PARTITION",
    "RENAMED",
    "SCHEMAS",
    "TITLES",
    "dataset_schema",
    "empty_frame",
    "markdown",
    "source_column",
    "to_frame",
    "to_table",
]

PARTITION_TEXT = {
    "preprocess_id": "the preprocessing: hash of its settings",
    "model_id": "the model: hash of its weights",
    "explain_id": "the explanation: hash of model, preprocessing and attribution settings",
}
CATALOGUE = ("photos", "rejects", "sources")  # one file each, in catalog/
TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


_TABLES = tomllib.loads(
    importlib.resources.files("storage.tables").joinpath("columns.toml").read_text("utf-8")
)
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
    return pa.field(name, TYPES[kind.rstrip("?")], nullable, words)


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
    if isinstance(rows, pa.Table):
        rows = rows.to_pandas()
    columns, length = _columns(rows, schema)
    _add_sources(columns, length, schema)
    unknown = [name for name in columns if name not in schema.names]
    missing = [name for name in schema.names if name not in columns]
    if unknown:
        raise ValueError(f"table {table}: unknown columns {', '.join(map(str, unknown))}")
    if missing:
        raise ValueError(f"table {table}: missing columns {', '.join(missing)}")
    arrays = [_cast(table, field, columns[field.name]) for field in schema]
    assert all(len(array) == length for array in arrays)
    return pa.Table.from_arrays(arrays, schema=schema)


def to_frame(table: pa.Table):
    """A pandas DataFrame; integers that may be null become pandas' own nullable ones, so that
    they stay integers.
    """
    import pandas as pd

    kinds = (pd.Int8Dtype(), pd.Int16Dtype(), pd.Int32Dtype(), pd.Int64Dtype())
    nullable = dict(zip((pa.int8(), pa.int16(), pa.int32(), pa.int64()), kinds, strict=True))
    keep = {f.name for f in table.schema if f.nullable and f.type in nullable}
    columns = {
        field.name: (
            table.column(field.name).to_pandas(
                types_mapper=nullable.get if field.name in keep else None
            )
        )
        for field in table.schema
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))


def empty_frame(table: str):
    """A DataFrame without rows, with the table's columns and types."""
    return to_frame(dataset_schema(table).empty_table())


def markdown() -> str:
    """The page of all tables and columns, for people; made from the schemas, so that it cannot
    disagree with them.
    """
    lines = ["# Tables", ""]
    for table in SCHEMAS:
        where = (
            f"tables/{table}/{PARTITION[table]}=…/*.parquet"
            if PARTITION[table]
            else f"tables/{table}/*.parquet"
        )
        where = f"catalog/{table}.parquet" if table in CATALOGUE else where
        keys = ", ".join(f"`{key}`" for key in KEYS[table])
        lines += [
            f"## {table}",
            "",
            TITLES[table],
            "",
            f"`{where}`" + (f" · one row per {keys}" if keys else ""),
            "",
        ]
        lines += ["| column | type | unit | range | meaning |", "|---|---|---|---|---|"]
        for field in dataset_schema(table):
            text = {key.decode(): value.decode() for key, value in field.metadata.items()}
            meaning, range_ = (text[key].replace("|", "\\|") for key in ("description", "range"))
            kind = str(field.type) + (", may be null" if field.nullable else "")
            lines.append(f"| `{field.name}` | {kind} | {text['unit']} | {range_} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def source_column(schema: pa.Schema) -> str | None:
    """The column with the photograph's source, in tables that speak of images; it is younger than
    the first files of these tables.

    >>> source_column(SCHEMAS["neurons"]), source_column(SCHEMAS["lesion_regions"])
    ('source', 'image_source')
    """
    if "image_id" not in schema.names:
        return None
    return "image_source" if "image_source" in schema.names else "source"


def _add_sources(columns: dict, length: int, schema: pa.Schema) -> None:
    """Fills the column of the photograph's source, where the rows do not give it, from the image
    ids, which begin with it where there are several sources.
    """
    name = source_column(schema)
    if name and name not in columns:
        columns[name] = [
            image_id.partition("/")[0] if isinstance(image_id, str) and "/" in image_id else None
            for image_id in columns.get("image_id", [None] * length)
        ]


def _known(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise ValueError(f"no table is called {table!r}; there are {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _columns(rows, schema: pa.Schema) -> tuple[dict, int]:
    """`rows` by column, and how many there are."""
    if hasattr(rows, "columns"):
        return {name: rows[name] for name in rows.columns}, len(rows)
    rows = list(rows)
    if not rows:
        return {name: [] for name in schema.names}, 0
    # A column counts as given when every row gives it; one that any row brings in addition is
    # unknown or incomplete.
    names = list(dict.fromkeys(name for row in rows for name in row))
    given = [name for name in names if name not in schema.names or all(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in given}, len(rows)


def _cast(table: str, field: pa.Field, values) -> pa.Array:
    try:
        if not hasattr(values, "dtype"):
            values = [value.item() if hasattr(value, "item") else value for value in values]
        array = pa.array(values, from_pandas=True)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if (
            pa.types.is_timestamp(field.type)
            and pa.types.is_timestamp(array.type)
            and array.type.tz is None
        ):
            raise pa.ArrowInvalid("a time without a time zone")
        array = _integers_of_floats(array, field) if pa.types.is_floating(array.type) else array
        # Numbers may narrow to float32 (that is the schema's choice) but never overflow an integer.
        array = array.cast(field.type, safe=not pa.types.is_floating(field.type))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"table {table}, column {field.name}: not {field.type}: {first}") from None
    if not field.nullable and array.null_count:
        raise ValueError(
            f"table {table}, column {field.name}: {array.null_count} of {len(array)} values are"
            " missing"
        )
    return array


def _integers_of_floats(array: pa.Array, field: pa.Field) -> pa.Array:
    """An all-null column arrives as floats, and so do integers beside missing values: both are
    fine if they are whole.
    """
    return (
        array.cast(field.type)
        if pa.types.is_integer(field.type) or array.null_count == len(array)
        else array
    )
