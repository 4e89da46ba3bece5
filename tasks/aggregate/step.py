"""Attributions to tables: a part a shard on Dask, then the groups' heat maps, summed shard by
shard.

A part remembers the digest of what it was made from. One whose shard has not changed is left alone;
the groups are summed again only when some shard has changed.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.maps import GroupHeatmaps, HeatmapParams, group_names, image_rows, region_measures
from dr_lib.vocabulary import SIGNS
from storage.arrays.store import ShardedStore, Span
from storage.contents.explanations import FAILED, save_region_settings
from storage.contents.group_maps import write_group_maps
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import (
    converged_of,
    explained_eyes,
    explained_rows,
    maps_of,
    rows_with_status,
)
from tasks.access.stores import (
    as_text,
    crop_of,
    crop_settings,
    explanation_store,
    fundus_store,
    shard_record,
    span_digests,
)
from tasks.execution.waves import run_in_waves
from tasks.run.progress import progress
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session, StepResult

STEP = "aggregate"
SHARD_TABLES = ("attributions", "neurons", "lesion_regions", "heatmap_stats")


def aggregate(session: Session, recipe: Recipe, params: HeatmapParams) -> StepResult:
    """Writes the tables of the explanation for every finished shard whose rows are missing or
    out of date.
    """
    workspace = session.workspace
    ids = recipe.resolve(workspace)
    explain_id = ids.explain_id
    store = explanation_store(workspace, explain_id)
    eyes = explained_eyes(workspace, ids.model_id, store.image_ids)
    made_from = span_digests(store)
    spans = [span for span in store.spans() if span.index in made_from]
    # With the columns: rows that an older version wrote without the newer ones are made again.
    settings = dataclasses.asdict(params) | {
        "columns": {table: SCHEMAS[table].names for table in SHARD_TABLES}
    }
    settings |= crop_settings(recipe.preprocess)
    digests = {}
    for span in spans:
        labels = as_text(eyes.iloc[span.rows][["stage", "predicted_stage", "eye"]])
        digests[span.index] = content_id(
            {"shard": made_from[span.index], "labels": labels, "heatmaps": settings}
        )

    save_region_settings(workspace.files, explain_id, dataclasses.asdict(params))
    jobs = []
    for span in spans:
        missing = tuple(
            table
            for table in SHARD_TABLES
            if not workspace.has_part(table, explain_id, span.part, digest=digests[span.index])
        )
        if missing:
            jobs.append(
                AggregateJob(
                    ids,
                    span,
                    eyes.iloc[span.rows],
                    digests[span.index],
                    params,
                    missing,
                    recipe.attribution,
                )
            )
    new = sum(
        run_in_waves(
            session.pool, STEP, _aggregate_shard, jobs, images_of=lambda job: job.span.images
        )
    )
    digest = content_id({"shards": digests})
    if not workspace.has_part("group_heatmaps", explain_id, "groups", digest=digest):
        sums = _summed(store, spans, eyes, recipe.attribution, params)
        # The arrays first: the table's digest is what says that both are there.
        if sums.sums:
            keys, images, positive, negative = zip(*sums.means(), strict=True)
            write_group_maps(
                workspace.files, explain_id, keys, images, np.stack(positive), np.stack(negative)
            )
        workspace.write_table(
            "group_heatmaps",
            sums.rows(params, crop=recipe.preprocess.crop),
            partition=explain_id,
            part="groups",
            digest=digest,
        )
    regions, neurons = (
        workspace.count(table, explain_id=explain_id) for table in ("lesion_regions", "neurons")
    )
    return StepResult(
        STEP,
        sum(span.images for span in spans),
        new,
        f"{regions:,} lesion regions, {neurons:,} neurons in the tables of {explain_id}",
    )


def _summed(
    store: ShardedStore,
    spans: list[Span],
    eyes: pd.DataFrame,
    params: AttributionParams,
    heatmaps: HeatmapParams,
) -> GroupHeatmaps:
    """Sums over groups, a shard in memory at a time."""
    sums: GroupHeatmaps | None = None
    paths = [
        "pixels/status",
        "pixels/converged",
        "pixels/attribution",
        *(f"layers/{layer}/resultant" for layer in params.layers),
    ]
    paths += ["lesion/map"] if params.lesion_poses else []
    with progress("group heat maps", sum(span.images for span in spans)) as advance:
        for span in spans:
            arrays = store.read(span, paths)
            sums = sums or GroupHeatmaps(arrays["pixels/attribution"].shape[-1])
            for row in explained_rows(arrays["pixels/status"], eyes.iloc[span.rows]):
                eye = eyes.iloc[span.start + row]
                stage = None if pd.isna(eye["stage"]) else int(eye["stage"])
                groups = group_names(stage, int(eye["predicted_stage"]), eye["eye"])
                converged = converged_of(arrays, row, params)
                for (source, quantity), values in maps_of(
                    arrays, row, int(eye["predicted_stage"]), params
                ).items():
                    if (
                        heatmaps.unconverged == "leave_out"
                        and converged.get((source, quantity)) is False
                    ):
                        continue
                    sums.add(
                        groups,
                        source,
                        quantity,
                        values.sum(axis=0) if values.ndim == 3 else values,
                        eye["eye"],
                    )
            advance(span.images)
    return sums or GroupHeatmaps(1)


@dataclass(frozen=True)
class AggregateJob:
    """One shard whose rows are missing or out of date. digest: what the rows are made from."""

    ids: ResolvedIds
    span: Span
    eyes: pd.DataFrame
    digest: str
    params: HeatmapParams
    missing: tuple[str, ...]
    explained: AttributionParams


def _aggregate_shard(job: AggregateJob) -> int:
    """Runs on a worker: writes the shard's rows of every table that lacks them; returns how many
    images they are about.
    """
    workspace = job.ids.workspace
    explain_id, preprocess_id = job.ids.explain_id, job.ids.preprocess_id
    store = explanation_store(workspace, explain_id)
    arrays = store.read(job.span)
    size = arrays["pixels/attribution"].shape[-1]
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in SHARD_TABLES}
    fundi = fundus_store(workspace, preprocess_id)
    pixels, crop = (
        fundi.read_rows(job.eyes["position"].to_numpy(), ["pixels"])["pixels"],
        crop_of(fundi),
    )
    for row in explained_rows(arrays["pixels/status"], job.eyes):
        eye = job.eyes.iloc[row]
        image_id = eye["image_id"]
        maps = maps_of(arrays, row, int(eye["predicted_stage"]), job.explained)
        converged = converged_of(arrays, row, job.explained)
        regions, stats = image_rows(
            image_id, eye["eye"], pixels[row], maps, job.params, converged, crop=crop
        )
        rows["lesion_regions"] += regions
        rows["heatmap_stats"] += stats
        rows["attributions"] += _attribution_rows(image_id, arrays, row, job.explained.quantities)
        for layer in job.explained.layers:
            rows["neurons"] += _neuron_rows(image_id, layer, arrays, row, size)
    reasons = shard_record(store, job.span).get("failed", {})
    for row in rows_with_status(FAILED, arrays["pixels/status"], job.eyes):
        image_id = job.eyes.iloc[row]["image_id"]
        rows["attributions"] += _failed_rows(
            image_id, job.explained.quantities, reasons.get(image_id, "it could not be explained")
        )
    for table in job.missing:
        workspace.write_table(
            table, rows[table], partition=explain_id, part=job.span.part, digest=job.digest
        )
    return job.span.images


MEASURES = (
    "outcome",
    "baseline_outcome",
    "gap",
    "map_error",
    "relative_gap",
    "positive_sum",
    "negative_sum",
)


def _failed_rows(image_id: str, quantities: tuple[str, ...], reason: str) -> list[dict[str, Any]]:
    """An image without an explanation keeps its rows: null measures, and why."""
    empty = {**dict.fromkeys(MEASURES), "points": 0, "converged": False, "failure": reason}
    return [{"image_id": image_id, "quantity": quantity, **empty} for quantity in quantities]


def _attribution_rows(
    image_id: str, arrays: dict[str, np.ndarray], row: int, quantities: tuple[str, ...]
) -> list[dict[str, Any]]:
    found = []
    for index, quantity in enumerate(quantities):
        numbers = {
            name: arrays[f"pixels/{name}"][row, index].item()
            for name in ("outcome", "baseline_outcome", "gap", "map_error", "points", "converged")
        }
        change = numbers["outcome"] - numbers["baseline_outcome"]
        values = arrays["pixels/attribution"][row, index].astype(np.float64)
        found.append(
            {
                "image_id": image_id,
                "quantity": quantity,
                **numbers,
                "relative_gap": abs(numbers["gap"] / change) if change else float("nan"),
                "positive_sum": float(values[values > 0].sum()),
                "negative_sum": float(values[values < 0].sum()),
                "failure": None,
            }
        )
    return found


def _neuron_rows(
    image_id: str, layer: str, arrays: dict[str, np.ndarray], row: int, size: int
) -> list[dict[str, Any]]:
    place = f"layers/{layer}"
    neurons = arrays[f"{place}/neuron"][row]
    measures = region_measures(arrays[f"{place}/region"][row], size)
    found = []
    for sign_index, sign in enumerate(SIGNS):
        for rank in range(neurons.shape[1]):
            *yx, channel = (int(number) for number in neurons[sign_index, rank])
            if channel < 0:
                continue  # the layer has no more neurons of this sign
            at = (row, sign_index, rank)
            found.append(
                {
                    "image_id": image_id,
                    "layer": layer,
                    "sign": sign,
                    "rank": rank,
                    "neuron_y": yx[0] if yx else None,
                    "neuron_x": yx[1] if yx else None,
                    "channel": channel,
                    "attribution": float(arrays[f"{place}/neuron_attribution"][at]),
                    "activation": float(arrays[f"{place}/activation"][at]),
                    "baseline_activation": float(arrays[f"{place}/baseline_activation"][at]),
                    "gap": float(arrays[f"{place}/neuron_gap"][at]),
                    **{name: float(values[sign_index, rank]) for name, values in measures.items()},
                }
            )
    return found
