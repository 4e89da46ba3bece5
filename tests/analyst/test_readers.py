"""pandas, pyarrow, DuckDB and polars read the same numbers from the same files, and never half
of one.
"""

import pathlib
import threading

import duckdb
import pandas as pd
import polars
import pyarrow.dataset
import pytest

from storage import open_workspace
from storage.admin.catalog import query
from storage.tables.schemas import PARTITION, dataset_schema
from tests.analyst.rows import fill
from tests.ranges import outside

TABLES = [
    "predictions",
    "attributions",
    "neurons",
    "lesion_regions",
    "heatmap_stats",
    "region_clusters",
    "group_heatmaps",
    "units",
]


@pytest.mark.parametrize("table", TABLES)
def test_four_readers_read_the_same_numbers(filled, table):
    """Every column of every row, nulls included; the partition's id too, which is in the
    folder's name only.
    """
    folder = pathlib.Path(filled.location) / "tables" / table
    names = dataset_schema(table).names
    arrow = pyarrow.dataset.dataset(folder, partitioning="hive").to_table().select(names)
    assert arrow.num_rows == filled.count(table) > 0
    by_duckdb = duckdb.sql(
        f"select * from read_parquet('{folder}/*/*.parquet', hive_partitioning = true)"
    ).to_arrow_table()
    by_polars = (
        polars.scan_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).collect().to_arrow()
    )
    by_pandas = pd.read_parquet(folder, dtype_backend="pyarrow")
    for name in names:
        expected = arrow[name].to_pylist()
        assert by_duckdb[name].to_pylist() == expected, name
        assert by_polars[name].to_pylist() == expected, name
        column = by_pandas[name]
        assert [
            None if missing else value
            for value, missing in zip(column.tolist(), column.isna(), strict=True)
        ] == expected


@pytest.mark.parametrize("table", TABLES)
def test_every_value_lies_in_the_range_that_the_schema_promises(filled, table):
    found = filled.table(table).to_table()
    for field in dataset_schema(table):
        assert outside(field.metadata[b"range"].decode(), found[field.name].to_pylist()) == [], (
            field.name
        )


def test_a_value_outside_its_range_is_told():
    assert outside("[0, ∞)", [-1e-3, 0.0, 5]) == [-1e-3]
    assert outside("(-∞, 0]", [0.1, -7.0, float("nan")]) == [0.1]
    assert outside("true | false", [True, False, None]) == []
    assert outside("[0, 1]", [1 + 1e-7]) == [], "float32 rounds"


def test_readers_in_a_loop_during_a_run_never_see_half_a_part(tmp_path):
    """A writer fills a workspace shard by shard; DuckDB and pyarrow count meanwhile: always
    whole shards, and never fewer.
    """
    workspace = open_workspace(tmp_path / "workspace")
    shard, images = 8, 160
    seen: dict[str, list[tuple[int, int]]] = {"duckdb": [], "pyarrow": []}
    errors, stop = [], threading.Event()

    def by_duckdb():
        found = query(
            workspace, "select count(*) n, count(distinct image_id) m from latest_attributions"
        )
        return int(found["n"][0]), int(found["m"][0])

    def by_pyarrow():
        frame = workspace.frame("attributions")
        return len(frame), frame["image_id"].nunique()

    def read(name, reader):
        while not stop.is_set():
            try:
                seen[name].append(reader())
            except Exception as error:
                errors.append(error)
                return

    readers = [
        threading.Thread(target=read, args=pair)
        for pair in (("duckdb", by_duckdb), ("pyarrow", by_pyarrow))
    ]
    for reader in readers:
        reader.start()
    for _ in fill(workspace, images, shard_images=shard):
        pass
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    for name, counts in seen.items():
        assert len(counts) > 1, name
        assert all(rows == 6 * eyes and eyes % shard == 0 for rows, eyes in counts), (
            "a part is there as a whole or not at all"
        )
        assert counts == sorted(counts), "what has been seen stays"
    assert by_duckdb() == by_pyarrow() == (6 * images, images)


def test_partitions_are_named_as_the_schema_says():
    assert {PARTITION[table] for table in TABLES} == {"model_id", "explain_id"}
