"""DuckDB's views agree with the tables, empty or full, wherever the workspace lies."""

import shutil

import duckdb
import pyarrow.parquet as pq
import pytest

from storage import open_workspace
from storage.admin.catalog import query, refresh
from storage.admin.verify import _part_damage
from storage.contents.explanations import ExplanationRecord, save_record
from storage.errors import Refused
from storage.layout import CATALOGUE_TABLES
from storage.tables.schemas import PARTITION, SCHEMAS, dataset_schema
from tests.storage.test_tables import example, photos

OLD, NEW = "9" * 12, "123456789012"


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    ws = open_workspace(tmp_path_factory.mktemp("full") / "workspace")
    ws.write_table("photos", photos(3))
    for explain_id in (OLD, NEW):
        save_record(ws.files, ExplanationRecord(explain_id, "m"))
    for table in SCHEMAS:
        if table not in (*CATALOGUE_TABLES, "units"):
            # The older explanation's files are the younger ones: the record decides, not the file's
            # age.
            for partition in (NEW, OLD) if PARTITION[table] else (None,):
                ws.write_table(table, example(table), partition=partition)
    return ws


def counts(ws) -> dict[str, int]:
    """The number of rows in every view."""
    found = query(
        ws,
        " union all ".join(f"select '{table}' name, count(*) n from {table}" for table in SCHEMAS),
    )
    return dict(zip(found["name"], found["n"], strict=True))


def test_every_table_has_a_view_with_its_columns_even_when_it_is_empty(ws):
    columns = query(
        ws,
        "select table_name, list(column_name order by column_index) names from duckdb_columns()"
        " group by all",
    )
    found = dict(zip(columns["table_name"], columns["names"], strict=True))
    for table in SCHEMAS:
        assert list(found[table]) == dataset_schema(table).names
    assert counts(ws) == dict.fromkeys(SCHEMAS, 0)


def test_views_hold_what_the_tables_hold(full):
    assert counts(full) == {table: full.table(table).count_rows() for table in SCHEMAS}
    assert counts(full)["neurons"] == 6
    assert query(full, "select distinct explain_id from neurons order by 1")[
        "explain_id"
    ].tolist() == [NEW, OLD]


def test_an_empty_view_has_the_types_of_a_full_one(full, tmp_path):
    empty = open_workspace(tmp_path / "empty")
    columns = "select table_name, column_name, data_type from duckdb_columns() order by all"
    assert query(full, columns).equals(query(empty, columns))


def test_latest_views_hold_the_newest_explanation_only(full):
    found = query(full, "select distinct explain_id from latest_neurons")["explain_id"].tolist()
    assert found == [NEW]
    assert query(full, "from latest_units").empty


def test_the_file_answers_from_anywhere_and_explains_its_columns(full, tmp_path, monkeypatch):
    path = refresh(full)
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.sql("select count(*) from neurons").fetchall() == [(6,)]
        comments = dict(
            connection.sql(
                "select column_name, comment from duckdb_columns() where table_name ="
                " 'latest_lesion_regions'"
            ).fetchall()
        )
    assert comments["area_px"] == "area [px²]; range [1, ∞)"
    assert comments["explain_id"].startswith("the explanation")
    assert (full.files.read("catalog.sql")).startswith(b"-- One view per table")
    assert refresh(full) == path


def test_a_moved_workspace_still_answers(full, tmp_path):
    refresh(full)
    shutil.copytree(full.location, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved it's")
    assert (
        query(open_workspace(tmp_path / "moved it's"), "select count(*) n from photos")["n"][0] == 3
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from nothing_here", "nothing_here does not exist"),
        ("selec 1", "syntax error"),
        ("select 1; select 2", "one query at a time, got 2"),
        ("", "one query at a time, got 0"),
        ("create table x as select 1", "only queries"),
        ("copy photos to 'out.csv'", "only queries"),
        ("drop view photos", "only queries"),
        ("set threads = 1", "only queries"),
    ],
)
def test_a_query_that_is_none_gets_one_line(full, sql, message):
    with pytest.raises(Refused, match=message) as caught:
        query(full, sql)
    assert "\n" not in str(caught.value)


def test_times_are_utc_and_can_be_reckoned_with(full):
    found = query(
        full,
        "select strftime(min(started), '%Y-%m-%d %H:%M') t, max(finished) - min(started) d from"
        " runs",
    )
    assert found["t"][0] == "2026-01-01 00:00"
    assert found["d"][0].days == 2


def test_describe_and_summarize_are_queries(full):
    assert query(full, "describe photos")["column_name"].tolist() == SCHEMAS["photos"].names
    assert len(query(full, "summarize photos")) == len(SCHEMAS["photos"].names)


def test_a_remote_workspace_says_that_queries_need_a_local_one():
    with pytest.raises(ValueError, match="queries need a local workspace"):
        query(open_workspace("memory://catalog-test"), "from photos")


@pytest.mark.parametrize("older", ["first", "last"])
def test_parts_written_before_there_were_sources_are_read_beside_younger_ones(ws, older):
    """As where one shard of a table was written anew by a later version."""
    rows = example("predictions", 2)
    for part, images in (("first", ["a", "b"]), ("last", ["far/c", "d"])):
        given = rows.assign(image_id=images).drop(columns="source")
        path = ws.write_table("predictions", given, partition=NEW, part=part)
        if part == older:
            table = pq.read_table(ws.files.path(path), partitioning=None)
            pq.write_table(table.drop_columns(["source"]), ws.files.path(path))
    expected = {"a": None, "b": None, "far/c": "far" if older == "first" else None, "d": None}
    found = query(ws, "select image_id, source from predictions")
    assert {name: source or None for name, source in found.fillna("").to_numpy()} == expected
    frame = ws.frame("predictions")
    assert frame.set_index("image_id")["source"].isna().sum() == sum(
        source is None for source in expected.values()
    )
    assert _part_damage(ws, "predictions", path, set(), set(expected)) is None
