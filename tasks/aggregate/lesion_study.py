"""What channels and regions have to do with lesion types: tables `units` (study lesions) and
`region_clusters` (METHOD §9).

Both follow the other tables of an explanation. Where there are no masks no channel is judged, and
regions are grouped all the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.fundus import Disc, PreprocessParams
from dr_lib.localisation import LesionMasks, LocalisationParams, UnusableMask
from dr_lib.localisation.channel_dissection import (
    ChannelMaps,
    LesionUnitParams,
    agreement,
    unit_rows,
)
from dr_lib.maps.region_clustering import AppearanceParams, cluster, descriptors
from dr_lib.network.model import scaled
from dr_lib.vocabulary import LESION_TYPES
from storage import open_workspace
from storage.ids import content_id
from storage.photos.masks import MaskFile, MaskIndex
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.masks import eye_masks, masks_of
from tasks.access.stores import crop_settings, discs, explanation_store, fundus_store
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import fundi, loaded_model
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session

EYES_PER_JOB = 8
REGION = ("image_id", "source", "quantity", "sign", "region")


def lesion_study(
    session: Session,
    recipe: Recipe,
    photos: str,
    localisation: LocalisationParams,
    appearance: AppearanceParams,
    units: LesionUnitParams,
) -> str:
    """Fills both tables; returns on how many eyes channels were judged, in a few words, empty
    where there are no masks.
    """
    index = masks_of(session.workspace, photos, localisation)
    eyes = _explained(session, recipe, index)
    _group_regions(session, recipe, eyes, appearance)
    judged = 0 if index is None else _judge_channels(session, recipe, eyes, units)
    return f"channels judged on {judged} eyes with masks" if judged else ""


def _explained(
    session: Session, recipe: Recipe, index: MaskIndex | None
) -> dict[str, pd.DataFrame]:
    """Of each part of the tables the explained eyes, with what is known of their photograph, their
    mask files, and the stamp of these (empty: no mask).
    """
    workspace = session.workspace
    store = explanation_store(workspace, recipe.explain_id(workspace))
    eyes = explained_eyes(workspace, recipe.model_id(workspace), store.image_ids)
    photos = workspace.photos().set_index("image_id")[["height_px", "width_px", "sha256"]]
    names = eyes["image_id"]
    files = [index.files.get(name, ()) if index else () for name in names]
    stamps = [index.stamp(name) if index else "" for name in names]
    eyes = (
        eyes[["image_id", "position", "patient_id", "predicted_stage"]]
        .join(photos, on="image_id")
        .assign(mask=stamps, files=files)
    )
    done = {record["shard"] for record in store.records()}
    found = {}
    for span in store.spans():
        if span.index in done:
            some = eyes.iloc[span.rows]
            found[span.part] = some.iloc[
                explained_rows(store.read(span, ["pixels/status"])["pixels/status"], some)
            ]
    return found


def _judge_channels(
    session: Session,
    recipe: Recipe,
    parts: Mapping[str, pd.DataFrame],
    params: LesionUnitParams,
) -> int:
    """Judges every channel of the layers on the explained eyes with masks; returns on how many
    eyes.
    """
    workspace, explain_id = session.workspace, recipe.explain_id(session.workspace)
    eyes = [row for some in parts.values() for row in some[some["mask"] != ""].to_dict("records")]
    eyes = eyes[: params.limit] if params.limit else eyes
    made_from = [[eye["image_id"], eye["sha256"], eye["mask"]] for eye in eyes]
    settings = dataclasses.asdict(params) | crop_settings(recipe.preprocess)
    digest = content_id(
        {"eyes": made_from, "settings": settings, "columns": SCHEMAS["units"].names}
    )
    if workspace.has_part("units", explain_id, "lesions", digest=digest):
        return len(eyes)
    ids = recipe.resolve(workspace)
    jobs = [
        DissectionJob(ids, eyes[start : start + EYES_PER_JOB], recipe.preprocess, params)
        for start in range(0, len(eyes), EYES_PER_JOB)
    ]
    found = run_in_waves(
        session.pool, "lesion units", _agreements, jobs, images_of=lambda job: len(job.eyes)
    )
    rows = []
    for layer in params.layers:
        if judged := [eye for one in found for eye in one[layer]]:
            patients, rest, others = (np.stack(values) for values in zip(*judged, strict=True))
            rows += unit_rows(layer, LESION_TYPES, rest, others, patients, params)
    empty = dict.fromkeys(SCHEMAS["units"].names)
    workspace.write_table(
        "units", [empty | row for row in rows], partition=explain_id, part="lesions", digest=digest
    )
    return len(eyes)


@dataclass(frozen=True)
class DissectionJob:
    """Some eyes whose channels are compared with lesion types."""

    ids: ResolvedIds
    eyes: list[dict[str, Any]]
    preprocess: PreprocessParams
    params: LesionUnitParams


def _agreements(job: DissectionJob) -> dict[str, list[tuple]]:
    """Runs on a worker: for each layer (patient, AUCs against the rest, against other lesions)
    of every eye with a lesion.
    """
    location, preprocess_id = job.ids.location, job.ids.preprocess_id
    model = loaded_model(location, job.ids.model_id)
    store = fundus_store(open_workspace(location), preprocess_id)
    rows = np.array([eye["position"] for eye in job.eyes], np.int64)
    pixels = fundi(location, preprocess_id, rows)
    x = scaled(pixels)
    masks = [
        _masks(eye, disc, fundus, job.preprocess)
        for eye, disc, fundus in zip(job.eyes, discs(store, rows), pixels, strict=True)
    ]
    found: dict[str, list[tuple]] = {layer: [] for layer in job.params.layers}
    for layer in job.params.layers:
        channels = ChannelMaps(model, layer)
        if not channels.has_places:
            continue
        for index, (eye, lesions) in enumerate(zip(job.eyes, masks, strict=True)):
            if lesions is None or not lesions.kinds:
                continue
            maps = channels.of(x[index])
            kinds: dict[str, np.ndarray] = {
                kind: lesions.kinds.get(kind, np.zeros_like(lesions.inside))
                for kind in LESION_TYPES
            }
            found[layer].append(
                (eye["patient_id"], *agreement(maps, kinds, channels.cells, lesions.inside))
            )
    return found


def _masks(
    eye: Mapping[str, Any], disc: Disc, pixels: np.ndarray, preprocess: PreprocessParams
) -> LesionMasks | None:
    """An eye's lesions in its fundus; None for one without masks, and for a mask that cannot be
    used, which `localise` has told of already.
    """
    files: Sequence[MaskFile] = eye["files"]
    if not files:
        return None
    try:
        return eye_masks(files, eye, disc, pixels, preprocess)
    except UnusableMask:
        return None


def _group_regions(
    session: Session,
    recipe: Recipe,
    parts: Mapping[str, pd.DataFrame],
    params: AppearanceParams,
) -> None:
    """Groups the positive regions of one source by their appearance; with the lesion type beside
    each where there is a mask.
    """
    workspace, explain_id = session.workspace, recipe.explain_id(session.workspace)
    made_from = {
        "regions": workspace.part_digests("lesion_regions", explain_id),
        "masks": [some["mask"].tolist() for some in parts.values()],
        "settings": dataclasses.asdict(params),
        "columns": SCHEMAS["region_clusters"].names,
    }
    digest = content_id(made_from)
    if workspace.has_part("region_clusters", explain_id, "clusters", digest=digest):
        return
    ids = recipe.resolve(workspace)
    jobs = [
        RegionsJob(ids, part, some.to_dict("records"), recipe.preprocess, params)
        for part, some in parts.items()
        if len(some)
    ]
    found = run_in_waves(
        session.pool, "appearance", _described, jobs, images_of=lambda job: len(job.eyes)
    )
    rows = [row for part, _ in found for row in part]
    groups = cluster(
        np.concatenate([features for _, features in found] or [np.zeros((0, 1))]), params
    )
    for row, number, away, inside in zip(
        rows, groups.cluster, groups.distance, groups.silhouette, strict=True
    ):
        row |= {"cluster": int(number), "distance": float(away), "silhouette": float(inside)}
    workspace.write_table(
        "region_clusters", rows, partition=explain_id, part="clusters", digest=digest
    )


@dataclass(frozen=True)
class RegionsJob:
    """The regions of one shard's eyes, to be grouped by what they look like."""

    ids: ResolvedIds
    part: str
    eyes: list[dict[str, Any]]
    preprocess: PreprocessParams
    params: AppearanceParams


def _described(job: RegionsJob) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Runs on a worker: the regions of a shard's eyes (as rows without a group) and their
    features.
    """
    location, preprocess_id = job.ids.location, job.ids.preprocess_id
    workspace = open_workspace(location)
    regions = workspace.part("lesion_regions", job.ids.explain_id, job.part)
    regions = regions[(regions["source"] == job.params.source) & (regions["sign"] == "positive")]
    by_eye = {name: some.to_dict("records") for name, some in regions.groupby("image_id")}
    store = fundus_store(workspace, preprocess_id)
    places = [eye["position"] for eye in job.eyes]
    shown, placed = store.read_rows(places, ["pixels"])["pixels"], discs(store, places)
    rows, features = [], []
    for eye, pixels, disc in zip(job.eyes, shown, placed, strict=True):
        mine, masks = by_eye.get(eye["image_id"], []), _masks(eye, disc, pixels, job.preprocess)
        features.append(descriptors(pixels, mine))
        rows += [
            {name: row[name] for name in REGION}
            | {"lesion": None if masks is None else _lesion_of(row, masks)}
            for row in mine
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
