"""Constant and reversed units one by one: a layer a Dask task; rows in `unit_effects`, regions
beside the explanation.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import split_at
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.neurons import flat_activations, weighted_sums
from dr_lib.linearity import (
    LinearityParams,
    engine_average_gradient,
    special_units,
    unit_effects,
    unit_region,
)
from dr_lib.network.model import scaled
from storage.contents.unit_maps import write_unit_maps
from storage.ids import content_id
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import fundi, loaded_model
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session

TABLE = "unit_effects"


@functools.lru_cache(maxsize=1)
def study_engine(
    location: str, model_id: str, params: LinearityParams
) -> tuple[Mapping[str, tuple[Any, Any]], Callable]:
    """A model cut at every layer of the study, and its averaged gradients; kept, so that a
    process compiles them once.
    """
    model = loaded_model(location, model_id)
    return {name: split_at(model, name) for name in params.layers}, engine_average_gradient(params)


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
    if workspace.has_part(TABLE, explain_id, TABLE, digest=digest):
        return
    # Eyes with a gradient that was not finite have no rows in the study.
    studied = set(workspace.frame("linearity", explain_id=explain_id)["image_id"])
    eyes = eyes[eyes["image_id"].isin(studied)]
    names, positions = eyes["image_id"].tolist(), eyes["position"].to_numpy(np.int64)
    verdicts = {
        layer: dict(zip(part["unit"], part["verdict"], strict=True))
        for layer, part in units.groupby("layer")
    }
    jobs = [
        SpecialUnitsJob(ids, layer, found, verdicts[layer], names, positions, params)
        for layer, found in chosen.items()
    ]
    done = run_in_waves(
        session.pool, "special units", _look_at, jobs, images_of=lambda job: len(job.units)
    )
    keys = [key for one in done for key in one["keys"]]
    # The regions first: the table's digest is what says that both are there.
    write_unit_maps(
        workspace.files,
        explain_id,
        keys,
        np.concatenate([one["regions"] for one in done]) if keys else np.empty(0),
    )
    rows = [row for one in done for row in one["rows"]]
    workspace.write_table(TABLE, rows, partition=explain_id, part=TABLE, digest=digest)


@dataclass(frozen=True)
class SpecialUnitsJob:
    """One layer's constant and reversed units."""

    ids: ResolvedIds
    layer: str
    units: Sequence[int]
    verdicts: Mapping[int, str]
    image_ids: Sequence[str]
    positions: np.ndarray
    params: LinearityParams


def _look_at(job: SpecialUnitsJob) -> dict[str, Any]:
    """Runs on a worker: the rows of one layer's special units, and their regions on the eyes
    where they are strongest.
    """
    location, preprocess_id = job.ids.location, job.ids.preprocess_id
    model_id = job.ids.model_id
    layers, _ = study_engine(location, model_id, job.params)
    lower, upper = layers[job.layer]
    x = scaled(fundi(location, preprocess_id, job.positions))
    baseline = np.zeros(x.shape[1:], np.float32)
    below = Evaluator(flat_activations(lower), job.params.batch_size)
    shape = tuple(int(size) for size in lower.outputs[0].shape[1:])
    activations, start = (
        below.values(x).reshape(len(x), *shape),
        below.values(baseline[None]).reshape(shape),
    )
    rows = unit_effects(
        job.image_ids, job.layer, upper, activations, start, job.units, job.verdicts, job.params
    )
    sums = Evaluator(weighted_sums(lower), job.params.batch_size)
    keys, regions = [], []
    for row in rows:
        if row["rank"] < job.params.special_eyes:
            keys.append((job.layer, row["unit"], row["image_id"]))
            image = x[job.image_ids.index(row["image_id"])]
            regions.append(unit_region(sums, image, baseline, shape, row["unit"], job.params))
    return {"rows": rows, "keys": keys, "regions": np.stack(regions)}
