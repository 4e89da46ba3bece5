"""Small workspaces and stores for the tests of storage."""

import pytest

from storage import open_workspace
from storage.arrays.store import ShardedStore
from tests.storage.small import SHARD, SPECS, image_ids


@pytest.fixture
def ws(tmp_path):
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def store(ws):
    """A store of 10 images in shards of 4: two whole shards and a short one."""
    store = ShardedStore.create_or_open(
        ws.files, "explanations/0123456789ab/attributions.zarr", SPECS, SHARD, {"title": "test"}
    )
    store.extend(image_ids(10))
    return store
