"""Group maps are replaced as a whole: a reader meets the old set or the new one."""

import numpy as np
import pytest

from storage import open_workspace
from storage.contents.snapshots import open_set, write_group_maps
from storage.files.files import Files
from storage.files.scratch import remove_scratch, scratch_folder

KEYS = [("all", "pixels", "stage0"), ("stage=1", "stem", "stage1")]


def write(workspace, value):
    write_group_maps(
        workspace.files, "abc", KEYS, [5, 2], np.full((2, 4, 4), value), np.full((2, 4, 4), -value)
    )


def test_what_is_written_is_read_with_its_names(tmp_path):
    workspace = open_workspace(tmp_path)
    assert open_set(workspace.files, "abc", "groups") is None
    write(workspace, 0.5)
    maps = open_set(workspace.files, "abc", "groups")
    assert (
        list(
            zip(
                *(maps[name].values.tolist() for name in ("group_name", "source", "quantity")),
                strict=True,
            )
        )
        == KEYS
    )
    assert maps["images"].values.tolist() == [5, 2]
    assert (maps["mean_positive"] == 0.5).all()
    assert (maps["mean_negative"] == -0.5).all()
    assert {"long_name", "units", "description"} <= set(maps["mean_positive"].attrs)


def test_a_new_set_takes_the_old_ones_place_and_leaves_nothing_behind(tmp_path):
    workspace = open_workspace(tmp_path)
    for value in (0.5, 0.25, 0.25):
        write(workspace, value)
    assert (open_set(workspace.files, "abc", "groups")["mean_positive"] == 0.25).all()
    assert (
        len([name for name in workspace.files.names("explanations/abc") if name.endswith(".zarr")])
        == 1
    )


def test_a_writer_that_dies_before_the_mark_leaves_the_old_set(tmp_path, monkeypatch):
    workspace = open_workspace(tmp_path)
    write(workspace, 0.5)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Files, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            write(workspace, 0.25)
    assert (open_set(workspace.files, "abc", "groups")["mean_positive"] == 0.5).all()
    write(workspace, 0.25)
    assert (open_set(workspace.files, "abc", "groups")["mean_positive"] == 0.25).all()


def test_scratch_of_a_local_workspace_lies_inside_it_and_can_go(tmp_path):
    workspace = open_workspace(tmp_path)
    folder = scratch_folder(workspace.files, "training-1")
    assert folder.is_relative_to(tmp_path)
    assert scratch_folder(workspace.files, "training-1") == folder
    remove_scratch(workspace.files, "training-1")
    remove_scratch(workspace.files, "training-1")
    assert not folder.exists()


def test_scratch_of_a_remote_workspace_lies_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (
        scratch_folder(open_workspace(f"memory://{name}").files, "training-1")
        for name in ("a", "b")
    )
    assert first != second
    assert first.is_relative_to(tmp_path)
