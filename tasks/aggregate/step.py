"""Attributions to tables, group heat maps and judgements, a shard a Dask task.

A part of a table remembers the digest of what it was made from, and is left alone until that
changes. The groups' sums, and the judgement by lesion masks, are of all shards: they are made again
when any shard has changed. A shard is one job, whatever it is needed for, so that its arrays are
read once in a run.
"""

import dataclasses

import numpy as np

from dr_lib.localisation import LocalisationParams
from dr_lib.maps import GroupHeatmaps, HeatmapParams
from storage.contents.group_maps import write_group_maps
from storage.ids import content_id
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.stores import as_text, crop_settings, explanation_store, span_digests
from tasks.aggregate.localise import EVALUATION, in_words, judgement_digest, write_judgements
from tasks.aggregate.masks import mask_stamps, masks_folder
from tasks.aggregate.shard import SHARD_TABLES, AggregateJob, ShardResult, aggregate_shard
from tasks.execution.waves import run_in_waves
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult

STEP = "aggregate"


def aggregate(
    session: Session,
    recipe: Recipe,
    photos: str,
    heatmaps: HeatmapParams,
    localisation: LocalisationParams,
) -> StepResult:
    """Writes what is missing or out of date of an explanation's tables, groups and judgements.

    Parameters
    ----------
    photos : the data folder, beside whose photographs the lesion masks may lie

    Raises
    ------
    UserError
        Where no model or explanation is there yet, or the folder of masks that was named.
    """
    workspace = session.workspace
    ids = recipe.resolve(workspace)
    explain_id = ids.explain_id
    store = explanation_store(workspace, explain_id)
    folder = masks_folder(photos, localisation)
    eyes = explained_eyes(workspace, ids.model_id, store.image_ids)
    eyes["mask"] = mask_stamps(folder, eyes["image_id"])
    made_from = span_digests(store)
    spans = [span for span in store.spans() if span.index in made_from]
    # With the columns: rows that an older version wrote without the newer ones are made again.
    settings = dataclasses.asdict(heatmaps) | {
        "columns": {table: SCHEMAS[table].names for table in SHARD_TABLES}
    }
    settings |= crop_settings(recipe.preprocess)
    digests = {
        span.index: content_id(
            {
                "shard": made_from[span.index],
                "labels": as_text(eyes.iloc[span.rows][["stage", "predicted_stage", "eye"]]),
                "heatmaps": settings,
            }
        )
        for span in spans
    }
    groups, judgement = (
        content_id({"shards": digests}),
        judgement_digest(made_from, eyes, localisation, recipe.preprocess),
    )
    to_sum = not workspace.has_part("group_heatmaps", explain_id, "groups", digest=groups)
    part = f"localisation-{explain_id}"
    to_judge = folder and not workspace.has_part(EVALUATION, ids.model_id, part, digest=judgement)
    jobs = []
    for span in spans:
        eyes_here, digest = eyes.iloc[span.rows], digests[span.index]
        missing = tuple(
            table
            for table in SHARD_TABLES
            if not workspace.has_part(table, explain_id, span.part, digest=digest)
        )
        masks = str(folder) if to_judge and eyes_here["mask"].ne("").any() else ""
        if missing or to_sum or masks:
            jobs.append(
                AggregateJob(
                    ids,
                    span,
                    eyes_here,
                    recipe.preprocess,
                    recipe.attribution,
                    heatmaps,
                    localisation,
                    missing,
                    digest,
                    to_sum,
                    masks,
                )
            )
    sums: GroupHeatmaps | None = None

    def collect(result: ShardResult) -> ShardResult:
        nonlocal sums
        if sums is None:
            sums = result.sums
        elif result.sums:
            sums.merge(result.sums)
        return dataclasses.replace(result, sums=None)

    results = run_in_waves(
        session.pool,
        STEP,
        aggregate_shard,
        jobs,
        images_of=lambda job: job.span.images,
        collect=collect,
    )
    if to_sum:
        total = sums or GroupHeatmaps(1)
        # The arrays first: the table's digest is what says that both are there.
        if total.sums:
            keys, images, positive, negative = zip(*total.means(), strict=True)
            write_group_maps(
                workspace.files, explain_id, keys, images, np.stack(positive), np.stack(negative)
            )
        workspace.write_table(
            "group_heatmaps",
            total.rows(heatmaps, crop=recipe.preprocess.crop),
            partition=explain_id,
            part="groups",
            digest=groups,
        )
    problems = [problem for result in results for problem in result.problems]
    if to_judge:
        judged = [eye for result in results for eye in result.judged]
        write_judgements(workspace, ids, judged, localisation, part, judgement)
    regions, neurons = (
        workspace.count(table, explain_id=explain_id) for table in ("lesion_regions", "neurons")
    )
    result = StepResult(
        STEP,
        sum(span.images for span in spans),
        sum(job.span.images for job in jobs if job.missing),
        f"{regions:,} lesion regions, {neurons:,} neurons in the tables of {explain_id}",
    ).and_then(in_words(workspace, ids) if folder else "")
    return result.and_then(
        f"{len(problems)} lesion masks could not be used, the first of {problems[0]}"
        if problems
        else ""
    )
