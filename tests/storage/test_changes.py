"""Stores of changed images, and the regions of special units, which are replaced as a whole."""

import numpy as np

from storage import open_workspace
from storage.arrays.store import ShardedStore
from storage.contents.explanations import counterfactual_specs
from storage.contents.snapshots import open_set, write_unit_maps
from storage.layout import counterfactuals_path

KEYS = [("fc1", 3, "1_left"), ("mixed2", 7, "1_right")]


def test_a_store_has_a_group_for_every_method_and_a_difference_for_counterfactuals_only(tmp_path):
    workspace = open_workspace(tmp_path)
    path = counterfactuals_path("abc", "1-0-1")
    store = ShardedStore.create_or_open(
        workspace.files, path, counterfactual_specs(["constant"], ["pgd_l2"], 4), 2
    )
    names = {spec.path for spec in store.specs}
    numbers = ("reached", "failed", "strength", "best_probability", "probability", "image")
    expected = {f"{method}/{name}" for method in ("constant", "pgd_l2") for name in numbers}
    assert names == expected | {"original/probability", "constant/difference"}
    assert store.ledger.folder == "explanations/abc/counterfactuals-1-0-1.ledger"


def test_regions_are_read_with_their_names_and_a_new_set_takes_the_old_ones_place(tmp_path):
    workspace = open_workspace(tmp_path)
    assert open_set(workspace.files, "abc", "units") is None
    for value in (0.5, 0.25):
        write_unit_maps(workspace.files, "abc", KEYS, np.full((2, 4, 4), value))
    maps = open_set(workspace.files, "abc", "units")
    assert (
        list(
            zip(
                *(maps[name].values.tolist() for name in ("layer", "unit", "image_id")), strict=True
            )
        )
        == KEYS
    )
    assert (maps["region"] == 0.25).all()
    assert {"long_name", "units", "description"} <= set(maps["region"].attrs)
    stores = [name for name in workspace.files.names("explanations/abc") if name.endswith(".zarr")]
    assert len(stores) == 1


def test_without_a_special_unit_no_old_regions_stay(tmp_path):
    workspace = open_workspace(tmp_path)
    write_unit_maps(workspace.files, "abc", KEYS, np.ones((2, 4, 4)))
    write_unit_maps(workspace.files, "abc", [], np.empty(0))
    write_unit_maps(workspace.files, "abc", [], np.empty(0))
    assert open_set(workspace.files, "abc", "units") is None
    assert workspace.files.names("explanations/abc") == []
