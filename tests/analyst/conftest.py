"""One small workspace of made-up rows for all the analyst's tests."""

import pytest

from storage import open_workspace
from tests.analyst.rows import fill

IMAGES, SHARD = 120, 32


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """120 eyes in four shards, written as `dr aggregate` writes them. Not to be written to."""
    workspace = open_workspace(tmp_path_factory.mktemp("analyst") / "workspace")
    assert sum(span.images for span in fill(workspace, IMAGES, shard_images=SHARD)) == IMAGES
    return workspace
