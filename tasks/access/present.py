"""What is still in the data folder: no grade rests on a photograph that is gone."""

from collections.abc import Iterable

import pandas as pd

from storage import Workspace


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
