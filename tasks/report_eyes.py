"""The explained eyes of the report: which are shown, and all that is shown of one."""

import numpy as np
import pandas as pd

from dr_lib.model import STAGES
from dr_lib.report import EyeEntry, NeuronEntry
from storage import Workspace
from storage.arrays import ShardedStore
from storage.explanations import SIGNS
from tasks.recipe import Recipe
from tasks.sheets import Photos
from tasks.stores import fundus_store

EYES_SHOWN = 24


def chosen_rows(eyes: pd.DataFrame, done: np.ndarray) -> np.ndarray:
    """Rows of the explained eyes to show, the stages taking turns, the most severe first."""
    usable = eyes[done].assign(stage=lambda frame: frame["stage"].astype("Int8"))
    turn = usable.groupby("stage", dropna=False).cumcount()
    order = usable.assign(turn=turn).sort_values(["turn", "stage"], ascending=[True, False], kind="stable").index[:EYES_SHOWN]
    return np.sort(order.to_numpy())


def eye_entry(
    workspace: Workspace, recipe: Recipe, store: ShardedStore, eyes: pd.DataFrame, row: int, photos: Photos
) -> EyeEntry:
    """One explained eye as the report shows it; its resultants are those of the first explained layer."""
    eye = eyes.iloc[row]
    params = recipe.attribution
    layer = params.layers[0]
    place = f"layers/{layer}"
    paths = [f"pixels/{name}" for name in ("attribution", "outcome", "baseline_outcome", "gap", "points", "converged")]
    paths += [f"{place}/{name}" for name in ("resultant", "neuron", "neuron_attribution", "region", "region_origin")]
    arrays = {path: values[0] for path, values in store.read_rows([row], paths).items()}
    predicted = int(eye["predicted_stage"])
    quantity = f"stage{predicted}"
    at = params.quantities.index(quantity) if quantity in params.quantities else 0
    change = arrays["pixels/outcome"][at] - arrays["pixels/baseline_outcome"][at]
    neurons = [
        NeuronEntry(
            sign=sign,
            rank=rank,
            neuron=tuple(int(n) for n in arrays[f"{place}/neuron"][index, rank]),
            attribution=float(arrays[f"{place}/neuron_attribution"][index, rank]),
            region=arrays[f"{place}/region"][index, rank],
            origin=tuple(int(n) for n in arrays[f"{place}/region_origin"][index, rank]),
        )
        for index, sign in enumerate(SIGNS)
        for rank in range(arrays[f"{place}/neuron"].shape[1])
        if arrays[f"{place}/neuron"][index, rank, -1] >= 0
    ]
    return EyeEntry(
        image_id=eye["image_id"],
        stage=None if pd.isna(eye["stage"]) else int(eye["stage"]),
        predicted=predicted,
        probabilities=[float(eye[f"probability_stage{stage}"]) for stage in range(STAGES)],
        fundus=fundus_store(workspace, recipe.preprocess_id).read_rows([int(eye["position"])], ["pixels"])["pixels"][0],
        photo=photos.get(eye["image_id"]),
        positive=arrays[f"{place}/resultant"][0],
        negative=arrays[f"{place}/resultant"][1],
        stage_maps={name: arrays["pixels/attribution"][index] for index, name in enumerate(params.quantities)},
        layer=layer,
        quantity=quantity if params.layer_quantity == "predicted" else params.layer_quantity,
        split=eye["split"],
        gap=float(abs(arrays["pixels/gap"][at])),
        relative_gap=float(abs(arrays["pixels/gap"][at] / change)) if change else None,
        points=int(arrays["pixels/points"][at]),
        converged=bool(arrays["pixels/converged"][at]),
        neurons=tuple(neurons),
    )
