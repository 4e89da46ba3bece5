"""What channels and regions have to do with lesion types: tables `units` (study lesions) and
`region_clusters` (METHOD §9).

Both follow the other tables of an explanation. Where there are no masks no channel is judged, and
regions are grouped all the same.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import PreprocessParams
from dr_lib.localisation import LesionMasks, LocalisationParams, UnusableMask
from dr_lib.localisation.channel_dissection import (
    ChannelDissectionParams,
    ChannelMaps,
    agreement,
    unit_rows,
)
from dr_lib.maps.region_clustering import RegionClusteringParams, cluster, descriptors
from dr_lib.network.model import scaled
from dr_lib.vocabulary import LESION_TYPES
from storage.ids import content_id
from storage.photos.types import Source
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes
from tasks.access.masks import eye_masks, masks_of, with_masks
from tasks.access.stores import crop_settings, discs, explanation_store, fundus_store
from tasks.execution.network import Workers
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import loaded_model
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session
from tasks.run.table_part import TablePart

EYES_PER_JOB = 8
REGION = ("image_id", "source", "quantity", "sign", "region")


def lesion_study(
    session: Session,
    recipe: Recipe,
    sources: Sequence[Source],
    localisation: LocalisationParams,
    clustering: RegionClusteringParams,
    dissection: ChannelDissectionParams,
) -> str:
    """Fills both tables; returns on how many eyes channels were judged, in a few words, empty
    where there are no masks.
    """
    workspace, ids = session.workspace, recipe.resolve(session.workspace)
    index = masks_of(workspace, sources, localisation)
    store = explanation_store(workspace, ids.explain_id)
    eyes = with_masks(explained_eyes(workspace, ids.model_id, store.image_ids), index)
    eyes["part"] = ""
    for record in store.records():
        span = store.spans()[record.shard]
        eyes.loc[span.start : span.stop - 1, "part"] = span.part
    # Who was explained is in the tables already, so that no array is read for it once more.
    attributions = workspace.frame("attributions", explain_id=ids.explain_id)
    explained = attributions.loc[attributions["failure"].isna(), "image_id"]
    eyes = eyes[eyes["image_id"].isin(explained) & eyes["part"].ne("")]
    job = LesionJob(ids, eyes, recipe.preprocess)
    _group_regions(session, job, clustering)
    judged = 0 if index is None else _judge_channels(session, job, dissection)
    return f"channels judged on {judged} eyes with masks" if judged else ""


@dataclass(frozen=True)
class LesionJob:
    """Some explained eyes, by the rows of `explained_eyes`, with each one's mask files, the stamp
    of these, and the part of the tables that it is in.
    """

    ids: ResolvedIds
    eyes: pd.DataFrame
    preprocess: PreprocessParams

    def masked_fundi(self) -> tuple[np.ndarray, list[LesionMasks | None]]:
        """The eyes' fundi and lesions; None for an eye without a mask, and for a mask that cannot
        be used, which the judgement of maps has told of already.
        """
        store = fundus_store(self.ids.workspace, self.ids.preprocess_id)
        positions = self.eyes["position"].to_numpy()
        fundi, placed = store.read_rows(positions, ["pixels"])["pixels"], discs(store, positions)
        masks: list[LesionMasks | None] = [None] * len(self.eyes)
        for row, eye in enumerate(self.eyes.to_dict("records")):
            seen = eye["files"], eye, placed[row], fundi[row], self.preprocess
            with contextlib.suppress(UnusableMask):
                masks[row] = eye_masks(*seen) if eye["mask"] else None
        return fundi, masks


def _judge_channels(session: Session, job: LesionJob, params: ChannelDissectionParams) -> int:
    """Judges every channel of the layers on the explained eyes with masks; returns on how many
    eyes.
    """
    workspace, explain_id = session.workspace, job.ids.explain_id
    eyes = job.eyes[job.eyes["mask"] != ""].head(params.limit or None)
    made_from = {
        "eyes": eyes[["image_id", "sha256", "mask"]].to_numpy().tolist(),
        "settings": dataclasses.asdict(params) | crop_settings(job.preprocess),
        "columns": SCHEMAS["units"].names,
    }
    part = TablePart(workspace, explain_id, "lesions", content_id(made_from))
    if not part.missing("units"):
        return len(eyes)
    parts = [eyes.iloc[start : start + EYES_PER_JOB] for start in range(0, len(eyes), EYES_PER_JOB)]
    work = functools.partial(_agreements, params.layers)
    results = in_waves(session.network, "channel dissection", work, job, parts)
    rows = []
    for layer in params.layers:
        if judged := [eye for result in results for eye in result[layer]]:
            patients, rest, others = (np.stack(values) for values in zip(*judged, strict=True))
            rows += unit_rows(layer, LESION_TYPES, rest, others, patients, params)
    empty = dict.fromkeys(SCHEMAS["units"].names)
    part.write("units", [empty | row for row in rows])
    return len(eyes)


def in_waves(
    pool: Workers,
    name: str,
    work: Callable[[LesionJob], Any],
    job: LesionJob,
    parts: Iterable[pd.DataFrame],
) -> list[Any]:
    """The results of some work on each of these parts of a job's eyes."""
    jobs = [dataclasses.replace(job, eyes=eyes) for eyes in parts]
    return run_in_waves(pool, name, work, jobs, images_of=lambda job: len(job.eyes))


def _agreements(layers: Sequence[str], job: LesionJob) -> dict[str, list[tuple]]:
    """Runs on a worker: for each layer (patient, AUCs against the rest, against other lesions)
    of every eye with a lesion.
    """
    model = loaded_model(job.ids.location, job.ids.model_id)
    pixels, masks = job.masked_fundi()
    x = scaled(pixels)
    agreements: dict[str, list[tuple]] = {layer: [] for layer in layers}
    for layer, judged in agreements.items():
        channels = ChannelMaps(model, layer)
        if not channels.has_places:
            continue
        for image, patient, lesions in zip(x, job.eyes["patient_id"], masks, strict=True):
            if lesions is None or not lesions.kinds:
                continue
            absent = np.zeros_like(lesions.inside)
            kinds = {str(kind): lesions.kinds.get(kind, absent) for kind in LESION_TYPES}
            judged.append(
                (patient, *agreement(channels.of(image), kinds, channels.cells, lesions.inside))
            )
    return agreements


def _group_regions(session: Session, job: LesionJob, params: RegionClusteringParams) -> None:
    """Groups the positive regions of one source by their appearance; with the lesion type beside
    each where there is a mask.
    """
    workspace, explain_id = session.workspace, job.ids.explain_id
    made_from = {
        "regions": workspace.part_digests("lesion_regions", explain_id),
        "masks": job.eyes["mask"].tolist(),
        "settings": dataclasses.asdict(params),
        "columns": SCHEMAS["region_clusters"].names,
    }
    part = TablePart(workspace, explain_id, "clusters", content_id(made_from))
    if not part.missing("region_clusters"):
        return
    work = functools.partial(_described, params.source)
    parts = (eyes for _, eyes in job.eyes.groupby("part"))
    results = in_waves(session.pool, "region clustering", work, job, parts)
    features = [features for _, features in results] or [np.zeros((0, 1))]
    groups = cluster(np.concatenate(features), params)
    rows = pd.DataFrame(
        [row for regions, _ in results for row in regions], columns=[*REGION, "lesion"]
    ).assign(**vars(groups))
    part.write("region_clusters", rows)


def _described(source: str, job: LesionJob) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Runs on a worker: the regions of a shard's eyes (as rows without a group) and their
    features.
    """
    part = job.eyes["part"].iloc[0]
    regions = job.ids.workspace.part("lesion_regions", job.ids.explain_id, part)
    regions = regions[(regions["source"] == source) & (regions["sign"] == "positive")]
    by_eye = {name: rows.to_dict("records") for name, rows in regions.groupby("image_id")}
    rows, features = [], []
    for image_id, pixels, masks in zip(job.eyes["image_id"], *job.masked_fundi(), strict=True):
        rows_of_eye = by_eye.get(image_id, [])
        features.append(descriptors(pixels, rows_of_eye))
        rows += [
            {name: row[name] for name in REGION}
            | {"lesion": None if masks is None else _lesion_of(row, masks)}
            for row in rows_of_eye
        ]
    return rows, np.concatenate(features)


def _lesion_of(region: Mapping[str, Any], masks: LesionMasks) -> str:
    """The type with the most pixels in the region's bounding box, or none."""
    box = (
        slice(region["bbox_top_px"], region["bbox_bottom_px"]),
        slice(region["bbox_left_px"], region["bbox_right_px"]),
    )
    counts = {kind: int(mask[box].sum()) for kind, mask in masks.kinds.items()}
    best = max(counts, key=counts.__getitem__, default="none")
    return best if counts.get(best) else "none"
