"""The lesion masks of photographs, as the steps that judge maps by them read them."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.localisation import LesionMasks, LocalisationParams, lesion_masks
from dr_lib.localisation.masks import Planes, annotated_planes, colour_planes, merged, type_plane
from storage import Workspace
from storage.files.files import is_url
from storage.photos.masks import (
    NOT_TRIED,
    MaskFile,
    MaskIndex,
    annotations,
    find_masks,
    joined,
    masks_inside,
)
from storage.photos.types import Problem, Source
from tasks.access.sources import source_names
from tasks.run.errors import UserError


def masks_of(
    workspace: Workspace, sources: Sequence[Source], params: LocalisationParams
) -> MaskIndex | None:
    """The masks of the catalogue's photographs, each source's at its own place, or None where no
    place of masks is known.

    Raises
    ------
    UserError
        For a place that was named and is not there.
    """
    photos = workspace.photos()
    homes = source_names(photos["source"])
    places: dict[pathlib.Path, dict[str, str]] = {}
    for source in sources:
        if location := masks_location(source, params):
            own = photos[homes == source.name]
            paths = dict(zip(own["image_id"], own["path"], strict=True))
            places.setdefault(location, {}).update(paths)
    indexes = [find_masks(location, paths) for location, paths in places.items()]
    return joined(indexes) if indexes else None


def masks_location(source: Source, params: LocalisationParams) -> pathlib.Path | None:
    """Where a source's masks lie: what its `masks` or `localisation.masks` names, or the folder of
    masks among its photographs.

    Raises
    ------
    UserError
        For a place that was named and is not there.
    """
    setting = f"masks of the source {source.name}" if source.masks else "localisation.masks"
    if given := source.masks or params.masks:
        named = pathlib.Path(os.path.expanduser(given))
        if not named.exists():
            raise UserError(
                f"{setting} = {given}: no such folder or file; give the folder of the masks or a"
                " COCO annotation file, or leave it out"
            )
        return named
    return None if is_url(source.photos) else masks_inside(pathlib.Path(source.photos))


def note_unused(workspace: Workspace, index: MaskIndex, unusable: Sequence[Problem] | None) -> None:
    """Writes the table `unused_masks`.

    unusable: masks that could not be laid on their photographs; None where none was tried in this
    run, so that those noted before stay.
    """
    found = dict.fromkeys(index.unused)  # of an annotation file's many, one a photograph and type
    rows = pd.DataFrame([*found, *(unusable or ())], columns=list(Problem._fields), dtype=object)
    if unusable is None:
        before = workspace.frame("unused_masks")
        rows = pd.concat([rows, before[~before["reason"].isin(NOT_TRIED)].drop(columns="source")])
    workspace.write_table("unused_masks", rows)


def with_masks(eyes: pd.DataFrame, index: MaskIndex | None) -> pd.DataFrame:
    """The eyes with two more columns: `files`, their mask files, and `mask`, what changes with
    these (empty: no mask).
    """
    names = eyes["image_id"]
    return eyes.assign(
        mask=[index.stamp(name) if index else "" for name in names],
        files=[index.files.get(name, ()) if index else () for name in names],
    )


def read_planes(files: Sequence[MaskFile]) -> Planes:
    """A photograph's planes, from all of its mask files.

    Raises
    ------
    UnusableMask
        For a file that is no mask.
    OSError
        For one that cannot be read: a permission or a cable mends without the file changing, and
        nobody would judge the eye again.
    """
    return merged(_planes(file) for file in files)


def _planes(file: MaskFile) -> Planes:
    if file.image is not None:
        shape, outlines = annotations(file.path, file.image)
        return annotated_planes(outlines, shape)
    content = pathlib.Path(file.path).read_bytes()
    return {file.lesion: type_plane(content)} if file.lesion else colour_planes(content)


def eye_masks(
    files: Sequence[MaskFile],
    eye: Mapping[str, Any],
    disc: Disc,
    pixels: np.ndarray,
    preprocess: PreprocessParams,
) -> LesionMasks:
    """An eye's lesions in its fundus (`pixels`). `eye`: its photograph's `height_px`, `width_px`.

    Raises
    ------
    UnusableMask
        Where one of its masks cannot be read or laid on its photograph.
    """
    shape = (int(eye["height_px"]), int(eye["width_px"]))
    return lesion_masks(read_planes(files), disc, shape, pixels, preprocess)
