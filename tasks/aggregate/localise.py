"""Are the highlighted places lesions? Every map of explained eyes that have a lesion mask, judged
beside simple rivals.

Runs after the tables of an explanation, on the workers, a shard a job; leaves rows in `evaluation`
under the stratum "masks". Where there are no masks there is nothing to do, and nothing is said.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.localisation import Judge, LocalisationParams, UnusableMask, score_rows, smoothed
from dr_lib.network.model import layer_names
from storage import Workspace
from storage.arrays.store import Span
from storage.contents.models import load_record
from storage.ids import content_id
from storage.photos.masks import MaskFile, MaskIndex
from storage.tables.schemas import SCHEMAS
from tasks.access.explained import explained_rows, maps_of
from tasks.access.map_scores import STRATUM, pixel_aucs
from tasks.access.masks import eye_masks, masks_of
from tasks.access.stores import (
    as_text,
    crop_settings,
    discs,
    explanation_store,
    fundus_store,
    span_digests,
)
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import model_params, rivals
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.session import Session

STEP = "localise"
RIVAL_QUANTITY = "referable"
COLUMNS = SCHEMAS["evaluation"].names
PROBLEMS_NAMED = 3


def localise(session: Session, recipe: Recipe, photos: str, params: LocalisationParams) -> str:
    """Writes the explanation's rows of `evaluation`; returns what was found in a few words,
    empty where there are no masks.
    """
    workspace = session.workspace
    index = masks_of(workspace, photos, params)
    if index is None:
        return ""
    ids = recipe.resolve(workspace)
    model_id, explain_id = ids.model_id, ids.explain_id
    store = explanation_store(workspace, explain_id)
    made_from = span_digests(store)
    spans = [span for span in store.spans() if span.index in made_from]
    eyes = masked_eyes(workspace, model_id, store.image_ids, index)
    part = f"localisation-{explain_id}"
    how = dataclasses.asdict(params) | crop_settings(recipe.preprocess)
    digest = content_id({"shards": made_from, "eyes": as_text(eyes), "how": how})
    if not workspace.has_part("evaluation", model_id, part, digest=digest):
        settings = (recipe.preprocess, recipe.engine, params)
        jobs = [
            JudgeJob(
                ids, _files(index, eyes.iloc[span.rows]), span, eyes.iloc[span.rows], *settings
            )
            for span in spans
            if eyes.iloc[span.rows]["mask"].ne("").any()
        ]
        results = run_in_waves(
            session.pool,
            STEP,
            judge_shard,
            jobs,
            images_of=lambda job: int(job.eyes["mask"].ne("").sum()),
        )
        judged = [eye for found, _ in results for eye in found]
        problems = [problem for _, found in results for problem in found]
        rows = pd.DataFrame(_rows(judged, explain_id, params)).reindex(columns=COLUMNS)
        workspace.write_table("evaluation", rows, partition=model_id, part=part, digest=digest)
    else:
        problems = []
    found = in_words(workspace, model_id, explain_id)
    return "; ".join([found, *_set_aside(problems), *_unknown(index)])


def _files(index: MaskIndex, eyes: pd.DataFrame) -> dict[str, tuple[MaskFile, ...]]:
    return {name: index.files[name] for name in eyes["image_id"] if name in index.files}


def _set_aside(problems: list[str]) -> list[str]:
    if not problems:
        return []
    more = f" and {len(problems) - PROBLEMS_NAMED} more" if len(problems) > PROBLEMS_NAMED else ""
    named = ", ".join(problems[:PROBLEMS_NAMED])
    return [f"{len(problems)} eyes' lesion masks could not be used: {named}{more}"]


def _unknown(index: MaskIndex) -> list[str]:
    """What lies among the masks and is not used, in words."""
    words = []
    if index.unknown:
        kinds = ", ".join(f"{name} ({count})" for name, count in index.unknown.items())
        words.append(f"masks of types that are not known were left out: {kinds}")
    if index.strangers:
        words.append(f"{index.strangers} masks belong to no photograph here")
    return words


def in_words(workspace: Workspace, model_id: str, explain_id: str) -> str:
    """The best map by pixel AUC, rivals among them, as the end of a sentence."""
    rows = pixel_aucs(workspace, model_id, explain_id)
    if rows.empty:
        return "no explained eye has a lesion in its mask"
    best = rows.iloc[0]
    return (
        f"lesions in {int(best['images'])} masks: best map {best['map']}, "
        f"pixel AUC {best['value']:.3f} ({best['low']:.3f}–{best['high']:.3f})"
    )


def masked_eyes(
    workspace: Workspace, model_id: str, image_ids: list[str], index: MaskIndex
) -> pd.DataFrame:
    """The explained eyes in their order, with their photograph's size and their masks' stamp
    (empty: no mask).
    """
    photos = workspace.photos().set_index("image_id").reindex(image_ids)
    predicted = workspace.frame("predictions", model_id=model_id).set_index("image_id")[
        "predicted_stage"
    ]
    eyes = photos[["patient_id", "split", "position", "width_px", "height_px"]].assign(
        predicted_stage=predicted.reindex(image_ids),
        mask=[index.stamp(image_id) for image_id in image_ids],
    )
    return eyes.reset_index(names="image_id")


@dataclass(frozen=True)
class JudgeJob:
    """One shard of explained eyes with lesion masks."""

    ids: ResolvedIds
    masks: Mapping[str, tuple[MaskFile, ...]]
    span: Span
    eyes: pd.DataFrame
    preprocess: PreprocessParams
    explained: AttributionParams
    params: LocalisationParams


def judge_shard(job: JudgeJob) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs on a worker: (one entry an eye with split, patient and each map's scores; problems
    with masks, in words).
    """
    workspace, ids = job.ids.workspace, job.ids
    paths = [
        "pixels/status",
        "pixels/attribution",
        *(f"layers/{layer}/resultant" for layer in job.explained.layers),
    ]
    paths += ["lesion/map"] if job.explained.lesion_poses else []
    arrays = explanation_store(workspace, ids.explain_id).read(job.span, paths)
    fundi, rows = fundus_store(workspace, ids.preprocess_id), job.eyes["position"].to_numpy()
    pixels, placed = fundi.read_rows(rows, ["pixels"])["pixels"], discs(fundi, rows)
    known = layer_names(model_params(load_record(workspace.files, ids.model_id)))
    cams = tuple(name for name in job.params.rival_layers if name in known)
    judged, problems = [], []
    for row in explained_rows(arrays["pixels/status"], job.eyes):
        eye = job.eyes.iloc[row]
        if not eye["mask"]:
            continue
        files = job.masks[eye["image_id"]]
        try:
            masks = eye_masks(files, eye, placed[row], pixels[row], job.preprocess)
        except UnusableMask as problem:
            problems.append(f"{eye['image_id']}: {problem}")
            continue
        maps = _judged_maps(maps_of(arrays, row, int(eye["predicted_stage"]), job.explained))
        if job.params.rivals and masks.kinds:
            found = rivals(ids.location, ids.model_id, RIVAL_QUANTITY, cams).maps(
                pixels[row], crop=job.preprocess.crop
            )
            maps |= {(name, None): values for name, values in found.items()}
        judge = Judge(masks, job.params)
        scores = {
            name: judge.scores(smoothed(values, job.params.smoothing_px))
            for name, values in maps.items()
            if masks.kinds
        }
        judged.append({"split": eye["split"], "patient_id": eye["patient_id"], "scores": scores})
    return judged, problems


def _judged_maps(
    maps: dict[tuple[str, str], np.ndarray],
) -> dict[tuple[str, str | None], np.ndarray]:
    """One map a source and quantity: of a layer's two resultants that of the positive neurons,
    named without its quantity.

    What a layer explains differs from eye to eye when it is the predicted stage; its eyes are
    judged together all the same.
    """
    return {
        (source, None if v.ndim == 3 else quantity): v[0] if v.ndim == 3 else v
        for (source, quantity), v in maps.items()
    }


def _rows(
    judged: list[dict[str, Any]], explain_id: str, params: LocalisationParams
) -> list[dict[str, Any]]:
    rows = []
    for split in sorted({eye["split"] for eye in judged}):
        there = [eye for eye in judged if eye["split"] == split]
        for source, quantity in dict.fromkeys(name for eye in there for name in eye["scores"]):
            with_map = [eye for eye in there if (source, quantity) in eye["scores"]]
            scores = [eye["scores"][source, quantity] for eye in with_map]
            place = {
                "split": split,
                "stratum": STRATUM,
                "explain_id": explain_id,
                "source": source,
                "quantity": quantity,
            }
            rows += [
                {**place, **row}
                for row in score_rows(scores, [eye["patient_id"] for eye in with_map], params)
            ]
    return rows
