"""Do the maps deserve belief? A sample of the explained eyes is audited; the measures are rows of
`evaluation` under the stratum "audit".

What an eye's audit found is kept beside the explanation as soon as it is there: a run that is
killed repeats an eye, and another sample audits only the eyes that are new to it.
"""

import dataclasses
import functools
import zlib

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.formatting import counted
from dr_lib.localisation import LocalisationParams, Score
from dr_lib.localisation.audit import AuditParams
from storage.ids import content_id
from storage.layout import explanation_path
from tasks.access.explained import explained_eyes, explained_rows, map_paths, maps_of
from tasks.access.map_scores import AUDIT
from tasks.access.stores import crop_of, explanation_store, fundus_store, stored_digests, whole
from tasks.aggregate.lesion_study import LesionJob, in_waves
from tasks.aggregate.localise import EVALUATION, judgement_rows
from tasks.aggregate.shard import JudgedEye
from tasks.execution.worker import auditor
from tasks.run.recipe import Recipe
from tasks.run.session import Session
from tasks.run.table_part import TablePart

EYES_PER_JOB = 4
VERSION = 1  # of what is measured: raise it where a measure changes
GROUP = ["predicted_stage", "right"]


def audit(session: Session, recipe: Recipe, params: AuditParams) -> str:
    """Audits the eyes of the sample that have not been, and writes the measures of all; returns on
    how many eyes, in a few words.
    """
    workspace, ids = session.workspace, recipe.resolve(session.workspace)
    store = explanation_store(workspace, ids.explain_id)
    eyes = explained_eyes(workspace, ids.model_id, store.image_ids).assign(row=range(store.images))
    eyes = sample(eyes.iloc[explained_rows(whole(store, "pixels/status"), eyes)], params.eyes)
    if eyes.empty:
        return ""
    stored, per_eye = stored_digests(store), dataclasses.replace(params, eyes=0, resamples=1)
    how = VERSION, dataclasses.asdict(per_eye)
    eyes["file"] = [
        explanation_path(
            ids.explain_id, f"{AUDIT}/{content_id(name, stage, stored[name], how)}.json"
        )
        for name, stage in zip(eyes["image_id"], eyes["predicted_stage"].tolist(), strict=True)
    ]
    made_from = eyes[["file", "patient_id", "split"]].to_numpy().tolist(), params.resamples
    name = f"{AUDIT}-{ids.explain_id}"
    part = TablePart(workspace, ids.model_id, name, content_id(made_from))
    if part.missing(EVALUATION):
        to_do = eyes[[workspace.files.read_json(file) is None for file in eyes["file"]]]
        work = functools.partial(audit_eyes, recipe.attribution, per_eye)
        starts = range(0, len(to_do), EYES_PER_JOB)
        parts = [to_do.iloc[start : start + EYES_PER_JOB] for start in starts]
        in_waves(session.network, AUDIT, work, LesionJob(ids, to_do, recipe.preprocess), parts)
        judged = []
        for eye in eyes.itertuples():
            scores: dict[tuple[str, str | None], dict[tuple[str, str], Score]] = {}
            for source, metric, *numbers in workspace.files.read_json(eye.file):
                of_map = scores.setdefault(
                    (source, "predicted" if source == "pixels" else None), {}
                )
                of_map["", metric] = Score(*np.array(numbers, float))  # None becomes NaN
            judged.append(JudgedEye(eye.split, eye.patient_id, scores))
        settings = LocalisationParams(resamples=params.resamples)
        rows = judgement_rows(judged, ids.explain_id, settings, AUDIT)
        part.write(EVALUATION, rows.assign(lesion=None))
    return f"maps audited on {counted(len(eyes), 'eye')}"


def sample(eyes: pd.DataFrame, count: int) -> pd.DataFrame:
    """The eyes to audit, of the split with most eyes that no model learnt from: predicted stages,
    graded right and wrong, take turns. New eyes take few places of those there were.
    """
    held_out = eyes[eyes["split"] != "train"]
    eyes = held_out if len(held_out) else eyes
    eyes = eyes[eyes["split"].isin(eyes["split"].mode()[:1])]
    lot = [zlib.crc32(name.encode()) for name in eyes["image_id"]]
    eyes = eyes.assign(right=eyes["stage"] == eyes["predicted_stage"], lot=lot).sort_values("lot")
    turn = eyes.groupby(GROUP).cumcount()
    return eyes.assign(turn=turn).sort_values(["turn", *GROUP]).head(count).sort_values("row")


def audit_eyes(explained: AttributionParams, params: AuditParams, job: LesionJob) -> None:
    """Runs on a worker: audits some eyes, and keeps what was found of each."""
    workspace, ids = job.ids.workspace, job.ids
    fundi = fundus_store(workspace, ids.preprocess_id)
    pixels = fundi.read_rows(job.eyes["position"].to_numpy(), ["pixels"])["pixels"]
    store = explanation_store(workspace, ids.explain_id)
    arrays = store.read_rows(job.eyes["row"].to_numpy(), map_paths(explained))
    tests = auditor(ids.location, ids.model_id, params, crop_of(fundi))
    for row, eye in enumerate(job.eyes.itertuples()):
        stage = int(eye.predicted_stage)
        # On pixels the predicted stage's map, of a layer that of its positive neurons.
        maps = {
            source: values[0] if values.ndim == 3 else values
            for (source, quantity), values in maps_of(arrays, row, stage, explained).items()
            if source != "pixels" or quantity == f"stage{stage}"
        }
        scores = tests.audit(pixels[row], stage, maps)
        found = [(*name, *score) for name, score in scores.items()]
        workspace.files.write_json(eye.file, found)
