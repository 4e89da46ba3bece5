"""Which images a step works on: those with a usable fundus, the chosen ones among them, and those
still in the data folder, since no grade rests on a photograph that is gone.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from storage import Workspace
from storage.contents.fundus import DONE
from tasks.access.stores import fundus_store, whole
from tasks.run.settings import AttributionSelection


def usable_rows(workspace: Workspace, preprocess_id: str, least_quality: float = 0.0) -> np.ndarray:
    """Positions of the photographs that have a fundus of no lower quality score, ascending; also
    of those no longer in the data folder.
    """
    store = fundus_store(workspace, preprocess_id)
    return np.flatnonzero(
        (whole(store, "status") == DONE) & ~(whole(store, "quality") < least_quality)
    )


def chosen_images(photos: pd.DataFrame, selection: AttributionSelection) -> pd.DataFrame:
    """The photographs to explain, in the catalogue's order; with a limit, the stages take turns
    until it is reached.
    """
    if selection.split != "all":
        photos = photos[photos["split"] == selection.split]
    if not selection.limit or len(photos) <= selection.limit:
        return photos
    turn = photos.groupby("stage", dropna=False).cumcount()
    taken = turn.sort_values(kind="stable").index[: selection.limit]
    return photos.loc[taken].sort_values("position")


def predictions_here(
    workspace: Workspace, model_id: str, table: str = "predictions"
) -> pd.DataFrame:
    """A model's rows in a table of predictions, of all eyes but those whose photograph is gone."""
    frame = workspace.frame(table, model_id=model_id)
    return frame[~frame["image_id"].isin(gone(workspace))].reset_index(drop=True)


def gone(workspace: Workspace) -> set[str]:
    """The ids of the photographs that were there once and are no longer."""
    photos = workspace.photos()
    return set(photos.loc[~photos["present"], "image_id"])


def gone_words(workspace: Workspace, image_ids: Iterable[str]) -> str:
    """How many of these eyes' photographs are gone, as the end of a sentence; empty for none."""
    count = len(gone(workspace) & set(image_ids))
    return f", {count:,} of them no longer in the data folder" if count else ""
