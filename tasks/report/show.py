"""One eye's numbers and figures, for `dr show`."""

import pathlib
from typing import Any

import pandas as pd

from dr_lib.drawing.figures import png
from dr_lib.report.entry import EyeEntry
from dr_lib.report.eyes import eye_sheet
from storage import Workspace
from storage.photos.sources import PhotoSource
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
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws one explained eye of the explanation made last, and lists its numbers.

    Parameters
    ----------
    picture: the PNG file to write.
    photos: the data folder of the eye's source, for the photograph itself; empty to leave it out.
    compare: the two outcomes of Fig (b).

    Returns
    -------
    Rows of name and value, and rows a neuron.

    Raises
    ------
    UserError: the eye or an outcome is not explained, or the file cannot be written.
    """
    opened = Photos(workspace, source_of(workspace, image_id, photos)) if photos else None
    explained = Explained(workspace, "latest", opened)
    known = explained.store.image_ids
    if image_id not in known:
        there = f"{len(known)} images are, such as {known[0]}" if known else "no image is"
        raise UserError(f"{image_id} is not explained in {workspace.location}; {there}")
    quantities = explained.record.quantities
    if unknown := [name for name in compare if name not in quantities]:
        raise UserError(f"{unknown[0]} is not explained there; what is: {', '.join(quantities)}")
    eyes = explained_eyes(workspace, explained.record.model_id, known)
    row = known.index(image_id)
    eye = eyes.iloc[row]
    if pd.isna(eye["predicted_stage"]):
        raise UserError(
            f"{image_id} has no prediction any more: its photograph was replaced by one that cannot"
            " be graded"
        )
    entry = explained.entry(eye, row)
    try:
        picture.write_bytes(png(eye_sheet(entry, compare)))
    except OSError as error:
        raise UserError(f"{picture} cannot be written: {error.strerror}") from None
    return _numbers(eye, entry), _neurons(entry)


def source_of(workspace: Workspace, image_id: str, photos: str) -> PhotoSource:
    """The data folder as the source that the eye is from; its name stands before the paths in the
    catalogue where there were several.
    """
    rows = workspace.photos()
    paths = rows.loc[rows["image_id"] == image_id, ["source", "path"]].dropna()
    prefixes = [f"{name}/" for name, path in paths.to_numpy() if path.startswith(f"{name}/")]
    return PhotoSource(Source(photos), prefixes[0] if "/" in image_id and prefixes else "")


def _numbers(eye: pd.Series, entry: EyeEntry) -> list[dict[str, Any]]:
    names = ("split", "stage", "predicted_stage", "expected_stage", "probability_referable")
    values = {name: eye[name] for name in names}
    values |= {f"probability_stage{stage}": p for stage, p in enumerate(entry.probabilities)}
    for outcome in entry.outcomes:
        within = "" if outcome.converged else ", above tolerance"
        text = f"{outcome.change:.4f}, {outcome.gap:.2g}{within}"
        values[f"{outcome.quantity}: F(x) − F(x'), gap"] = text
    return [{"what": name, "value": value} for name, value in values.items()]


def _neurons(entry: EyeEntry) -> list[dict[str, Any]]:
    return [
        {
            "layer": layer.layer,
            "sign": neuron.sign,
            "rank": neuron.rank,
            "neuron": ", ".join(map(str, neuron.neuron)),
            "attribution": neuron.attribution,
            "activation": neuron.activation,
            "at the baseline": neuron.baseline_activation,
        }
        for layer in entry.layers
        for neuron in layer.neurons
    ]
