"""How today's labels differ from those a model learned from (`models/<model_id>/labels.parquet`).

A model is kept when labels are corrected, since it may have taken days: so that has to be said.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.contents.models import load_labels, load_record

if TYPE_CHECKING:
    import pandas as pd

    from storage.workspace import Workspace

COLUMNS = ["image_id", "stage", "split"]
LEARNED = ("train", "validation")  # the best weights are chosen on validation eyes
RETRAIN = "train one that learns from today's with --set training.on_new_data=retrain"


@dataclass(frozen=True)
class LabelChanges:
    """How the labels of today differ from those that a model learned from, in eyes.

    moved: to another split. tested: those that are test eyes now. removed: the label, or its
    photograph. of: the labels it learned from and the new ones.
    """

    corrected: int
    moved: int
    tested: int
    removed: int
    new: int
    of: int

    @property
    def total(self) -> int:
        return self.corrected + self.moved + self.removed + self.new

    def __str__(self) -> str:
        """
        >>> str(LabelChanges(corrected=9, moved=0, tested=0, removed=0, new=0, of=40))
        '9 of 40 labels differ from those the model learned from (9 corrected)'
        """
        kinds = {
            "corrected": self.corrected,
            "in another split": self.moved,
            "removed": self.removed,
            "new": self.new,
        }
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        told += (
            f"; {self.tested:,} of them now test{'s' * (self.tested == 1)} it"
            if self.tested
            else ""
        )
        return (
            f"{self.total:,} of {self.of:,} labels differ from those the model learned from"
            f" ({told})"
        )


def learned_from(labelled: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of labelled eyes that decide a model trained on them, as they are kept beside it."""
    return labelled.loc[labelled["split"].isin(LEARNED), COLUMNS].reset_index(drop=True)


def label_changes(ws: "Workspace", model_id: str) -> LabelChanges | None:
    """How today's labels differ from those a model learned from; None where none does.

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
    changes = LabelChanges(
        corrected=int(corrected.sum()),
        moved=int(moved.sum()),
        tested=int((both["split_today"] == "test").sum()),
        removed=len(learned) - len(both),
        new=new,
        of=len(learned) + new,
    )
    return changes if changes.total else None
