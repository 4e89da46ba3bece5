"""The linearity study: adversarial strength grows, the units of some layers are watched (METHOD
§8).

Rows of a few eyes a Dask task; then every unit's verdict; then the constant and reversed units one
by one.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.linearity import LinearityParams, linearity_study, unit_verdicts
from dr_lib.network.model import scaled
from storage import Workspace
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.stores import crop_settings, explanation_store
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import classifier_outputs, fundi
from tasks.linearity.special_units import study_engine, study_special_units
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session, StepResult
from tasks.run.table_part import TablePart

STEP = "linearity"
EYES_PER_JOB = 4


def linearity(session: Session, recipe: Recipe, params: LinearityParams) -> StepResult:
    """Studies explained eyes that the model does not already take for the target stage; then
    gives each unit its verdict.
    """
    workspace = session.workspace
    ids = recipe.resolve(workspace)
    names = explanation_store(workspace, ids.explain_id).image_ids
    eyes = explained_eyes(workspace, ids.model_id, names)
    eyes = eyes[eyes["predicted_stage"].notna() & (eyes["predicted_stage"] != params.target_stage)]
    eyes = eyes.head(params.limit or None)
    # Which eyes there are is said by the eyes.
    settings = dataclasses.asdict(dataclasses.replace(params, limit=0))
    settings |= crop_settings(recipe.preprocess)
    jobs = []
    for number, start in enumerate(range(0, len(eyes), EYES_PER_JOB)):
        group = eyes.iloc[start : start + EYES_PER_JOB]
        made_from = group[["image_id", "sha256"]].to_numpy().tolist()
        digest = content_id({"eyes": made_from, "linearity": settings})
        part = TablePart(workspace, ids.explain_id, f"{number:05d}", digest)
        jobs.append(StudyJob(ids, group, part, params, recipe.preprocess.crop))
    new = sum(
        run_in_waves(
            session.network,
            STEP,
            _study,
            [job for job in jobs if job.part.missing(STEP)],
            images_of=lambda job: len(job.eyes),
        )
    )
    parts = {job.part.name: job.part.digest for job in jobs}
    for name in set(workspace.parts(STEP, ids.explain_id)) - set(parts):
        workspace.remove_part(STEP, ids.explain_id, name)
    digest = content_id({"parts": parts, "linearity": settings})
    part = TablePart(workspace, ids.explain_id, STEP, digest)
    if part.missing("units"):
        verdicts = unit_verdicts(workspace.frame(STEP, explain_id=ids.explain_id), params)
        # The columns of the other study, of lesions, are empty.
        empty = dict.fromkeys(set(SCHEMAS["units"].names) - set(verdicts.columns))
        part.write("units", verdicts.assign(**empty | {"study": STEP}))
    study_special_units(session, ids, eyes, params, digest)
    return StepResult(STEP, len(eyes), new, _summary(workspace, ids.explain_id))


@dataclass(frozen=True)
class StudyJob:
    """A few eyes whose units are studied. crop: of the fundi."""

    ids: ResolvedIds
    eyes: pd.DataFrame
    part: TablePart
    params: LinearityParams
    crop: float


def _study(job: StudyJob) -> int:
    """Runs on a worker: the rows of a few eyes."""
    ids, params = job.ids, job.params
    x = scaled(fundi(ids.location, ids.preprocess_id, job.eyes["position"].to_numpy(np.int64)))
    lower, uppers, average_gradient = study_engine(ids.location, ids.model_id, params)
    rows = linearity_study(
        job.eyes["image_id"].tolist(),
        x,
        np.zeros(x.shape[1:], np.float32),
        classifier_outputs(ids.location, ids.model_id, params.batch_size).gradient,
        lower,
        uppers,
        params,
        inside=visible_disc(x.shape[1], crop=job.crop),
        average_gradient=average_gradient,
    )
    job.part.write(STEP, rows)
    return len(job.eyes)


def _summary(workspace: Workspace, explain_id: str) -> str:
    units = workspace.frame("units", explain_id=explain_id, study=STEP)
    if units.empty:
        return "no explained eye to study: the model takes all of them for the target stage"
    counts = pd.crosstab(units["layer"], units["verdict"])
    return "; ".join(
        f"{layer}: " + ", ".join(f"{count} {verdict}" for verdict, count in row.items() if count)
        for layer, row in counts.iterrows()
    )
