"""One image's numbers and its Fig (a), for `dr show`."""

import pathlib
from typing import Any

import pandas as pd

from dr_lib.figures import overlay, panels, png
from storage import Workspace
from storage.explanations import load_record
from tasks.aggregate import explained_eyes
from tasks.errors import UserError
from tasks.stores import explanation_store, fundus_store


def show_image(workspace: Workspace, image_id: str, picture: pathlib.Path) -> tuple[list[dict[str, Any]], pathlib.Path]:
    """(rows of name and value, the written PNG) of one explained image, from the explanation made last."""
    record = load_record(workspace)
    store = explanation_store(workspace, record["explain_id"])
    if image_id not in store.image_ids:
        explained = f"{len(store.image_ids)} images are, such as {store.image_ids[0]}" if store.image_ids else "no image is"
        raise UserError(f"{image_id} is not explained in {workspace.location}; {explained}")
    row = store.image_ids.index(image_id)
    eye = explained_eyes(workspace, record["model_id"], store.image_ids).iloc[row]
    if pd.isna(eye["predicted_stage"]):
        raise UserError(f"{image_id} has no prediction any more: its photograph was replaced by one that cannot be graded")
    settings = record["attribution"]
    layer = settings["layers"][0]
    arrays = store.read_rows([row], [f"layers/{layer}/resultant", "pixels/gap", "pixels/outcome", "pixels/baseline_outcome"])
    fundus = fundus_store(workspace, record["preprocess_id"]).read_rows([int(eye["position"])], ["pixels"])["pixels"][0]
    positive, negative = arrays[f"layers/{layer}/resultant"][0]
    drawn = panels(
        [fundus, overlay(fundus, positive), overlay(fundus, negative)],
        ["Preprocessed", "Most positive neurons", "Most negative neurons"],
        title=image_id,
    )
    try:
        picture.write_bytes(png(drawn))
    except OSError as error:
        raise UserError(f"{picture} cannot be written: {error.strerror}") from None
    rows = [
        {"what": name, "value": eye[name]}
        for name in ("split", "stage", "predicted_stage", "expected_stage", "probability_referable")
    ]
    rows += [{"what": f"probability_stage{stage}", "value": float(eye[f"probability_stage{stage}"])} for stage in range(5)]
    for index, quantity in enumerate(settings["quantities"]):
        change = float(arrays["pixels/outcome"][0, index] - arrays["pixels/baseline_outcome"][0, index])
        gap = float(arrays["pixels/gap"][0, index])
        rows.append({"what": f"{quantity}: F(x) − F(x'), gap", "value": f"{change:.4f}, {gap:.2g}"})
    return rows, picture
