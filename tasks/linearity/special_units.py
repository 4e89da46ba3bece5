"""Constant and reversed units one by one: a layer a Dask task; rows in `unit_effects`, regions
beside the explanation.
"""

import functools
from collections.abc import Callable, Mapping
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
    trunk,
    unit_effects,
    unit_region,
)
from dr_lib.network.model import scaled
from storage.contents.snapshots import write_unit_maps
from storage.ids import content_id
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import fundi, loaded_model
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session
from tasks.run.table_part import TablePart

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
        session.network,
        "special units",
        _look_at,
        jobs,
        images_of=lambda job: len(job.verdicts),
    )
    keys = [key for result in results for key in result["keys"]]
    regions = [result["regions"] for result in results]
    # The regions first: the table's digest is what says that both are there.
    write_unit_maps(
        workspace.files, explain_id, keys, np.concatenate(regions) if keys else np.empty(0)
    )
    part.write(TABLE, [row for result in results for row in result["rows"]])


@dataclass(frozen=True)
class SpecialUnitsJob:
    """One layer's constant and reversed units, by number with their verdicts."""

    ids: ResolvedIds
    layer: str
    verdicts: Mapping[int, str]
    eyes: pd.DataFrame
    params: LinearityParams


def _look_at(job: SpecialUnitsJob) -> dict[str, Any]:
    """Runs on a worker: the rows of one layer's special units, and their regions on the eyes
    where they are strongest.
    """
    ids, params, image_ids = job.ids, job.params, job.eyes["image_id"].tolist()
    lower, upper = split_at(loaded_model(ids.location, ids.model_id), job.layer)
    x = scaled(fundi(ids.location, ids.preprocess_id, job.eyes["position"].to_numpy(np.int64)))
    baseline = np.zeros(x.shape[1:], np.float32)
    below = Evaluator(flat_activations(lower), params.batch_size)
    shape = tuple(int(size) for size in lower.outputs[0].shape[1:])
    activations, start = (
        below.values(x).reshape(len(x), *shape),
        below.values(baseline[None]).reshape(shape),
    )
    rows = unit_effects(image_ids, job.layer, upper, activations, start, job.verdicts, params)
    sums = Evaluator(weighted_sums(lower), params.batch_size)
    shown = [row for row in rows if row["rank"] < params.special_eyes]
    regions = [
        unit_region(sums, x[image_ids.index(row["image_id"])], baseline, shape, row["unit"], params)
        for row in shown
    ]
    keys = [(job.layer, row["unit"], row["image_id"]) for row in shown]
    return {"rows": rows, "keys": keys, "regions": np.stack(regions)}
