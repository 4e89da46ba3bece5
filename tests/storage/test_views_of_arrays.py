"""What an analyst opens: xarray's datasets and trees with names, coordinates and meanings, and
no warning.
"""

import numpy as np
import pytest
import xarray as xr

from dr_lib.vocabulary import SIGNS
from storage import open_workspace
from storage.arrays.store import ShardedStore
from storage.contents.explanations import (
    ExplanationRecord,
    LayerShape,
    explanation_specs,
    save_record,
)
from storage.contents.fundus import fundus_specs
from storage.errors import NotThere
from storage.layout import attributions_path, fundus_path
from tests.storage.small import digests, image_ids

LAYERS = {
    "stem": LayerShape((15, 15, 8), 32, 3),
    "fc1": LayerShape((24,), 64, 3),
}
QUANTITIES = ("stage0", "stage4", "referable")
# DESIGN §2's table: path → dims.
CONTRACT = {
    "pixels/attribution": ("image", "quantity", "y", "x"),
    **dict.fromkeys(
        [
            f"pixels/{name}"
            for name in ("outcome", "baseline_outcome", "gap", "map_error", "points", "converged")
        ],
        ("image", "quantity"),
    ),
    "pixels/status": ("image",),
    **{
        f"layers/{layer}/{name}": dims
        for layer in LAYERS
        for name, dims in {
            "neuron": ("image", "sign", "rank", "axis"),
            **dict.fromkeys(
                ("neuron_attribution", "activation", "baseline_activation", "neuron_gap"),
                ("image", "sign", "rank"),
            ),
            "region": ("image", "sign", "rank", "region_y", "region_x"),
            "region_origin": ("image", "sign", "rank", "origin"),
            "resultant": ("image", "sign", "y", "x"),
            "channel_attribution": ("image", "channel"),
            "channel_activation": ("image", "channel"),
            "channel_place": ("image", "channel", "largest", "origin"),
            "gap": ("image",),
            "points": ("image",),
        }.items()
    },
}


def filled(specs, span, value):
    return {
        spec.path: np.full((span.images, *spec.shape), value).astype(spec.dtype) for spec in specs
    }


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Six explained images in shards of four; each shard's values are its number plus 1."""
    ws = open_workspace(tmp_path_factory.mktemp("explained"))
    specs = explanation_specs(QUANTITIES, 64, LAYERS)
    store = ShardedStore.create_or_open(
        ws.files, attributions_path("aaaaaaaaaaaa"), specs, 4, {"title": "attributions"}
    )
    store.extend(image_ids(6))
    for span in store.spans():
        store.write_shard(
            span, filled(specs, span, span.index + 1), digests=digests(span.images, span.start)
        )
    save_record(ws.files, ExplanationRecord("aaaaaaaaaaaa", "m"))
    return ws


def test_the_arrays_are_those_of_the_contract(explained):
    tree = explained.attributions()
    found = {
        f"{group[1:]}/{name}": array.dims
        for group in tree.groups
        for name, array in tree[group].data_vars.items()
    }
    assert found == CONTRACT
    for group in tree.groups:
        for array in tree[group].data_vars.values():
            assert array.attrs["long_name"]
            assert "units" in array.attrs
            assert array.attrs["description"]


def test_the_arrays_of_a_logit_are_not_said_to_be_probabilities():
    specs = explanation_specs(
        ("logit3", "logit0"), 64, LAYERS, layer_quantity="logodds3:0", lesions=True
    )
    units = {spec.path: spec.units for spec in specs}
    assert not [path for path, unit in units.items() if "probability" in unit]
    assert units["pixels/outcome"] == units["pixels/attribution"] == "logit"
    assert (
        units["layers/fc1/neuron_attribution"]
        == units["layers/fc1/gap"]
        == units["lesion/map"]
        == "log-odds"
    )
    assert units["layers/fc1/resultant"] == "log-odds × activation"
    mixed = explanation_specs(("stage0", "referable", "logit0"), 64, {})
    assert {spec.units for spec in mixed if spec.path.endswith("outcome")} == {
        "probability or logit"
    }


def test_one_image_is_chosen_by_its_id_in_every_group(explained):
    tree = explained.attributions()
    for group in ("pixels", "layers/stem", "layers/fc1"):
        one = tree[group].to_dataset().sel(image_id="5_left")
        name = "attribution" if group == "pixels" else "resultant"
        assert float(one[name].mean()) == 2.0
    pixels = tree["pixels"].to_dataset().sel(image_id="0_left", quantity="stage4")
    assert float(pixels["outcome"]) == 1.0
    assert tree["layers/stem"].to_dataset()["sign"].values.tolist() == list(SIGNS)
    assert tree["layers/stem/neuron"].sizes["axis"] == 3
    assert tree["layers/fc1/neuron"].sizes["axis"] == 1


def test_xarray_alone_opens_groups_and_tree_with_their_ids(explained):
    """Without this package: any program that reads Zarr v3 finds the names beside the numbers."""
    path = explained.files.path(attributions_path("aaaaaaaaaaaa"))
    pixels = xr.open_zarr(path, group="pixels")
    assert pixels["image_id"].values.tolist() == image_ids(6)
    assert "image_id" in pixels.coords
    assert pixels["attribution"].chunks[0] == (1,) * 6
    assert pixels["quantity"].values.tolist() == list(QUANTITIES)
    assert float(pixels["attribution"].sum()) == (4 * 1 + 2 * 2) * 3 * 64 * 64
    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    assert {"/pixels", "/layers/stem", "/layers/fc1"} <= set(tree.groups)


def test_dask_chunks_on_demand(explained):
    tree = explained.attributions(chunks={"image": 4})
    assert tree["pixels/attribution"].chunks[0] == (4, 2)


def test_fundus_images_with_their_geometry(ws):
    specs = fundus_specs(16, ("exposure", "quality", "visible"))
    store = ShardedStore.create_or_open(ws.files, fundus_path("bbbbbbbbbbbb"), specs, 4)
    store.extend(image_ids(6))
    store.write_shard(store.spans()[0], filled(specs, store.spans()[0], 1), digests=digests(4))
    data = ws.fundus()
    assert set(data.data_vars) == {
        "pixels", "status", "diameter", "aspect", "centre_y", "centre_x", "confidence", "reduction", "quality", "exposure", "visible"
    }  # fmt: skip
    assert data["pixels"].dims == ("image", "y", "x", "channel")
    assert data["pixels"].dtype == np.uint8
    assert data["status"].attrs["flag_meanings"] == "pending done rejected"
    assert data["exposure"].attrs["description"].startswith("green's mean")
    assert data["status"].values.tolist() == [1, 1, 1, 1, 0, 0]
    blank = data.sel(image_id="5_left")
    assert np.unique(blank["pixels"]).tolist() == [128]
    assert np.isnan(blank["diameter"])
    assert blank["aspect"] == 1
    assert data["channel"].values.tolist() == ["red", "green", "blue"]


def test_the_latest_preprocessing_is_the_one_written_last(ws):
    import os

    for age, preprocess_id in enumerate(["aaaaaaaaaaaa", "cccccccccccc", "bbbbbbbbbbbb"]):
        store = ShardedStore.create_or_open(
            ws.files, fundus_path(preprocess_id), fundus_specs(16), 4
        )
        store.extend(image_ids(age + 1))
        os.utime(ws.files.path(f"{store.path}/zarr.json"), (age, age))
    assert ws.preprocess_ids() == ["aaaaaaaaaaaa", "cccccccccccc", "bbbbbbbbbbbb"]
    assert ws.fundus().sizes["image"] == 3
    assert ws.fundus("aaaaaaaaaaaa").sizes["image"] == 1


def test_what_is_not_there_yet_is_said_with_the_command_that_makes_it(ws):
    with pytest.raises(NotThere, match="no fundus images yet: run dr preprocess"):
        ws.fundus()
    with pytest.raises(NotThere, match="no explanations yet: run dr attribute"):
        ws.attributions()
    save_record(ws.files, ExplanationRecord("aaaaaaaaaaaa"))
    with pytest.raises(NotThere, match="no attributions for aaaaaaaaaaaa: run dr attribute"):
        ws.attributions()
    with pytest.raises(NotThere, match="is not there: run the step that makes it"):
        ShardedStore.open(ws.files, "fundus/x.zarr")
