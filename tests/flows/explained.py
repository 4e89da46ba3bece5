"""A workspace with explanations that nobody computed: arrays of noise under the names that real
ones have.

It is there in a second and without TensorFlow, for tests of what is done with explanations.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from dr_lib.attribution.params import AttributionParams
from dr_lib.attribution.receptive import ReceptiveField
from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.fundus.quality import MEASURES
from dr_lib.localisation import LocalisationParams
from dr_lib.maps import HeatmapParams
from dr_lib.network.model import ModelParams
from dr_lib.training.params import TrainingParams
from storage import Workspace
from storage.arrays.store import ShardedStore
from storage.contents.explanations import (
    DONE,
    ExplanationRecord,
    LayerShape,
    explanation_specs,
    save_record,
)
from storage.contents.fundus import fundus_specs
from storage.ids import digest_bytes
from storage.layout import MODEL_RECORD, attributions_path, fundus_path, model_path
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.stores import blank
from tasks.aggregate.shard import SHARD_TABLES, AggregateJob, aggregate_shard
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.table_part import TablePart

SIZE, SHARD_IMAGES, NEURONS = 64, 4, 2
PHOTO_SHAPE = (3 * SIZE, 2 * SIZE)
DISC = Disc(1.5 * SIZE - 0.5, SIZE - 0.5, 2.0 * SIZE, aspect=1.5)
MODEL_ID = "0123456789ab"
LAYERS = {
    "stem": LayerShape(
        (16, 16, 8), 32, NEURONS, asdict(ReceptiveField((23, 23), (4, 4), (-9, -9)))
    ),
    "fc1": LayerShape(
        (16,), SIZE, NEURONS, asdict(ReceptiveField((64, 64), (1, 1), (0, 0), whole=True))
    ),
}
RECIPE = Recipe(
    PreprocessParams(size=SIZE),
    ModelParams(backbone="small", backbone_weights="none", dense=(16, 8), input_size=SIZE),
    TrainingParams(),
    AttributionParams(layers=tuple(LAYERS), neurons=NEURONS),
)


def names(count: int) -> list[str]:
    return [
        f"{number // 2 + 1}_{'left' if number % 2 == 0 else 'right'}" for number in range(count)
    ]


def explain(
    workspace: Workspace,
    count: int,
    *,
    model_id: str = MODEL_ID,
    created: str = "2026-01-01",
    seed: int = 0,
    grades: Sequence[int] | None = None,
    tables: bool = True,
) -> str:
    """Makes the workspace hold `count` explained eyes; a second call with more adds the rest, as
    a pipeline would. Returns the explanation's id.

    A second model needs another model_id and a later time of creation; its maps are noise of
    another seed. grades: which stage it is sure of in each eye. tables: those that `dr aggregate`
    makes of the maps.
    """
    ids = names(count)
    common = {
        "image_id": ids,
        "patient_id": [name.split("_")[0] for name in ids],
        "eye": [name.split("_")[1] for name in ids],
    }
    common |= {"stage": [number % 5 for number in range(count)], "split": ["test"] * count}
    photo = {
        "position": range(count),
        "path": ids,
        "bytes": [1] * count,
        "width_px": [PHOTO_SHAPE[1]] * count,
        "height_px": [PHOTO_SHAPE[0]] * count,
    }
    photo |= {"sha256": [digest_bytes(name.encode()) for name in ids], "present": [True] * count}
    workspace.write_table("photos", _frame("photos", common | photo, count))
    graded = {"predicted_stage": [(number + number // 5) % 5 for number in range(count)]}
    graded |= {f"probability_stage{stage}": [0.2] * count for stage in range(5)}
    if grades is not None:
        graded["predicted_stage"] = list(grades)
        for stage in range(5):
            sure = [0.8 if grade == stage else 0.05 for grade in grades]
            graded[f"probability_stage{stage}"] = sure
    workspace.write_table(
        "predictions", _frame("predictions", common | graded, count), partition=model_id
    )
    record = {"model_id": model_id, "training_id": RECIPE.training_id, "created": created}
    workspace.files.write_json(model_path(model_id, MODEL_RECORD), record)

    explain_id = RECIPE.explain_id(workspace)
    settings = {
        "quantities": RECIPE.attribution.quantities,
        "layers": list(LAYERS),
        "layer_quantity": "predicted",
    }
    save_record(
        workspace.files,
        ExplanationRecord(explain_id, model_id, RECIPE.preprocess_id, settings),
    )
    path, made_how = fundus_path(RECIPE.preprocess_id), {"preprocess": RECIPE.preprocess_settings}
    fundi = ShardedStore.create_or_open(
        workspace.files, path, fundus_specs(SIZE, MEASURES), SHARD_IMAGES, made_how
    )
    specs = explanation_specs(RECIPE.attribution.quantities, SIZE, LAYERS, lesions=True)
    maps = ShardedStore.create_or_open(
        workspace.files, attributions_path(explain_id), specs, SHARD_IMAGES
    )
    for store, fill in ((fundi, _fundus), (maps, _maps)):
        store.extend(ids)
        digests = [digest_bytes(name.encode()) for name in ids]
        for span in store.pending(digests):
            arrays = blank(store, span)
            for row in range(span.images):
                fill(
                    {path: values[row] for path, values in arrays.items()},
                    np.random.default_rng(seed + span.start + row),
                )
            arrays["status" if store is fundi else "pixels/status"][:] = DONE
            if store is fundi:  # the photograph is twice as wide as its fundus, and squeezed
                arrays["diameter"][:], arrays["aspect"][:] = DISC.diameter, DISC.aspect
                arrays["centre_y"][:], arrays["centre_x"][:] = DISC.centre_y, DISC.centre_x
            store.write_shard(span, arrays, digests=digests[span.rows])
            if store is maps and tables:
                eyes = explained_eyes(workspace, model_id, ids).iloc[span.rows]
                resolved = ResolvedIds(
                    workspace.location, RECIPE.preprocess_id, model_id, explain_id
                )
                aggregate_shard(
                    AggregateJob(
                        resolved,
                        span,
                        eyes,
                        TablePart(workspace, explain_id, span.part, span.part),
                        RECIPE.preprocess,
                        RECIPE.attribution,
                        HeatmapParams(max_regions=3),
                        LocalisationParams(),
                        missing=SHARD_TABLES,
                    )
                )
    return explain_id


def _fundus(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    arrays["pixels"][:] = rng.integers(0, 256, arrays["pixels"].shape)


def _maps(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    for path, values in arrays.items():
        if values.dtype == np.float32 and values.ndim:
            values[...] = rng.normal(size=values.shape)
        elif path.endswith(("/neuron", "/region_origin")):
            values[...] = 0
        elif path == "layers/stem/channel_place":
            values[...] = rng.integers(0, 16, values.shape)


def _frame(table: str, given: dict, count: int) -> pd.DataFrame:
    """The table's columns, the given ones filled and the others (which may be null) empty."""
    return pd.DataFrame({name: given.get(name, [None] * count) for name in SCHEMAS[table].names})
