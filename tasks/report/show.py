"""One eye's numbers and figures, and sheets of many eyes for readers: for `dr show`."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dr_lib.drawing.figures import png
from dr_lib.report import render_words
from dr_lib.report.entry import EyeEntry
from dr_lib.report.eyes import eye_sheet
from dr_lib.report.reader import reader_sheet, write_pdf
from storage import Workspace
from storage.admin.catalog import query
from storage.photos.sources import PhotoSource
from storage.photos.types import Source
from tasks.access.contact_sheets import Photos
from tasks.access.explained import explained_eyes
from tasks.report.eyes import LESION, Explained
from tasks.run.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGIONS_SHOWN = 8


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
    explained = Explained(workspace, "latest")
    quantities = explained.record.quantities
    if unknown := [name for name in compare if name not in quantities]:
        raise UserError(f"{unknown[0]} is not explained there; what is: {', '.join(quantities)}")
    ((eye, entry),) = _entries(explained, [image_id], photos)
    try:
        picture.write_bytes(png(eye_sheet(entry, compare)))
    except OSError as error:
        raise UserError(f"{picture} cannot be written: {error.strerror}") from None
    return _numbers(eye, entry), _neurons(entry)


def show_sheets(
    workspace: Workspace, image_ids: Sequence[str], file: pathlib.Path, *, where: str, photos: str
) -> int:
    """Draws explained eyes as pages of one PDF; returns how many.

    Parameters
    ----------
    image_ids: the eyes, or none where `where` chooses them.
    file: the PDF to write.
    where: a condition on the columns of `predictions`, in SQL.
    photos: as for `show_image`.

    Raises
    ------
    UserError: as `show_image`, or no eye is chosen.
    """
    explained = Explained(workspace, "latest")
    if not image_ids:
        of_model = f"from predictions where model_id = '{explained.record.model_id}'"
        graded = query(workspace, f"select image_id {of_model} and ({where})")["image_id"]
        image_ids = [name for name in explained.store.image_ids if name in {*graded}]
        if not image_ids:
            raise UserError(f"no explained eye fulfils {where}")
    try:
        write_pdf(
            file, (_sheet(explained, eye) for _, eye in _entries(explained, image_ids, photos))
        )
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
    return len(image_ids)


def _sheet(explained: Explained, entry: EyeEntry) -> "Figure":
    """The sheet of an eye, with the regions of its lesion map, or else of its first quantity's."""
    maps = explained.maps([explained.store.image_ids.index(entry.image_id)])
    (source, _), values = (LESION, maps[LESION]) if LESION in maps else next(iter(maps.items()))
    regions = explained.rows(
        "lesion_regions", image_id=entry.image_id, source=source, sign="positive"
    )
    regions = regions.sort_values("region")[:REGIONS_SHOWN]
    words = render_words(
        "reader", eye=entry, record=explained.record, source=source, regions=regions
    )
    return reader_sheet(entry, values[0], regions, words)


def _entries(
    explained: Explained, image_ids: Sequence[str], photos: str
) -> Iterator[tuple[pd.Series, EyeEntry]]:
    """Each of the eyes as its row of `explained_eyes` and all that is shown of it. photos: the data
    folder of their source, for the photographs; empty to leave them out.
    """
    workspace, known = explained.workspace, explained.store.image_ids
    if unknown := [name for name in image_ids if name not in known]:
        there = f"{len(known)} images are, such as {known[0]}" if known else "no image is"
        raise UserError(f"{unknown[0]} is not explained in {workspace.location}; {there}")
    eyes = explained_eyes(workspace, explained.record.model_id, known)
    rows = [known.index(name) for name in image_ids]
    ungraded = eyes["image_id"].iloc[rows][eyes["predicted_stage"].iloc[rows].isna()]
    for name in ungraded:
        raise UserError(
            f"{name} has no prediction any more: its photograph was replaced by one that cannot be"
            " graded"
        )
    for row, name in zip(rows, image_ids, strict=True):
        if photos:
            explained.photos = Photos(workspace, source_of(workspace, name, photos))
        yield eyes.iloc[row], explained.entry(eyes.iloc[row], row)


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
