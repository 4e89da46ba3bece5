"""Parquet files of a workspace: each part is one file, written whole or not at all, with rows in
the order given.
"""

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset as ds

from storage.files.files import Files
from storage.layout import CATALOGUE_TABLES, catalogue_path, table_folder
from storage.tables.schemas import (
    PARTITION,
    RENAMED,
    dataset_schema,
    empty_frame,
    to_frame,
    to_table,
)

# Small enough that a query for one image skips most of a part by its statistics.
ROW_GROUP = 65536
DIGEST = b"made_from"
# What reading a file raises that is absent or torn.
UNREADABLE = (OSError, pa.ArrowException)


def folder(table: str, partition: str | None) -> str:
    """Where the parts of a table (or of one of its partitions) lie.

    >>> folder("predictions", "0123456789ab")
    'tables/predictions/model_id=0123456789ab'

    Raises ValueError where the partition's id is missing or not wanted.
    """
    dataset_schema(table)
    name = PARTITION[table]
    if (name is None) != (partition is None):
        raise ValueError(
            f"table {table} is "
            + ("not partitioned" if name is None else f"partitioned by {name}: name one")
        )
    return table_folder(table, name, partition or "")


def part_path(table: str, partition: str | None, part: str) -> str:
    """The file of one part; a catalogue's table is one file."""
    if table in CATALOGUE_TABLES:
        return catalogue_path(table)
    return f"{folder(table, partition)}/{part}.parquet"


def encode(table: str, rows, digest: str | None = None) -> bytes:
    """A Parquet file of `rows` (see `to_table`): zstd, with statistics and the schema's
    descriptions; same rows, same bytes.

    digest: of what the rows were made from; it is kept in the file, so that rows and digest appear
    together.
    """
    sink, found = io.BytesIO(), to_table(table, rows)
    if digest is not None:
        found = found.replace_schema_metadata({**(found.schema.metadata or {}), DIGEST: digest})
    pq.write_table(found, sink, compression="zstd", write_statistics=True, row_group_size=ROW_GROUP)
    return sink.getvalue()


def read_file(files: Files, name: str, table: str):
    """One Parquet file of a table as a DataFrame; the empty one where the file is absent.

    A column that the file has not got, since it is older, is null; one that it has under an
    earlier name is taken from there.
    """
    try:
        found = read_raw(files, name)
    except FileNotFoundError:
        return empty_frame(table)
    schema = dataset_schema(table)
    found = found.rename_columns(former_names(table, found.column_names))
    complete = pa.concat_tables([schema.empty_table(), found], promote_options="permissive")
    # Nulls may stand where a younger file has none: the partition's id, a column that is younger.
    arrays = [complete[field.name].cast(field.type) for field in schema]
    return to_frame(pa.Table.from_arrays(arrays, schema=schema))


def former_names(table: str, there: list[str]) -> dict[str, str]:
    """For each column of an older file that is called otherwise now its present name.

    >>> former_names("photos", ["image_id", "source"]), former_names("photos", ["path", "source"])
    ({'source': 'path'}, {})
    """
    renamed = RENAMED[table].items()
    return {old: name for name, old in renamed if old in there and name not in there}


def stored_schema(files: Files, name: str) -> pa.Schema:
    """The columns that a Parquet file has. Raises UNREADABLE."""
    return pq.read_schema(files.path(name), filesystem=files.filesystem)


def read_raw(files: Files, name: str):
    """A Parquet file with the columns that it has. Raises UNREADABLE."""
    return pq.read_table(io.BytesIO(files.read(name)), partitioning=None)


def partitions(files: Files, table: str) -> list[str]:
    """The ids for which a table has a folder."""
    start = f"{PARTITION[table]}="
    names = files.names(table_folder(table))
    return [name.removeprefix(start) for name in names if name.startswith(start)]


def parts(files: Files, table: str, partition: str | None) -> list[str]:
    """The names of a partition's files, without `.parquet`, sorted; of a catalogue's table that of
    its only one.
    """
    if table in CATALOGUE_TABLES:
        return [table] if files.exists(catalogue_path(table)) else []
    names = files.names(folder(table, partition))
    return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]


def all_parts(files: Files, table: str) -> Iterator[tuple[str | None, str]]:
    """(partition, part) of every file of a table; partition None for a table without."""
    for partition in partitions(files, table) if PARTITION[table] else [None]:
        for part in parts(files, table, partition):
            yield partition, part


def partition_folders(files: Files) -> list[str]:
    """The folder of every partition of every table."""
    tables = [table for table, key in PARTITION.items() if key]
    return [folder(table, name) for table in tables for name in partitions(files, table)]


def part_digest(files: Files, path: str) -> str | None:
    """The digest that a part was written with (empty for none); None where it is absent or torn."""
    try:
        metadata = stored_schema(files, path).metadata
    except UNREADABLE:
        return None
    return (metadata or {}).get(DIGEST, b"").decode()


def dataset(files: Files, table: str):
    """All parts of a table as one `pyarrow.dataset.Dataset`, in the order of their names.

    The id's type is stated, not inferred: an id of decimal digits only would become a number.
    """
    schema, name = dataset_schema(table), PARTITION[table]
    try:
        return ds.dataset(
            files.path(table_folder(table)),
            schema=schema,
            format="parquet",
            filesystem=files.filesystem,
            partitioning=name and ds.partitioning(pa.schema([(name, pa.string())]), flavor="hive"),
        )
    except FileNotFoundError:
        return ds.dataset(schema.empty_table())
