"""Tables: exactly the schema's columns, whole files only, every value where the schema says."""

import threading
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from storage import open_workspace
from storage.layout import CATALOGUE_TABLES
from storage.tables.schemas import (
    KEYS,
    PARTITION,
    SCHEMAS,
    dataset_schema,
    empty_frame,
    to_frame,
    to_table,
)
from tests.tables_page import markdown

MODEL = "123456789012"  # digits only: must stay text


def example(table: str, count: int = 3) -> pd.DataFrame:
    """Rows of any table, every value of its own."""
    columns = {}
    for field in SCHEMAS[table]:
        if pa.types.is_list(field.type):
            columns[field.name] = [[index, 1, None] for index in range(count)]
        elif pa.types.is_boolean(field.type):
            columns[field.name] = [index % 2 == 0 for index in range(count)]
        elif pa.types.is_integer(field.type):
            columns[field.name] = list(range(count))
        elif pa.types.is_floating(field.type):
            columns[field.name] = [index / 4 for index in range(count)]
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = [
                datetime(2026, 1, 1 + index, tzinfo=UTC) for index in range(count)
            ]
        else:
            columns[field.name] = [f"{index}_left" for index in range(count)]
    return pd.DataFrame(columns)


@pytest.mark.parametrize("table", [table for table in SCHEMAS if table not in CATALOGUE_TABLES])
def test_every_table_goes_to_its_file_and_back(ws, table):
    partition = MODEL if PARTITION[table] else None
    assert list(ws.frame(table).columns) == dataset_schema(table).names
    given = example(table)
    ws.write_table(table, given, partition=partition, part="000000")
    found = ws.table(table).to_table()
    assert found.schema.equals(dataset_schema(table))
    expected = to_table(table, given)
    assert found.select(expected.schema.names).equals(
        expected.replace_schema_metadata(None), check_metadata=False
    )
    if PARTITION[table]:
        assert set(found.column(PARTITION[table]).to_pylist()) == {MODEL}


def test_every_column_has_a_description_a_unit_and_a_range():
    for table, schema in SCHEMAS.items():
        for field in schema:
            assert field.metadata[b"description"], f"{table}.{field.name}"
            assert b"unit" in field.metadata
            assert field.metadata[b"range"], (
                f"{table}.{field.name}: write it down in storage/tables/columns.toml"
            )
    assert set(KEYS) == set(PARTITION) == set(SCHEMAS)
    assert all(set(keys) <= set(SCHEMAS[table].names) for table, keys in KEYS.items())


def test_the_schema_page_names_every_column():
    page = markdown()
    for table in SCHEMAS:
        section = page.split(f"## {table}\n")[1].split("\n## ")[0]
        assert all(f"| `{name}` |" in section for name in dataset_schema(table).names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="slope"), "table units: missing columns slope"),
        (lambda f: f.assign(extra=1), "table units: unknown columns extra"),
        (
            lambda f: f.assign(unit=[0, 1, None]),
            "table units, column unit: 1 of 3 values are missing",
        ),
        (lambda f: f.assign(unit=[0.5, 1, 2]), "table units, column unit: not int32"),
        (lambda f: f.assign(unit=2**40), "table units, column unit: not int32"),
        (lambda f: f.assign(images=["a", "b", "c"]), "table units, column images: not int32"),
    ],
    ids=["missing", "unknown", "null", "fraction", "overflow", "text"],
)
def test_what_is_not_of_the_schema_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        to_table("units", change(example("units")))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_named_with_those_that_are(ws):
    with pytest.raises(ValueError, match="no table is called 'nonsense'; there are photos"):
        ws.table("nonsense")
    with pytest.raises(ValueError, match="table predictions is partitioned by model_id: name one"):
        ws.write_table("predictions", example("predictions"))
    with pytest.raises(ValueError, match="table runs is not partitioned"):
        ws.write_table("runs", example("runs"), partition="x")


def test_a_nan_measure_is_null_and_a_nullable_integer_stays_an_integer(ws):
    frame = example("predictions").assign(
        stage=pd.array([0, None, 4], dtype="Int8"), expected_stage=[0.5, np.nan, 1.0]
    )
    ws.write_table("predictions", frame, partition=MODEL)
    found = ws.frame("predictions")
    assert ws.table("predictions").to_table().column("expected_stage").null_count == 1
    assert found["stage"].dtype == pd.Int8Dtype()
    assert found["stage"].tolist() == [0, pd.NA, 4]
    assert np.isnan(found["expected_stage"][1])


def test_rows_may_be_mappings_with_numpy_values():
    rows = [
        {name: np.float32(1) if name in ("slope", "r2") else value for name, value in row.items()}
        for row in example("units").to_dict("records")
    ]
    assert to_table("units", rows).column("slope").to_pylist() == [1.0] * 3
    assert to_table("units", []).num_rows == 0
    with pytest.raises(ValueError, match="missing columns r2"):
        to_table(
            "units", [rows[0], {name: value for name, value in rows[1].items() if name != "r2"}]
        )


def test_an_empty_frame_has_the_types_of_a_full_one():
    for table in SCHEMAS:
        full = to_frame(to_table(table, example(table)))
        empty = empty_frame(table)[full.columns]
        assert empty.dtypes.tolist() == full.dtypes.tolist(), table


def test_row_order_is_kept_across_parts_and_inside_them(ws):
    for part in ("000001", "000000"):
        ws.write_table("units", example("units").assign(layer=part)[::-1], partition="e", part=part)
    assert ws.frame("units")["layer"].tolist() == ["000000"] * 3 + ["000001"] * 3
    assert ws.frame("units")["unit"].tolist() == [2, 1, 0, 2, 1, 0]


def test_a_part_knows_what_it_was_made_from(ws):
    ws.write_table("units", example("units"), partition="e", part="a", digest="1234")
    assert "a" in ws.parts("units", "e")
    assert ws.has_part("units", "e", "a", digest="1234")
    assert not ws.has_part("units", "e", "a", digest="5678")
    assert not ws.has_part("units", "e", "b", digest="1234")
    ws.write_table("units", example("units"), partition="e", part="b")
    assert ws.part_digests("units", "e") == {"a": "1234", "b": ""}
    assert ws.count("units", unit=1) == 2


def test_one_part_is_read_alone_with_all_columns_of_its_table(ws):
    for part in ("a", "b"):
        ws.write_table("units", example("units").assign(layer=part), partition="e", part=part)
    found = ws.part("units", "e", "b")
    assert list(found.columns) == dataset_schema("units").names
    assert found["layer"].tolist() == ["b"] * 3
    assert found.dtypes.tolist() == empty_frame("units").dtypes.tolist()
    assert ws.part("units", "e", "c").empty


def test_equal_rows_are_equal_bytes(ws, tmp_path):
    other = open_workspace(tmp_path / "other")
    paths = [
        w.files.read(w.write_table("units", example("units"), partition="e")) for w in (ws, other)
    ]
    assert paths[0] == paths[1]


def test_statistics_stand_in_the_file(ws):
    import pyarrow.parquet as pq

    path = ws.write_table("units", example("units"), partition="e")
    column = pq.read_metadata(ws.files.path(path)).row_group(0).column(1)
    assert (column.statistics.min, column.statistics.max) == (0, 2)


def test_a_reader_in_a_loop_sees_whole_tables_only(ws):
    """A writer replaces a part fifty times; every read gives all rows of one version."""
    count, versions, seen, stop = 2000, 50, [], threading.Event()
    ws.write_table("units", example("units", count).assign(images=0), partition="e")

    def read():
        while not stop.is_set():
            frame = ws.frame("units")
            seen.append((len(frame), frame["images"].nunique()))

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(versions):
        ws.write_table("units", example("units", count).assign(images=version), partition="e")
    stop.set()
    reader.join()
    assert len(seen) > 3
    assert set(seen) == {(count, 1)}


def photos(count: int) -> pd.DataFrame:
    return example("photos", count).assign(position=range(count))


def test_the_manifest_only_grows(ws):
    assert ws.photos().empty
    ws.write_table("photos", photos(3))
    before = ws.files.modified("catalog/photos.parquet")
    ws.write_table("photos", photos(3))
    assert ws.files.modified("catalog/photos.parquet") == before, (
        "equal contents are not written again"
    )
    ws.write_table("photos", photos(5))
    assert ws.photos()["image_id"].tolist() == [f"{index}_left" for index in range(5)]
    with pytest.raises(
        ValueError, match="3_left and 1 more would move or vanish; positions only grow"
    ):
        ws.write_table("photos", photos(3))
    with pytest.raises(ValueError, match="0_left and 3 more would move or vanish"):
        ws.write_table("photos", photos(5).assign(position=range(4, -1, -1)))
    with pytest.raises(ValueError, match="positions must be 0, 1, 2"):
        ws.write_table("photos", photos(5).assign(position=0))


def test_opening_a_workspace_creates_nothing(tmp_path):
    ws = open_workspace(tmp_path / "new")
    assert ws.photos().empty
    assert ws.frame("predictions").empty
    assert ws.models() == []
    assert not (tmp_path / "new").exists()
