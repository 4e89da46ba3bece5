"""One eye's numbers and figures, for `dr show`."""

import pathlib
from typing import Any

import pandas as pd

from dr_lib.drawing.figures import png
from dr_lib.report import EyeEntry, eye_sheet
from storage import Workspace
from storage.photos.types import Source
from tasks.access.contact_sheets import Photos
from tasks.access.explained import explained_eyes
from tasks.report.eyes import Explained
from tasks.run.errors import UserError


def show_image(
    workspace: Workspace,
    image_id: str,
    picture: pathlib.Path,
    *,
    photos: str = "",
    compare: tuple[str, str] = ("stage0", "stage4"),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], pathlib.Path]:
    """(rows of name and value, rows a neuron, the written PNG) of one explained eye, from the
    explanation made last.

    photos: the data folder, for the photograph itself. compare: the two outcomes of Fig (b). Raises
    UserError.
    """
    explained = Explained(
        workspace, "latest", Photos(workspace, [Source(photos=photos)]) if photos else None
    )
    known = explained.store.image_ids
    if image_id not in known:
        there = f"{len(known)} images are, such as {known[0]}" if known else "no image is"
        raise UserError(f"{image_id} is not explained in {workspace.location}; {there}")
    if unknown := [name for name in compare if name not in explained.quantities]:
        raise UserError(
            f"{unknown[0]} is not explained there; what is: {', '.join(explained.quantities)}"
        )
    eyes = explained_eyes(workspace, explained.record["model_id"], known)
    row = known.index(image_id)
    eye = eyes.iloc[row]
    if pd.isna(eye["predicted_stage"]):
        raise UserError(
            f"{image_id} has no prediction any more: its photograph was replaced by one that cannot"
            " be graded"
        )
    entry = explained.entry(eyes, row)
    try:
        picture.write_bytes(png(eye_sheet(entry, compare)))
    except OSError as error:
        raise UserError(f"{picture} cannot be written: {error.strerror}") from None
    return _numbers(eye, entry), _neurons(entry), picture


def _numbers(eye: pd.Series, entry: EyeEntry) -> list[dict[str, Any]]:
    graded = ("split", "stage", "predicted_stage", "expected_stage", "probability_referable")
    rows = [{"what": name, "value": eye[name]} for name in graded]
    rows += [
        {"what": f"probability_stage{stage}", "value": value}
        for stage, value in enumerate(entry.probabilities)
    ]
    for one in entry.outcomes:
        if one.outcome is None or one.baseline_outcome is None:
            continue
        change = one.outcome - one.baseline_outcome
        within = "" if one.converged else ", above tolerance"
        rows.append(
            {
                "what": f"{one.quantity}: F(x) − F(x'), gap",
                "value": f"{change:.4f}, {one.gap:.2g}{within}",
            }
        )
    return rows


def _neurons(entry: EyeEntry) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.layer,
            "sign": one.sign,
            "rank": one.rank,
            "neuron": ", ".join(map(str, one.neuron)),
            "attribution": one.attribution,
            "activation": one.activation,
            "at the baseline": one.baseline_activation,
        }
        for layer in entry.layers
        for one in layer.neurons
    ]
