"""Which images a step works on: those with a usable fundus, and the chosen ones among them."""

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
