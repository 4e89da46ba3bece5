"""Explained eyes and their maps, as the steps after `attribute` read them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.maps.lesion_map import QUANTITY as LESION_QUANTITY
from storage import Workspace
from storage.contents.explanations import DONE


def map_paths(params: AttributionParams) -> list[str]:
    """The arrays of an explanation that `maps_of` and `converged_of` take, and the status."""
    return [
        "pixels/status",
        "pixels/converged",
        "pixels/attribution",
        *(f"layers/{layer}/resultant" for layer in params.layers),
        *(["lesion/map"] if params.lesion_poses else []),
    ]


def maps_of(
    arrays: Mapping[str, np.ndarray], row: int, predicted_stage: int, params: AttributionParams
) -> dict[tuple[str, str], np.ndarray]:
    """One image's maps by (source, quantity): (y, x) for pixels and lesions, (sign, y, x) for a
    layer's resultants.
    """
    layer_quantity = (
        f"stage{predicted_stage}" if params.layer_quantity == "predicted" else params.layer_quantity
    )
    maps = {
        ("pixels", name): arrays["pixels/attribution"][row, index]
        for index, name in enumerate(params.quantities)
    }
    maps |= {("lesion", LESION_QUANTITY): arrays["lesion/map"][row]} if params.lesion_poses else {}
    return maps | {
        (layer, layer_quantity): arrays[f"layers/{layer}/resultant"][row] for layer in params.layers
    }


def converged_of(
    arrays: Mapping[str, np.ndarray], row: int, params: AttributionParams
) -> dict[tuple[str, str], bool]:
    """Whether one image's maps on pixels met their tolerance, by (source, quantity)."""
    return {
        ("pixels", name): bool(arrays["pixels/converged"][row, index])
        for index, name in enumerate(params.quantities)
    }


def explained_eyes(workspace: Workspace, model_id: str, image_ids: list[str]) -> pd.DataFrame:
    """The explained images in their order: image_id, eye, split, stage, predicted_stage and
    probabilities of the predictions; position, size and sha256 of the photograph.
    """
    predictions = workspace.frame("predictions", model_id=model_id).set_index("image_id")
    photos = workspace.photos().set_index("image_id")  # every photograph there ever was
    columns = ["position", "height_px", "width_px", "sha256"]
    eyes = predictions.reindex(image_ids).join(photos[columns])
    return eyes.reset_index(names="image_id")


def explained_rows(status: np.ndarray, eyes: pd.DataFrame, state: int = DONE) -> np.ndarray:
    """Rows with an explanation to speak of: done, and of an eye that still has a prediction.
    state: another one that is asked for.
    """
    return np.flatnonzero((status == state) & eyes["predicted_stage"].notna().to_numpy())
