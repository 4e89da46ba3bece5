"""How today's labels differ from those a model learned from (`models/<model_id>/labels.parquet`).

A model is kept when labels are corrected, since it may have taken days: so that has to be said.
"""

from typing import TYPE_CHECKING

from storage.contents.models import load_labels, load_record
from storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ["image_id", "stage", "split"]
LEARNED = ("train", "validation")  # the best weights are chosen on validation eyes
RETRAIN = "train one that learns from today's with --set training.on_new_data=retrain"


def learned_from(labelled: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of labelled eyes that decide a model trained on them, as they are kept beside it."""
    return labelled.loc[labelled["split"].isin(LEARNED), COLUMNS].reset_index(drop=True)


def label_changes(ws: Workspace, model_id: str) -> str | None:
    """How many of today's labels differ from those a model learned from, and how, in words; None
    where none does.

    None too for a model whose labels are not known: it was imported, or trained by a version that
    did not keep them. An eye counts as new only if it has a fundus good enough to learn from.
    """
    learned = load_labels(ws.files, model_id)
    if learned is None:
        return None
    learned, record, photos = (
        learned.set_index("image_id"),
        load_record(ws.files, model_id),
        ws.photos(),
    )
    today = photos[photos["present"] & photos["stage"].notna()].set_index("image_id")
    both = learned.join(today[["stage", "split"]].add_suffix("_today"), how="inner")
    corrected = (both["stage_today"] != both["stage"]).astype(bool)
    moved = (both["split_today"] != both["split"]) & ~corrected
    quality = ws.frame("quality", preprocess_id=record.preprocess_id)
    learnable = quality.loc[~(quality["score"] < (record.least_quality or 0.0)), "image_id"]
    candidates = today.index[today["split"].isin(LEARNED) & today.index.isin(learnable)]
    new = len(candidates.difference(learned.index))
    kinds = {
        "corrected": int(corrected.sum()),
        "in another split": int(moved.sum()),
        "removed": len(learned) - len(both),
        "new": new,
    }
    if not (total := sum(kinds.values())):
        return None
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    if tested := int((both["split_today"] == "test").sum()):
        told += f"; {tested:,} of them now test{'s' * (tested == 1)} it"
    return (
        f"{total:,} of {len(learned) + new:,} labels differ from those the model learned from"
        f" ({told})"
    )
