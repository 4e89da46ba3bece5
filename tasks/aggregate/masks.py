"""Lesion masks of explained eyes: where their files lie, and which pixels of a fundus they mark."""

import os
import pathlib
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.localisation import LesionMasks, LocalisationParams, UnusableMask, lesion_masks
from storage.files.files import is_url
from tasks.run.errors import UserError

GEOMETRY = ("centre_y", "centre_x", "diameter")


def masks_folder(photos: str, params: LocalisationParams) -> pathlib.Path | None:
    """The folder of the masks, or None where there is none.

    Raises
    ------
    UserError
        For a folder that was named and is not there.
    """
    if params.masks:
        named = pathlib.Path(os.path.expanduser(params.masks))
        if not named.is_dir():
            raise UserError(
                f"localisation.masks = {params.masks}: no such folder; give the folder of <image"
                " id>.png, or leave it out"
            )
        return named
    beside = None if is_url(photos) else pathlib.Path(photos) / "masks"
    return beside if beside is not None and beside.is_dir() else None


def mask_stamps(folder: pathlib.Path | None, image_ids: pd.Series) -> list[str]:
    """Size and time of each photograph's mask file, as text; empty where there is none."""

    def stamp(image_id: str) -> str:
        path = folder / f"{image_id}.png" if folder else None
        if path is None or not path.is_file():
            return ""
        return f"{path.stat().st_size}:{path.stat().st_mtime_ns}"

    return [stamp(image_id) for image_id in image_ids]


def read_mask(folder: str, image_id: str) -> np.ndarray:
    """A photograph's mask, (h, w, 3) uint8 RGB.

    Raises
    ------
    UnusableMask
        For a file that cannot be decoded.
    OSError
        For one that cannot be read: a permission or a cable mends without the file changing, and
        nobody would judge the eye again.
    """
    content = (pathlib.Path(folder) / f"{image_id}.png").read_bytes()
    mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if mask is None:
        raise UnusableMask("unreadable", "the file is no image that can be decoded")
    return np.ascontiguousarray(mask[..., ::-1])


def masks_of(
    folder: str, eye: Any, fundi: dict[str, np.ndarray], row: int, preprocess: PreprocessParams
) -> LesionMasks:
    """An eye's lesions in its fundus.

    Parameters
    ----------
    folder : of the masks
    eye : its row, with image_id, height_px and width_px of the photograph
    fundi : "pixels" and `GEOMETRY` of some fundi, of which the eye's is `row`

    Raises
    ------
    UnusableMask, OSError
        As `read_mask` does; UnusableMask also for a mask of another shape than the photograph.
    """
    y, x, diameter = (float(fundi[name][row]) for name in GEOMETRY)
    return lesion_masks(
        read_mask(folder, eye["image_id"]),
        Disc(y, x, diameter),
        (int(eye["height_px"]), int(eye["width_px"])),
        fundi["pixels"][row],
        preprocess,
    )
