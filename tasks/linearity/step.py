"""The linearity study: adversarial strength grows, the units of some layers are watched (METHOD
§8).

Rows of a few eyes a Dask task; then every unit's verdict; then the constant and reversed units one
by one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.fundus.anatomy import visible_disc
from dr_lib.linearity import LinearityParams, linearity_study, unit_verdicts
from dr_lib.network.model import scaled
from storage import Workspace, open_workspace
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.stores import crop_of, crop_settings, explanation_store, fundus_store
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import classifier_outputs, fundi
from tasks.linearity.special_units import study_engine, study_special_units
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session, StepResult

STEP = "linearity"
EYES_PER_JOB = 4


def linearity(session: Session, recipe: Recipe, params: LinearityParams) -> StepResult:
    """Studies explained eyes that the model does not already take for the target stage; then
    gives each unit its verdict.
    """
    workspace = session.workspace
    ids = recipe.resolve(workspace)
    model_id, explain_id = ids.model_id, ids.explain_id
    eyes = explained_eyes(workspace, model_id, explanation_store(workspace, explain_id).image_ids)
    eyes = eyes[eyes["predicted_stage"].notna() & (eyes["predicted_stage"] != params.target_stage)]
    settings = dataclasses.asdict(
        dataclasses.replace(params, limit=0)
    )  # which eyes there are is said by the eyes
    settings |= crop_settings(recipe.preprocess)
    eyes = eyes.head(params.limit) if params.limit else eyes
    jobs, parts = [], {}
    for start in range(0, len(eyes), EYES_PER_JOB):
        group = eyes.iloc[start : start + EYES_PER_JOB]
        part = f"{start // EYES_PER_JOB:05d}"
        parts[part] = content_id(
            {"eyes": group[["image_id", "sha256"]].to_numpy().tolist(), "linearity": settings}
        )
        if not workspace.has_part(STEP, explain_id, part, digest=parts[part]):
            jobs.append(
                StudyJob(
                    ids,
                    group["image_id"].tolist(),
                    group["position"].to_numpy(np.int64),
                    part,
                    parts[part],
                    params,
                )
            )
    new = sum(
        run_in_waves(session.pool, STEP, _study, jobs, images_of=lambda job: len(job.image_ids))
    )
    for part in set(workspace.parts(STEP, explain_id)) - set(parts):
        workspace.remove_part(STEP, explain_id, part)
    digest = content_id({"parts": parts, "linearity": settings})
    if not workspace.has_part("units", explain_id, STEP, digest=digest):
        verdicts = unit_verdicts(workspace.frame(STEP, explain_id=explain_id), params)
        others = dict.fromkeys(
            set(SCHEMAS["units"].names) - set(verdicts.columns)
        )  # the other study's
        verdicts = verdicts.assign(**others | {"study": STEP})
        workspace.write_table("units", verdicts, partition=explain_id, part=STEP, digest=digest)
    study_special_units(session, ids, eyes, params, digest)
    return StepResult(STEP, len(eyes), new, _summary(workspace, explain_id))


@dataclass(frozen=True)
class StudyJob:
    """A few eyes whose units are studied."""

    ids: ResolvedIds
    image_ids: Sequence[str]
    positions: np.ndarray
    part: str
    digest: str
    params: LinearityParams


def _study(job: StudyJob) -> int:
    """Runs on a worker: the rows of a few eyes."""
    location, preprocess_id = job.ids.location, job.ids.preprocess_id
    model_id, explain_id = job.ids.model_id, job.ids.explain_id
    x = scaled(fundi(location, preprocess_id, job.positions))
    layers, average_gradient = study_engine(location, model_id, job.params)
    gradient = classifier_outputs(location, model_id, job.params.batch_size).gradient
    baseline = np.zeros(x.shape[1:], np.float32)
    workspace = open_workspace(location)
    inside = visible_disc(x.shape[1], crop=crop_of(fundus_store(workspace, preprocess_id)))
    settings = {"inside": inside, "average_gradient": average_gradient}
    rows = linearity_study(job.image_ids, x, baseline, gradient, layers, job.params, **settings)
    workspace.write_table(STEP, rows, partition=explain_id, part=job.part, digest=job.digest)
    return len(job.image_ids)


def _summary(workspace: Workspace, explain_id: str) -> str:
    units = workspace.frame("units", explain_id=explain_id, study=STEP)
    if units.empty:
        return "no explained eye to study: the model takes all of them for the target stage"
    counts = pd.crosstab(units["layer"], units["verdict"])
    return "; ".join(
        f"{layer}: " + ", ".join(f"{count} {verdict}" for verdict, count in row.items() if count)
        for layer, row in counts.iterrows()
    )
