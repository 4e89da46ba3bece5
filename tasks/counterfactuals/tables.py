"""The tables of changed images, made of the stored ones: rows by eye and method, paired
comparisons, transfers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.perturbation.comparison import comparisons, feature_distances, transfer
from dr_lib.perturbation.strength_search import StrengthResult, result_rows
from storage import Workspace
from storage.arrays.store import Span
from storage.contents.explanations import NUMBERS
from storage.ids import content_id
from tasks.access.stores import span_digests
from tasks.counterfactuals.shard import PairStudy
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import classifier_outputs, inputs
from tasks.run.session import Session
from tasks.run.table_part import TablePart

EYE_TABLES = ("counterfactuals", "adversarials")
PAIR_TABLES = ("comparisons", "transfers")
STAGES = ("true_stage", "predicted_stage", "target_stage")


@dataclass(frozen=True)
class TabulateJob:
    """One shard of changed images whose rows are missing or out of date.

    reference: image_id and position of real eyes of the target stage.
    """

    study: PairStudy
    span: Span
    eyes: pd.DataFrame
    part: TablePart
    reference: tuple[tuple[str, int], ...]


def tabulate(
    session: Session, study: PairStudy, eyes: pd.DataFrame, reference: pd.DataFrame
) -> None:
    """Writes the rows of every finished shard whose part is missing or out of date.

    reference: image_id, position and sha256 of real eyes of the target stage.
    """
    store = study.store
    made_from = span_digests(store)
    settings = [
        reference[["image_id", "sha256"]].to_numpy().tolist(),
        study.second,
        study.params.methods,
        study.adversarial.methods,
    ]
    examples = tuple(zip(reference["image_id"], reference["position"].astype(int), strict=True))
    jobs = []
    for span in store.spans():
        digest = content_id({"shard": made_from[span.index], "settings": settings})
        name = f"{study.params.pair}-{span.part}"
        part = TablePart(session.workspace, study.explain_id, name, digest)
        if part.missing(*EYE_TABLES):
            jobs.append(TabulateJob(study, span, eyes.iloc[span.rows], part, examples))
    run_in_waves(
        session.network,
        "counterfactuals' tables",
        _tabulate_shard,
        jobs,
        images_of=lambda job: job.span.images,
    )


def _tabulate_shard(job: TabulateJob) -> int:
    """Runs on a worker: the rows of one shard of both tables."""
    study, target = job.study, job.study.params.target_stage
    eyes = job.eyes[job.eyes["sha256"].notna()]
    image_ids = [str(image_id) for image_id in eyes.index]
    frames: dict[str, list[pd.DataFrame]] = {table: [] for table in EYE_TABLES}
    if image_ids:
        x = inputs(study, eyes["position"].to_numpy())
        before = _judged(job, image_ids, x, "before")
        methods = study.params.methods, study.adversarial.methods
        for table, names in zip(EYE_TABLES, methods, strict=True):
            for method in names:
                result = _stored_result(job, method)
                rows = pd.DataFrame(result_rows(image_ids, method, target, x, result))
                after = _judged(job, image_ids, result.images, "after")
                after["feature_distance_after"][result.failed] = np.nan
                frames[table].append(rows.assign(**before | after))
    for table, parts in frames.items():
        job.part.write(table, pd.concat(parts, ignore_index=True) if parts else [])
    return job.span.images


def _stored_result(job: TabulateJob, method: str) -> StrengthResult:
    """What the search of one method found for the shard's eyes that qualify."""
    names = ("original/probability", *(f"{method}/{name}" for name in (*NUMBERS, "image")))
    chosen = job.eyes["sha256"].notna().to_numpy()
    before, *arrays, after, images = (
        values[chosen] for values in job.study.store.read(job.span, names).values()
    )
    numbers = dict(zip(NUMBERS[:-1], arrays, strict=True))
    return StrengthResult(**numbers, before=before, after=after, images=images)


def _judged(
    job: TabulateJob, image_ids: Sequence[str], images: np.ndarray, when: str
) -> dict[str, Any]:
    """The columns for which two models are asked about the images, as they are before or after a
    change: how near to real eyes, and what the second model makes of them.
    """
    study = job.study
    places = {image_id: number for number, (image_id, _) in enumerate(job.reference)}
    made_from = np.array([places.get(image_id, -1) for image_id in image_ids])
    features, real = study.outputs.features(images), reference_features(study, job.reference)
    distance, typical = feature_distances(features, real, made_from)
    stage = probability = None
    if study.second:
        outputs = classifier_outputs(study.location, study.second, study.params.batch_size)
        found = outputs.predict(images)
        stage, probability = found.argmax(axis=1), found[:, study.params.target_stage]
    return {
        f"feature_distance_{when}": distance,
        "feature_distance_typical": typical,
        "second_model_id": study.second or None,
        f"second_stage_{when}": stage,
        f"second_probability_{when}": probability,
    }


@functools.lru_cache(maxsize=2)
def reference_features(study: PairStudy, reference: tuple[tuple[str, int], ...]) -> np.ndarray:
    """Features of the real eyes that changed ones are compared with, (eye, feature); kept, since
    every shard needs them.
    """
    return study.outputs.features(inputs(study, [position for _, position in reference]))


def _pair_rows(workspace: Workspace, study: PairStudy) -> list[pd.DataFrame]:
    """The pair's rows in the tables of eyes, a frame a table."""
    frames = [
        workspace.frame(table, explain_id=study.explain_id, target_stage=study.params.target_stage)
        for table in EYE_TABLES
    ]
    return [frame[frame["image_id"].isin(study.store.image_ids)] for frame in frames]


def write_pair_tables(workspace: Workspace, study: PairStudy) -> None:
    """Compares the methods over all eyes and counts transfers, unless no row has changed."""
    params, pair = study.params, study.params.pair
    made_from = {
        table: {name: digest for name, digest in digests.items() if name.startswith(pair)}
        for table in EYE_TABLES
        for digests in [workspace.part_digests(table, study.explain_id)]
    }
    part = TablePart(workspace, study.explain_id, pair, content_id(made_from))
    if not part.missing(*PAIR_TABLES):
        return
    rows = pd.concat(_pair_rows(workspace, study), ignore_index=True)
    patients = workspace.photos().set_index("image_id")["patient_id"]
    rows["patient_id"] = rows["image_id"].map(patients)
    methods = (*params.methods, *study.adversarial.methods)
    transfers = [
        {"method": method, "second_model_id": study.second}
        | transfer(rows[rows["method"] == method])
        for method in (methods if study.second else ())
    ]
    compared = comparisons(rows, params.methods, study.adversarial.methods)
    stages = {name: getattr(params, name) for name in STAGES}
    for table, about in zip(PAIR_TABLES, (compared, transfers), strict=True):
        part.write(table, [stages | row for row in about])


def summary(workspace: Workspace, study: PairStudy) -> str:
    """How many eyes each method brought to the target, and how strongly, for the run's last
    words.
    """
    words = []
    for frame in _pair_rows(workspace, study):
        for method, rows in frame.groupby("method", sort=True):
            strengths = rows.loc[rows["reached"], "strength"]
            median = f" at median strength {strengths.median():.3g}" if len(strengths) else ""
            words.append(f"{method}: {len(strengths)} of {len(rows)} reached the target{median}")
    return "; ".join(words)
