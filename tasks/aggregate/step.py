"""Attributions to tables, group heat maps and judgements, a shard a Dask task.

A part of a table remembers the digest of what it was made from, and is left alone until that
changes. The sums over groups and of units are of all shards: those over the leading ones are kept,
and later ones are added. The judgement by lesion masks is made again when any shard has changed. A
shard is one job, whatever it is needed for, so that its arrays are read once in a run.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dr_lib.localisation import LocalisationParams
from dr_lib.maps import GroupHeatmaps, HeatmapParams
from storage.contents.explanations import save_region_settings
from storage.contents.snapshots import write_group_maps
from storage.ids import content_id
from storage.photos.types import Source
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.masks import masks_of, note_unused, with_masks
from tasks.access.stores import as_text, crop_settings, explanation_store, span_digests
from tasks.aggregate.localise import (
    EVALUATION,
    EYE,
    in_words,
    judgement_rows,
    set_aside_in_words,
    unknown_in_words,
)
from tasks.aggregate.shard import SHARD_TABLES, AggregateJob, ShardResult, aggregate_shard
from tasks.aggregate.sums import (
    MADE_HOW,
    UNIT_TABLES,
    Sums,
    keep,
    kept,
    unit_paths,
    write_units,
)
from tasks.execution.waves import run_in_waves
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.table_part import TablePart

STEP = "aggregate"
GROUPS = "group_heatmaps"


def aggregate(
    session: Session,
    recipe: Recipe,
    sources: Sequence[Source],
    heatmaps: HeatmapParams,
    localisation: LocalisationParams,
) -> StepResult:
    """Writes what is missing or out of date of an explanation's tables, groups and judgements.

    Parameters
    ----------
    sources : of the photographs, beside which their lesion masks may lie

    Raises
    ------
    UserError
        Where no model or explanation is there yet, or the place of masks that was named.
    """
    workspace = session.workspace
    ids = recipe.resolve(workspace)
    store = explanation_store(workspace, ids.explain_id)
    index = masks_of(workspace, sources, localisation)
    eyes = with_masks(explained_eyes(workspace, ids.model_id, store.image_ids), index)
    eyes["row"] = range(len(eyes))
    made_from = span_digests(store)
    # With the columns: rows that an older version wrote without the newer ones are made again.
    settings = dataclasses.asdict(heatmaps) | {
        "columns": {table: SCHEMAS[table].names for table in SHARD_TABLES}
    }
    settings |= crop_settings(recipe.preprocess)
    save_region_settings(workspace.files, ids.explain_id, dataclasses.asdict(heatmaps))
    parts = {}
    for span in store.spans():
        if span.index in made_from:
            labels = as_text(eyes.iloc[span.rows][["stage", "predicted_stage", "eye"]])
            digest = content_id(
                {"shard": made_from[span.index], "labels": labels, "heatmaps": settings}
            )
            parts[span] = TablePart(workspace, ids.explain_id, span.part, digest)
    digests = {span.index: part.digest for span, part in parts.items()}
    groups = TablePart(workspace, ids.explain_id, "groups", content_id({"shards": digests}))
    judging = dataclasses.asdict(localisation) | crop_settings(recipe.preprocess)
    judgement = TablePart(
        workspace,
        ids.model_id,
        f"localisation-{ids.explain_id}",
        content_id({"shards": made_from, "eyes": as_text(eyes[EYE]), "how": judging}),
    )
    made_from_sums = content_id({"shards": digests, "how": MADE_HOW})
    units = TablePart(workspace, ids.explain_id, "contributions", made_from_sums)
    told = unit_paths(store, recipe.attribution.layers)
    to_sum = bool(groups.missing(GROUPS) or (told and units.missing(*UNIT_TABLES)))
    leading = [
        digests[span.index]
        for number, span in enumerate(parts)
        if number == span.index and span.images == store.shard_images
    ]
    size = recipe.preprocess.size
    summed, total = kept(workspace, ids.explain_id, leading if to_sum else [], size)
    to_judge = index is not None and bool(judgement.missing(EVALUATION))
    how = (recipe.preprocess, recipe.attribution, heatmaps, localisation)
    jobs = [
        AggregateJob(
            *(ids, span, eyes.iloc[span.rows], part, *how),
            missing=part.missing(*SHARD_TABLES),
            summed=to_sum and span.index >= summed,
            judged=to_judge and bool(eyes.iloc[span.rows]["mask"].ne("").any()),
        )
        for span, part in parts.items()
    ]
    rest, to_keep = Sums(GroupHeatmaps(size)), iter(range(len(leading) - summed))

    def collect(result: ShardResult) -> ShardResult:
        if result.sums:
            (rest if next(to_keep, None) is None else total).merge(result.sums)
        return dataclasses.replace(result, sums=None)

    on_gpus = []
    if to_judge and localisation.baseline_maps and session.network.has_gpus:
        # The network's part on its own: everything else of a shard needs cores.
        on_gpus = [dataclasses.replace(job, missing=(), summed=False) for job in jobs if job.judged]
        jobs = [dataclasses.replace(job, judged=False) for job in jobs]
    results = [
        result
        for pool, some in ((session.pool, jobs), (session.network, on_gpus))
        for result in run_in_waves(
            pool,
            STEP,
            aggregate_shard,
            [job for job in some if job.missing or job.summed or job.judged],
            images_of=lambda job: job.span.images,
            collect=collect,
        )
    ]
    if to_sum:
        if len(leading) > summed:
            keep(workspace, ids.explain_id, leading, total)
        total.merge(rest)
        # The arrays first: the table's digest is what says that both are there.
        if total.groups.sums:
            keys, images, positive, negative = zip(*total.groups.means(), strict=True)
            maps = np.stack(positive), np.stack(negative)
            write_group_maps(workspace.files, ids.explain_id, keys, images, *maps)
        groups.write(GROUPS, total.groups.rows(heatmaps, crop=recipe.preprocess.crop))
        if total.units:
            write_units(units, store, total, eyes, size)
    if to_judge:
        judged = [eye for result in results for eye in result.judged]
        judgement.write(EVALUATION, judgement_rows(judged, ids.explain_id, localisation))
    regions, neurons = (
        workspace.count(table, explain_id=ids.explain_id) for table in ("lesion_regions", "neurons")
    )
    problems = [problem for result in results for problem in result.problems]
    if index:
        note_unused(workspace, index, problems if to_judge else None)
    return (
        StepResult(
            STEP,
            sum(job.span.images for job in jobs),
            sum(job.span.images for job in jobs if job.missing),
            f"{regions:,} lesion regions, {neurons:,} neurons in the tables of {ids.explain_id}",
        )
        .and_then(in_words(workspace, ids) if index else "")
        .and_then(set_aside_in_words(problems))
        .and_then(unknown_in_words(index))
    )
