"""A workspace works under any folder's name and never reads its neighbours, or is refused at
once.
"""

import os

import duckdb
import numpy as np
import pytest

from storage import open_workspace
from storage.admin.catalog import query, refresh
from storage.admin.gc import listing
from storage.admin.verify import verify
from storage.arrays.store import ShardedStore
from storage.errors import Refused
from storage.layout import CATALOGUE_TABLES
from storage.tables.schemas import PARTITION, SCHEMAS
from tasks.access.status import describe
from tests.storage.small import SHARD, SPECS, digests, image_ids, photo_source, values
from tests.storage.test_tables import example, photos

ODD = [
    "eyes [2024]",
    "[",
    "[!a]-%5B]",
    "e?es",
    "**",
    "e*s",
    "#1 100% it's",
    '{a,b}$HOME;&|<"',
    "年月 ünï é ",
    "~",
    "x=1:b",
    "-tab\tand\nline",
]


def filled(location):
    """A workspace of one shard, its manifest and every table."""
    ws = open_workspace(location)
    path = "explanations/0123456789ab/attributions.zarr"
    store = ShardedStore.create_or_open(ws.files, path, SPECS, SHARD)
    store.extend(image_ids(4))
    (span,) = store.spans()
    store.write_shard(span, values(span), digests=digests(4))
    ws.write_table("photos", photos(4))
    for table in SCHEMAS:
        if table not in CATALOGUE_TABLES:
            ws.write_table(
                table, example(table), partition="p" * 12 if PARTITION[table] else None, digest="d"
            )
    return ws


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    """A folder whose names the odd ones match where they are taken for patterns."""
    folder = tmp_path_factory.mktemp("paths")
    for name in ("eyes 2", "eyes", "a", "es"):
        filled(folder / name)
    return folder


@pytest.mark.parametrize("name", ODD)
def test_a_workspace_of_any_name_is_read_by_every_door(neighbours, name):
    ws = filled(neighbours / name / "workspace" if name == "~" else neighbours / name)
    rows = {table: ws.count(table) for table in SCHEMAS}
    counted = " union all ".join(
        f"select '{table}' name, count(*) n from {table}" for table in SCHEMAS
    )
    assert dict(query(ws, counted).itertuples(index=False)) == rows
    assert query(ws, "select distinct explain_id from neurons")["explain_id"].tolist() == ["p" * 12]
    with duckdb.connect(str(refresh(ws)), read_only=True) as connection:
        assert dict(connection.sql(counted).fetchall()) == rows
    assert ws.has_part("units", "p" * 12, "part", digest="d")
    assert (describe(ws), listing(ws)) != ([], [])
    store = ShardedStore.open(ws.files, "explanations/0123456789ab/attributions.zarr")
    np.testing.assert_array_equal(
        store.read(store.spans()[0])["pixels/gap"], values(store.spans()[0])["pixels/gap"]
    )
    assert store.damage(store.ledger.entry(0), contents=True) == []
    assert [problem for problem in verify(ws) if problem["where"].endswith(".zarr")] == []
    with ws.lock("run"):
        assert ws.files.exists(".locks/run.lock")


@pytest.mark.parametrize("name", ["a\\b", "model_id=x", "deep/explain_id=1/er", "bad\udcffbytes"])
def test_a_name_that_would_be_misread_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(Refused, match="cannot be a workspace: ") as caught:
        open_workspace(tmp_path / name)
    assert str(caught.value).encode(), "it can be printed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a*", "a?b", "eyes[1]", "a::b"])
def test_patterns_in_an_object_stores_url_are_refused_since_they_would_remove_their_neighbours(
    name,
):
    with pytest.raises(Refused, match="fsspec would take that for a pattern"):
        open_workspace(f"memory://paths/{name}")


@pytest.mark.parametrize("name", ["a b", "a#b", "100%", "a=b", "ünï", "it's"])
def test_other_names_work_in_an_object_store(name):
    ws = open_workspace(f"memory://paths/{name}")
    ws.write_table("units", example("units"), partition="p" * 12, digest="d")
    assert ws.count("units") == len(example("units"))
    assert ws.files.read_many(ws.files.walk("tables")) == [
        ws.files.read(name) for name in ws.files.walk("tables")
    ]
    ws.files.remove_tree("")


@pytest.mark.parametrize("name", ODD)
def test_photographs_lie_in_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name / "train"
    folder.mkdir(parents=True)
    (folder / "1_left.jpeg").write_bytes(b"photograph")
    (tmp_path / name / "trainLabels.csv").write_text("image,level\n1_left,2\n")
    source = photo_source(tmp_path / name)
    (photo,) = source.photographs()
    assert source.read(photo.path) == b"photograph"
    assert source.labels()["stage"].tolist() == [2]


def test_a_file_name_that_is_not_in_utf8_is_set_aside_and_can_be_listed(tmp_path, ws):
    for name in (b"1_left.jpeg", b"2_left\xff.jpeg", b"f\xe9lder/3_left.jpeg"):
        path = os.path.join(os.fsencode(tmp_path / "photos"), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"photograph")
    source = photo_source(tmp_path / "photos")
    assert [photo.image_id for photo in source.photographs()] == ["1_left"]
    problems = [(problem.path, problem.reason) for problem in source.problems()]
    assert problems == [("2_left\\xff.jpeg", "wrong_name"), ("f\\xe9lder", "wrong_name")]
    assert all(problem.path.encode() for problem in source.problems())
