"""Are the highlighted places lesions? The judgements of all explained eyes with lesion masks, as
rows of `evaluation` under the stratum "masks".
"""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from dr_lib.fundus import PreprocessParams
from dr_lib.localisation import LocalisationParams, score_rows
from storage import Workspace
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.map_scores import STRATUM, pixel_aucs
from tasks.access.stores import as_text, crop_settings
from tasks.aggregate.shard import JudgedEye
from tasks.run.resolved_ids import ResolvedIds

EVALUATION = "evaluation"
EYE = [
    *("image_id", "patient_id", "split", "position", "width_px", "height_px"),
    *("predicted_stage", "mask"),
]


def judgement_digest(
    made_from: Mapping[int, str],
    eyes: pd.DataFrame,
    params: LocalisationParams,
    preprocess: PreprocessParams,
) -> str:
    """The digest of what judgements are made from: the shards, the eyes and their masks, and how
    maps are judged.
    """
    how = dataclasses.asdict(params) | crop_settings(preprocess)
    return content_id({"shards": made_from, "eyes": as_text(eyes[EYE]), "how": how})


def write_judgements(
    workspace: Workspace,
    ids: ResolvedIds,
    judged: Sequence[JudgedEye],
    params: LocalisationParams,
    part: str,
    digest: str,
) -> None:
    """Writes a row for each split, map, lesion type and measure."""
    rows = []
    for split in sorted({eye.split for eye in judged}):
        eyes = [eye for eye in judged if eye.split == split]
        for source, quantity in dict.fromkeys(name for eye in eyes for name in eye.scores):
            with_map = [eye for eye in eyes if (source, quantity) in eye.scores]
            about = {
                "split": split,
                "stratum": STRATUM,
                "explain_id": ids.explain_id,
                "source": source,
                "quantity": quantity,
            }
            rows += [
                about | row
                for row in score_rows(
                    [eye.scores[source, quantity] for eye in with_map],
                    [eye.patient_id for eye in with_map],
                    params,
                )
            ]
    frame = pd.DataFrame(rows).reindex(columns=SCHEMAS[EVALUATION].names)
    workspace.write_table(EVALUATION, frame, partition=ids.model_id, part=part, digest=digest)


def in_words(workspace: Workspace, ids: ResolvedIds) -> str:
    """The best map by pixel AUC, baseline maps among them, as the end of a sentence."""
    rows = pixel_aucs(workspace, ids.model_id, ids.explain_id)
    if rows.empty:
        return "no explained eye has a lesion in its mask"
    best = rows.iloc[0]
    return (
        f"lesions in {int(best['images'])} masks: best map {best['map']}, "
        f"pixel AUC {best['value']:.3f} ({best['low']:.3f}–{best['high']:.3f})"
    )
