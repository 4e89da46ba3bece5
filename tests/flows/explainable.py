"""A workspace ready for `dr attribute` in a second: random fundi and an untrained small network,
no photograph anywhere.
"""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd

from dr_lib.network.model import ModelParams, build
from dr_lib.vocabulary import STAGE_COUNT
from flows.config import PipelineConfig, load_config
from storage import Workspace, open_workspace
from storage.arrays.store import ShardedStore
from storage.contents.fundus import DONE, fundus_specs
from storage.contents.models import ModelRecord, save_model
from storage.ids import digest_bytes
from storage.layout import fundus_path
from storage.tables.schemas import SCHEMAS
from tasks.access.stores import blank
from tasks.run.recipe import Recipe, settings_of

TOML = """
workspace = "{workspace}"
[data]
photos = "{photos}"
[preprocess]
size = {size}
[model]
backbone = "small"
backbone_weights = "none"
dense = [16, 8]
[attribution]
layers = ["stem"]
neurons = 2
resultant_neurons = 20
points = 4
layer_points = 4
neuron_points = 4
max_points = 8
lesion_poses = 1
lesion_points = 1
batch_size = 4
[heatmaps]
max_regions = 3
[channel_dissection]
layers = ["stem"]
[linearity]
layers = ["fc1", "fc2"]
[storage]
shard_images = {shard_images}
[dask]
workers = 2
"""


def write_config(folder: pathlib.Path, *, size: int = 64, shard_images: int = 2) -> pathlib.Path:
    """A configuration for `folder/workspace`; the photographs' folder it names is empty."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    path = folder / "explain.toml"
    path.write_text(
        TOML.format(
            workspace=folder / "workspace",
            photos=folder / "photos",
            size=size,
            shard_images=shard_images,
        )
    )
    return path


def image_ids(count: int) -> list[str]:
    return [
        f"{number // 2 + 1}_{'left' if number % 2 == 0 else 'right'}" for number in range(count)
    ]


def prepare(
    config_file: pathlib.Path,
    ids: list[str],
    *,
    blank_fundi: bool = False,
    settings: Sequence[str] = (),
) -> tuple[PipelineConfig, Workspace]:
    """Writes catalogue, fundi (noise, or blank), model and predictions for images of these ids,
    all in the test split.
    """
    config = load_config(config_file, list(settings))
    workspace = open_workspace(config.workspace)
    recipe, size, count = config.recipe, config.preprocess.size, len(ids)
    given = {
        "position": range(count),
        "image_id": ids,
        "patient_id": [name.rpartition("_")[0] for name in ids],
        "eye": [name.rpartition("_")[2] for name in ids],
        "stage": [number % STAGE_COUNT for number in range(count)],
        "split": ["test"] * count,
        "path": [f"test/{name}.jpeg" for name in ids],
        **{name: [size] * count for name in ("bytes", "width_px", "height_px")},
        "sha256": [digest_bytes(name.encode()) for name in ids],
        "present": [True] * count,
    }
    workspace.write_table("photos", _frame("photos", given, count))
    _write_fundi(workspace, recipe, ids, blank_fundi)
    keras.utils.set_random_seed(1)
    model = build(config.recipe.model)
    weights = pathlib.Path(config_file).parent / "model.weights.h5"
    model.save_weights(weights)
    record = ModelRecord(
        training_id=recipe.training_id,
        architecture=settings_of(ModelParams, recipe.model),
        preprocess_id=recipe.preprocess_id,
        step_seconds=0.1,
    )
    model_id = save_model(workspace.files, weights, record, pd.DataFrame({"step": [1]}))
    _write_predictions(workspace, model_id, ids)
    return config, workspace


def _write_fundi(workspace: Workspace, recipe: Recipe, ids: list[str], blank_fundi: bool) -> None:
    size, made_how = recipe.preprocess.size, {"preprocess": recipe.preprocess_settings}
    store = ShardedStore.create_or_open(
        workspace.files, fundus_path(recipe.preprocess_id), fundus_specs(size), attrs=made_how
    )
    store.extend(ids)
    for span in store.spans():
        arrays = blank(store, span)
        arrays["status"][:] = DONE
        for row in range(0 if blank_fundi else span.images):
            arrays["pixels"][row] = np.random.default_rng(span.start + row).integers(
                0, 256, (size, size, 3), dtype=np.uint8
            )
        store.write_shard(
            span, arrays, digests=[digest_bytes(name.encode()) for name in ids[span.rows]]
        )


def _write_predictions(workspace: Workspace, model_id: str, ids: list[str]) -> None:
    given = {
        "image_id": ids,
        "patient_id": [name.rpartition("_")[0] for name in ids],
        "eye": [name.rpartition("_")[2] for name in ids],
        "split": ["test"] * len(ids),
        "predicted_stage": [0] * len(ids),
    }
    workspace.write_table("predictions", _frame("predictions", given, len(ids)), partition=model_id)


def _frame(table: str, given: dict, count: int) -> pd.DataFrame:
    """The table's columns, the given ones filled and the others (which may be null) empty."""
    return pd.DataFrame({name: given.get(name, [None] * count) for name in SCHEMAS[table].names})
