"""The linearity study: adversarial strength grows, the units of some layers are watched (METHOD
§8).

Rows of a few eyes a Dask task; then every unit's verdict; then the constant and reversed units one
by one, a layer a Dask task: rows in `unit_effects`, regions beside the explanation.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import split_at
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.neurons import flat_activations, weighted_sums
from dr_lib.formatting import counted
from dr_lib.fundus.anatomy import visible_disc
from dr_lib.linearity import (
    LinearityParams,
    engine_average_gradient,
    linearity_study,
    special_units,
    trunk,
    unit_effects,
    unit_region,
    unit_verdicts,
)
from storage import Workspace
from storage.contents.snapshots import write_unit_maps
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.images import gone_words
from tasks.access.stores import crop_settings, explanation_store
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import classifier_outputs, inputs, loaded_model
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
    studied = counted(len(eyes), "eye") + gone_words(workspace, eyes["image_id"])
    message = f"{studied}; {_summary(workspace, ids.explain_id)}"
    return StepResult(STEP, len(eyes), new, message)


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
    x = inputs(ids, job.eyes["position"].to_numpy())
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


TABLE = "unit_effects"


@functools.lru_cache(maxsize=1)
def study_engine(
    location: str, model_id: str, params: LinearityParams
) -> tuple[Callable, Mapping[str, Any], Callable]:
    """A model's activations at every layer of the study, the models above these, and averaged
    gradients; kept, so that a process compiles them once.
    """
    model = loaded_model(location, model_id)
    cuts = {name: split_at(model, name) for name in params.layers}
    lowers, uppers = ({name: cut[side] for name, cut in cuts.items()} for side in (0, 1))
    return trunk(lowers), uppers, engine_average_gradient(params)


def study_special_units(
    session: Session, ids: ResolvedIds, eyes: pd.DataFrame, params: LinearityParams, made_from: str
) -> None:
    """Looks at the special units of every layer, unless just these have been looked at; eyes:
    those of the study.
    """
    workspace, explain_id = session.workspace, ids.explain_id
    units = workspace.frame("units", explain_id=explain_id, study="linearity")
    chosen = special_units(units, params)
    digest = content_id({"made_from": made_from, "units": chosen})
    part = TablePart(workspace, explain_id, TABLE, digest)
    if not part.missing(TABLE):
        return
    # Eyes with a gradient that was not finite have no rows in the study.
    studied = workspace.frame("linearity", explain_id=explain_id)["image_id"].unique()
    eyes = eyes[eyes["image_id"].isin(studied)]
    verdicts = units.set_index(["layer", "unit"])["verdict"]
    jobs = [
        SpecialUnitsJob(ids, layer, verdicts[layer][numbers].to_dict(), eyes, params)
        for layer, numbers in chosen.items()
    ]
    results = run_in_waves(
        session.network, "special units", _look_at, jobs, images_of=lambda job: len(job.verdicts)
    )
    rows = [row for own, _ in results for row in own]
    keys = [
        (row["layer"], row["unit"], row["image_id"])
        for row in rows
        if row["rank"] < params.special_eyes
    ]
    regions = [regions for _, regions in results]
    # The regions first: the table's digest is what says that both are there.
    write_unit_maps(
        workspace.files, explain_id, keys, np.concatenate(regions) if keys else np.empty(0)
    )
    part.write(TABLE, rows)


@dataclass(frozen=True)
class SpecialUnitsJob:
    """One layer's constant and reversed units, by number with their verdicts."""

    ids: ResolvedIds
    layer: str
    verdicts: Mapping[int, str]
    eyes: pd.DataFrame
    params: LinearityParams


def _look_at(job: SpecialUnitsJob) -> tuple[list[dict], np.ndarray]:
    """Runs on a worker: the rows of one layer's special units, and their regions on the eyes
    where they are strongest.
    """
    ids, params, image_ids = job.ids, job.params, job.eyes["image_id"].tolist()
    lower, upper = split_at(loaded_model(ids.location, ids.model_id), job.layer)
    x = inputs(ids, job.eyes["position"].to_numpy())
    baseline = np.zeros(x.shape[1:], np.float32)
    below = Evaluator(flat_activations(lower), params.batch_size)
    shape = lower.outputs[0].shape[1:]
    activations, start = (
        below.values(x).reshape(len(x), *shape),
        below.values(baseline[None]).reshape(shape),
    )
    rows = unit_effects(image_ids, job.layer, upper, activations, start, job.verdicts, params)
    sums = Evaluator(weighted_sums(lower), params.batch_size)
    regions = [
        unit_region(sums, x[image_ids.index(row["image_id"])], baseline, shape, row["unit"], params)
        for row in rows
        if row["rank"] < params.special_eyes
    ]
    return rows, np.stack(regions)
