"""What a worker does with one explained shard: everything that is made of its arrays, which are
read once. Knows no Prefect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.fundus.anatomy import Eye
from dr_lib.localisation import Judge, LocalisationParams, Score, UnusableMask
from dr_lib.maps import (
    GroupHeatmaps,
    HeatmapParams,
    group_names,
    image_rows,
    region_measures,
    smoothed,
)
from dr_lib.vocabulary import SIGNS
from storage.arrays.store import Span
from storage.contents.explanations import FAILED
from storage.photos.types import Problem
from tasks.access.explained import (
    converged_of,
    explained_rows,
    map_paths,
    maps_of,
)
from tasks.access.masks import eye_masks
from tasks.access.stores import discs, explanation_store, fundus_store, shard_record
from tasks.aggregate.sums import Sums, sums_of_units, unit_paths
from tasks.execution.worker import baseline_maps
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.table_part import TablePart

SHARD_TABLES = ("attributions", "neurons", "lesion_regions", "heatmap_stats")
BASELINE_QUANTITY = "referable"
NUMBERS = ("outcome", "baseline_outcome", "gap", "map_error", "points", "converged")
SUMS = ("relative_gap", "positive_sum", "negative_sum")


@dataclass(frozen=True)
class AggregateJob:
    """One explained shard, and what is to be made of it.

    eyes: the shard's images as `explained_eyes` gives them, with height_px and width_px of their
    photographs, their mask files and the stamp of these, and their `row`. part: the shard's, of
    the tables. missing: the tables without it. summed: whether the sums over eyes need the shard's.
    judged: whether maps are judged by lesion masks.
    """

    ids: ResolvedIds
    span: Span
    eyes: pd.DataFrame
    part: TablePart
    preprocess: PreprocessParams
    explained: AttributionParams
    heatmaps: HeatmapParams
    localisation: LocalisationParams
    missing: tuple[str, ...] = ()
    summed: bool = False
    judged: bool = False


@dataclass(frozen=True)
class JudgedEye:
    """How well each map of one eye finds its lesions: (source, quantity) → (lesion, measure) →
    score.
    """

    split: str
    patient_id: str
    scores: Mapping[tuple[str, str | None], Mapping[tuple[str, str], Score]]


@dataclass(frozen=True)
class ShardResult:
    """What the run gets of a shard: its sums, if asked for, and judgements.

    problems: of masks.
    """

    sums: Sums | None
    judged: list[JudgedEye] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def aggregate_shard(job: AggregateJob) -> ShardResult:
    """Runs on a worker: writes the shard's rows of every table that lacks them, sums its maps over
    groups, and judges them by lesion masks, as the job asks.
    """
    workspace = job.ids.workspace
    store = explanation_store(workspace, job.ids.explain_id)
    paths = [*map_paths(job.explained), *unit_paths(store, job.explained.layers)]
    arrays = store.read(job.span, None if job.missing else paths)
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in SHARD_TABLES}
    size = arrays["pixels/attribution"].shape[-1]
    result = ShardResult(Sums(GroupHeatmaps(size)) if job.summed else None)
    fundi = fundus_store(workspace, job.ids.preprocess_id)
    positions = job.eyes["position"].to_numpy()
    pixels = fundi.read_rows(positions, ["pixels"])["pixels"]
    placed = discs(fundi, positions) if job.judged else []
    explained = explained_rows(arrays["pixels/status"], job.eyes)
    if result.sums:
        layers, crop = job.explained.layers, job.preprocess.crop
        result.sums.units = sums_of_units(store, layers, arrays, explained, job.eyes, pixels, crop)
    for row in explained:
        eye = job.eyes.iloc[row]
        maps = maps_of(arrays, row, int(eye["predicted_stage"]), job.explained)
        converged = converged_of(arrays, row, job.explained)
        if job.missing:
            regions, stats = image_rows(
                eye["image_id"],
                side_of(eye),
                pixels[row],
                maps,
                job.heatmaps,
                converged,
                crop=job.preprocess.crop,
            )
            rows["lesion_regions"] += regions
            rows["heatmap_stats"] += stats
            rows["attributions"] += _attribution_rows(eye["image_id"], arrays, row, job.explained)
            for layer in job.explained.layers:
                rows["neurons"] += _neuron_rows(eye["image_id"], layer, arrays, row, size)
        if result.sums:
            _add(result.sums.groups, eye, maps, converged, job.heatmaps)
        if job.judged and eye["mask"]:
            _judge(result, job, eye, maps, pixels[row], placed[row])
    if job.missing:
        reasons = shard_record(store, job.span).failed
        for row in explained_rows(arrays["pixels/status"], job.eyes, FAILED):
            # An image without an explanation keeps its rows: null measures, and why.
            image_id = job.eyes.iloc[row]["image_id"]
            reason = reasons.get(image_id, "it could not be explained")
            failed = {"points": 0, "converged": False, "failure": reason}
            rows["attributions"] += [
                {
                    "image_id": image_id,
                    "quantity": name,
                    **dict.fromkeys((*NUMBERS, *SUMS)),
                    **failed,
                }
                for name in job.explained.quantities
            ]
    for table in job.missing:
        job.part.write(table, rows[table])
    return result


def side_of(eye: pd.Series) -> Eye | None:
    """Which eye a row is about; None where that is not known."""
    return eye["eye"] if isinstance(eye["eye"], str) else None


def _add(
    sums: GroupHeatmaps,
    eye: pd.Series,
    maps: Mapping[tuple[str, str], np.ndarray],
    converged: Mapping[tuple[str, str], bool],
    params: HeatmapParams,
) -> None:
    stage = None if pd.isna(eye["stage"]) else int(eye["stage"])
    groups = group_names(stage, int(eye["predicted_stage"]), side_of(eye))
    for key, values in maps.items():
        if params.unconverged == "keep" or converged.get(key, True):
            sums.add(groups, *key, values.sum(axis=0) if values.ndim == 3 else values, side_of(eye))


def _judge(
    result: ShardResult,
    job: AggregateJob,
    eye: pd.Series,
    maps: Mapping[tuple[str, str], np.ndarray],
    fundus: np.ndarray,
    disc: Disc,
) -> None:
    """Scores every map of an eye and the baseline maps by its lesions.

    Of a layer's two resultants that of the positive neurons is judged, named without its quantity:
    what a layer explains differs from eye to eye when it is the predicted stage, and its eyes are
    judged together all the same.
    """
    try:
        masks = eye_masks(eye["files"], eye, disc, fundus, job.preprocess)
    except UnusableMask as error:
        path = eye["files"][0].path if len(eye["files"]) == 1 else None
        result.problems.append(Problem(path, eye["image_id"], error.reason, error.detail))
        return
    scores = {}
    if masks.kinds:
        judged: dict[tuple[str, str | None], np.ndarray] = {
            (source, None if values.ndim == 3 else quantity): (
                values[0] if values.ndim == 3 else values
            )
            for (source, quantity), values in maps.items()
        }
        if job.localisation.baseline_maps:
            simple = baseline_maps(
                job.ids.location,
                job.ids.model_id,
                BASELINE_QUANTITY,
                job.localisation.gradcam_layers,
            ).maps(fundus, crop=job.preprocess.crop)
            judged |= {(name, None): values for name, values in simple.items()}
        judge = Judge(masks, job.localisation)
        scores = {
            name: judge.scores(smoothed(values, job.localisation.smoothing_px))
            for name, values in judged.items()
        }
    result.judged.append(JudgedEye(eye["split"], eye["patient_id"], scores))


def _attribution_rows(
    image_id: str, arrays: Mapping[str, np.ndarray], row: int, explained: AttributionParams
) -> list[dict[str, Any]]:
    rows = []
    for index, quantity in enumerate(explained.quantities):
        numbers = {name: arrays[f"pixels/{name}"][row, index].item() for name in NUMBERS}
        change = numbers["outcome"] - numbers["baseline_outcome"]
        values = arrays["pixels/attribution"][row, index].astype(np.float64)
        rows.append(
            {
                "image_id": image_id,
                "quantity": quantity,
                **numbers,
                "failure": None,
                "relative_gap": abs(numbers["gap"] / change) if change else np.nan,
                "positive_sum": float(values[values > 0].sum()),
                "negative_sum": float(values[values < 0].sum()),
            }
        )
    return rows


def _neuron_rows(
    image_id: str, layer: str, arrays: Mapping[str, np.ndarray], row: int, size: int
) -> list[dict[str, Any]]:
    """One row for each chosen neuron of a layer: fewer of a sign that has too few."""
    neurons = arrays[f"layers/{layer}/neuron"][row]
    numbers = {
        name.removeprefix("neuron_"): arrays[f"layers/{layer}/{name}"][row]
        for name in ("neuron_attribution", "activation", "baseline_activation", "neuron_gap")
    } | region_measures(arrays[f"layers/{layer}/region"][row], size)
    rows = []
    for sign, rank in zip(*np.nonzero(neurons[..., -1] >= 0), strict=True):
        *yx, channel = neurons[sign, rank].tolist()
        rows.append(
            {
                "image_id": image_id,
                "layer": layer,
                "sign": SIGNS[sign],
                "rank": int(rank),
                "neuron_y": yx[0] if yx else None,
                "neuron_x": yx[1] if yx else None,
                "channel": channel,
                **{name: float(values[sign, rank]) for name, values in numbers.items()},
            }
        )
    return rows
