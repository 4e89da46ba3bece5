"""Who is flagged: the quality of every preprocessed photograph as a table, and as a stratum of the
evaluation.

The table is made from the arrays of the fundus store; a flag is a score below
`preprocess.quality_threshold`, which decides no pixel and may therefore change without a new
preprocessing.
"""

import numpy as np
import pandas as pd

from dr_lib.fundus.quality import FAULTS, score_parts
from storage import Workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.fundus import DONE
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.stores import fundus_store, span_digests
from tasks.run.recipe import Recipe
from tasks.run.table_part import TablePart

TABLE = "quality"
GOOD, FLAGGED = "quality=good", "quality=flagged"
# Columns whose array has another name.
ARRAYS = {
    "score": "quality",
    "diameter_px": "diameter",
    "centre_y_px": "centre_y",
    "centre_x_px": "centre_x",
}
COLUMNS = [name for name in SCHEMAS[TABLE].names if name not in ("image_id", "source", "flagged")]


def write_quality(workspace: Workspace, recipe: Recipe) -> bool:
    """Writes the parts of the table `quality` that are missing or out of date, one a fundus
    shard; returns whether any was.
    """
    store = fundus_store(workspace, recipe.preprocess_id)
    threshold, image_ids = recipe.preprocess.quality_threshold, store.image_ids
    made_from, written = span_digests(store), False
    for span in store.spans():
        digest = content_id({"shard": made_from.get(span.index), "threshold": threshold})
        part = TablePart(workspace, recipe.preprocess_id, span.part, digest)
        if part.missing(TABLE):
            part.write(TABLE, _rows(store, span, image_ids[span.rows], threshold))
            written = True
    return written


def _rows(store: ShardedStore, span: Span, image_ids: list[str], threshold: float) -> pd.DataFrame:
    there = {spec.path for spec in store.specs}  # an older store may lack the aspect
    names = {name: ARRAYS.get(name, name) for name in COLUMNS}
    arrays = store.read(span, ["status", *(path for path in names.values() if path in there)])
    rows = pd.DataFrame(
        {"image_id": image_ids, **{name: arrays.get(path, np.nan) for name, path in names.items()}}
    )
    rows["flagged"] = rows["score"] < threshold
    return rows[arrays["status"] == DONE]


def eye_quality(workspace: Workspace, recipe: Recipe) -> pd.DataFrame:
    """The rows of the table `quality` for this preprocessing, brought up to date, in the
    catalogue's order.
    """
    write_quality(workspace, recipe)
    return workspace.frame(TABLE, preprocess_id=recipe.preprocess_id)


def strata(workspace: Workspace, recipe: Recipe, image_ids: pd.Series) -> pd.Series:
    """The stratum of each image's quality, as the table `evaluation` names it: quality=good or
    quality=flagged.
    """
    eyes = eye_quality(workspace, recipe)
    return image_ids.isin(eyes.loc[eyes["flagged"], "image_id"]).map({False: GOOD, True: FLAGGED})


def shortcomings(quality: pd.DataFrame) -> pd.DataFrame:
    """What lowers each eye's score most: columns fault (in words), measure, value and usual (the
    median of unflagged eyes).

    quality: rows of the table `quality`; the result has the same index.
    """
    parts = pd.DataFrame(
        score_parts({name: quality[name].to_numpy(np.float64) for name in COLUMNS}),
        index=quality.index,
    )
    usual = quality[~quality["flagged"]] if not quality["flagged"].all() else quality
    measure = (parts - parts.loc[usual.index].median()).idxmin(axis="columns")
    return pd.DataFrame(
        {
            "fault": measure.map(FAULTS),
            "measure": measure,
            "value": [quality.at[row, name] for row, name in measure.items()],
            "usual": measure.map(usual[list(parts.columns)].median()),
        },
        index=quality.index,
    )
