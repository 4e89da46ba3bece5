"""Are the highlighted places lesions? The judgements of all explained eyes with lesion masks, as
rows of `evaluation` under the stratum "masks".
"""

from collections.abc import Sequence

import pandas as pd

from dr_lib.formatting import with_interval
from dr_lib.localisation import LocalisationParams, score_rows
from storage import Workspace
from storage.photos.masks import MaskIndex
from storage.photos.types import Problem
from storage.tables.schemas import SCHEMAS
from tasks.access.map_scores import STRATUM, pixel_aucs
from tasks.aggregate.shard import JudgedEye
from tasks.run.resolved_ids import ResolvedIds

EVALUATION = "evaluation"
PROBLEMS_NAMED = 3
# What judgements are made from, of each eye.
EYE = [
    *("image_id", "patient_id", "split", "position", "width_px", "height_px"),
    *("predicted_stage", "mask"),
]


def judgement_rows(
    judged: Sequence[JudgedEye],
    explain_id: str,
    params: LocalisationParams,
    stratum: str = STRATUM,
) -> pd.DataFrame:
    """A row of `evaluation` for each split, map, lesion type and measure."""
    rows = []
    for split in sorted({eye.split for eye in judged}):
        eyes = [eye for eye in judged if eye.split == split]
        for source, quantity in dict.fromkeys(name for eye in eyes for name in eye.scores):
            with_map = [eye for eye in eyes if (source, quantity) in eye.scores]
            scores = [eye.scores[source, quantity] for eye in with_map]
            place = {"split": split, "source": source, "quantity": quantity}
            rows += [
                place | row
                for row in score_rows(scores, [eye.patient_id for eye in with_map], params)
            ]
    frame = pd.DataFrame(rows).assign(stratum=stratum, explain_id=explain_id)
    return frame.reindex(columns=SCHEMAS[EVALUATION].names)


def set_aside_in_words(problems: Sequence[Problem]) -> str:
    """Which eyes' masks could not be used, and why; empty where all could."""
    if not problems:
        return ""
    more = f" and {len(problems) - PROBLEMS_NAMED} more" if len(problems) > PROBLEMS_NAMED else ""
    named = ", ".join(
        f"{one.image_id}: {one.reason}: {one.detail}" for one in problems[:PROBLEMS_NAMED]
    )
    return f"{len(problems)} eyes' lesion masks could not be used: {named}{more}"


def unknown_in_words(index: MaskIndex | None) -> str:
    """What lies among the masks and is not used; empty where all is."""
    words = []
    if index and index.unknown:
        kinds = ", ".join(f"{name} ({count})" for name, count in index.unknown.items())
        words.append(f"masks of types that are not known were left out: {kinds}")
    if index and index.strangers:
        words.append(f"{index.strangers} masks belong to no photograph here")
    return "; ".join([*words, "the table unused_masks names each"] if words else [])


def in_words(workspace: Workspace, ids: ResolvedIds) -> str:
    """The best map by pixel AUC, baseline maps among them, as the end of a sentence."""
    rows = pixel_aucs(workspace, ids.model_id, ids.explain_id)
    if rows.empty:
        return "no explained eye has a lesion in its mask"
    best = rows.iloc[0]
    return (
        f"lesions in {int(best['images'])} masks: best map {best['map']}, pixel AUC"
        f" {with_interval(*best[['value', 'low', 'high']])}"
    )
