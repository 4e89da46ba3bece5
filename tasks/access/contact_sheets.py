"""What the contact sheets of the report and of Prefect's page show: some photographs of each
kind, read anew and small.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dr_lib.drawing.sheets import BeforeAfter, SetAside
from dr_lib.formatting import label
from dr_lib.fundus.photo import UnreadablePhoto, decode
from storage import Workspace
from storage.errors import StorageError
from storage.photos.labels import REASONS
from storage.photos.sources import PhotoSource, PhotoSources
from tasks.access.quality import eye_quality, shortcomings
from tasks.access.stores import fundus_store
from tasks.run.recipe import Recipe

SHOWN = 12  # of each kind that was used
SET_ASIDE_SHOWN = 20
PHOTO_DIAMETER_PX = 384


class Photos:
    """The original photographs, reduced; None where the file is gone or cannot be read any more.

    diameter_px: that a retina keeps at least, where the photograph has as much.
    """

    def __init__(
        self,
        workspace: Workspace,
        sources: PhotoSources | PhotoSource,
        diameter_px: int = PHOTO_DIAMETER_PX,
    ):
        self.catalogue = workspace.photos().set_index("image_id")
        self.sources, self.diameter_px = sources, diameter_px

    def get(self, image_id: str) -> np.ndarray | None:
        """The photograph of the catalogue with this id."""
        return self.reduced(self.catalogue.at[image_id, "path"])

    def reduced(self, path: str) -> np.ndarray | None:
        """The photograph at a path of the data folder."""
        try:
            return decode(
                self.sources.read(path), diameter_px=self.diameter_px, min_side_px=1
            ).pixels
        except (OSError, StorageError, UnreadablePhoto):
            return None


def samples(workspace: Workspace, recipe: Recipe, photos: Photos) -> tuple[BeforeAfter, ...]:
    """Preprocessed photographs, evenly taken from the catalogue: each with its disc, beside its
    fundus.
    """
    eyes = _here(eye_quality(workspace, recipe), photos)
    chosen = eyes.iloc[np.linspace(0, len(eyes) - 1, min(SHOWN, len(eyes))).astype(int)]
    notes = [
        (f"quality {score:.2f}" + (", flagged" if low else ""),)
        for score, low in zip(chosen["score"], chosen["flagged"], strict=True)
    ]
    return _pairs(workspace, recipe, photos, chosen, notes)


def flagged(workspace: Workspace, recipe: Recipe, photos: Photos) -> tuple[BeforeAfter, ...]:
    """The flagged photographs of the lowest quality, the worst first, each with what lowers its
    score most.
    """
    quality = eye_quality(workspace, recipe)
    chosen = _here(quality[quality["flagged"]], photos).sort_values("score", kind="stable")[:SHOWN]
    if chosen.empty:
        return ()
    faults = shortcomings(quality).loc[chosen.index]
    notes = [
        (
            f"score {score:.2f}: {row.fault}",
            f"{row.measure} {row.value:.2g}, usually {row.usual:.2g}",
        )
        for score, row in zip(chosen["score"], faults.itertuples(), strict=True)
    ]
    return _pairs(workspace, recipe, photos, chosen, notes)


def flagged_text(workspace: Workspace, recipe: Recipe) -> str:
    """How many eyes are flagged, and what becomes of them, in a sentence."""
    quality, threshold = eye_quality(workspace, recipe), recipe.preprocess.quality_threshold
    count = int(quality["flagged"].sum())
    fate = (
        "graded, but neither learnt from nor explained"
        if recipe.flagged == "exclude"
        else "kept: learnt from, graded and explained"
    )
    return f"{count:,} of {len(quality):,} eyes score below {threshold:g} and are flagged" + (
        f"; they are {fate}." if count else "."
    )


def set_aside(workspace: Workspace, photos: Photos) -> tuple[SetAside, ...]:
    """Photographs that could not be used, the reasons taking turns so that each is seen."""
    rejects = workspace.rejects()
    rejects = rejects[
        rejects["path"].notna() & ~rejects["reason"].isin(REASONS["about_labels_only"])
    ].fillna({"detail": ""})
    names = rejects["image_id"].fillna(rejects["path"])
    turn = rejects.groupby("reason").cumcount()
    chosen = rejects.assign(turn=turn, name=names).sort_values(["turn", "reason"], kind="stable")[
        :SET_ASIDE_SHOWN
    ]
    return tuple(
        SetAside(
            row.name,
            label(row.reason),
            row.detail,
            photos.reduced(row.path) if row.reason in REASONS["seen"] else None,
        )
        for row in chosen.itertuples()
    )


def _here(eyes: pd.DataFrame, photos: Photos) -> pd.DataFrame:
    """The eyes whose photograph is still in the data folder."""
    return eyes[eyes["image_id"].map(photos.catalogue["present"]).astype(bool)]


def _pairs(
    workspace: Workspace,
    recipe: Recipe,
    photos: Photos,
    eyes: pd.DataFrame,
    notes: Sequence[tuple[str, ...]],
) -> tuple[BeforeAfter, ...]:
    positions = photos.catalogue.loc[eyes["image_id"], "position"].to_numpy()
    fundi = fundus_store(workspace, recipe.preprocess_id).read_rows(positions, ["pixels"])["pixels"]
    pairs = []
    for eye, fundus, note in zip(eyes.itertuples(), fundi, notes, strict=True):
        photo = photos.get(eye.image_id)
        if photo is None:
            continue
        shrunk = photo.shape[1] / photos.catalogue.at[eye.image_id, "width_px"]
        y, x, wide = (
            shrunk * float(value) for value in (eye.centre_y_px, eye.centre_x_px, eye.diameter_px)
        )
        aspect = 1.0 if pd.isna(eye.aspect) else float(eye.aspect)
        pairs.append(BeforeAfter(eye.image_id, photo, fundus, note, (y, x, wide, aspect)))
    return tuple(pairs)
