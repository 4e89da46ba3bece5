"""The tables of changed images, made of the stored ones: rows by eye and method, paired
comparisons, transfers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.network.model import scaled
from dr_lib.perturbation.adversarial import AdversarialParams
from dr_lib.perturbation.comparison import comparisons, transfer
from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.perturbation.image_measures import feature_distances
from dr_lib.perturbation.strength_search import StrengthResult, result_rows
from storage import Workspace, open_workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.counterfactuals import NUMBERS, counterfactuals_path
from storage.ids import content_id
from tasks.access.stores import span_digests
from tasks.counterfactuals.shard import PairIds
from tasks.execution.waves import run_in_waves
from tasks.execution.worker import classifier_outputs, fundi
from tasks.run.session import Session

CHANGE_TABLES = ("counterfactuals", "adversarials")
PAIR_TABLES = ("comparisons", "transfers")
SECOND = (
    "second_stage_before",
    "second_stage_after",
    "second_probability_before",
    "second_probability_after",
)


def tabulate(
    session: Session,
    store: ShardedStore,
    pair_ids: PairIds,
    eyes: pd.DataFrame,
    reference: pd.DataFrame,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    second: str,
) -> None:
    """Writes the rows of every finished shard whose part is missing or out of date.

    reference: image_id, position and sha256 of real eyes of the target stage. second: a model to
    ask, or empty.
    """
    workspace, made_from = session.workspace, span_digests(store)
    settings = [
        reference[["image_id", "sha256"]].to_numpy().tolist(),
        second,
        params.methods,
        adversarial.methods,
    ]
    jobs = []
    for span in store.spans():
        digest = content_id({"shard": made_from[span.index], "settings": settings})
        part = f"{pair_ids.pair}-{span.part}"
        if not all(
            workspace.has_part(table, pair_ids.explain_id, part, digest=digest)
            for table in CHANGE_TABLES
        ):
            known = tuple(
                zip(reference["image_id"], reference["position"].astype(int), strict=True)
            )
            jobs.append(
                TabulateJob(
                    pair_ids,
                    span,
                    eyes.iloc[span.rows],
                    part,
                    digest,
                    known,
                    params,
                    adversarial,
                    second,
                )
            )
    run_in_waves(
        session.pool,
        "counterfactuals' tables",
        _tabulate_shard,
        jobs,
        images_of=lambda job: job.span.images,
    )


@dataclass(frozen=True)
class TabulateJob:
    """One shard of changed images whose rows are missing or out of date."""

    ids: PairIds
    span: Span
    eyes: pd.DataFrame
    part: str
    digest: str
    reference: Sequence[tuple[str, int]]
    params: CounterfactualParams
    adversarial: AdversarialParams
    second: str


def _tabulate_shard(job: TabulateJob) -> int:
    """Runs on a worker: the rows of one shard of both tables."""
    workspace = open_workspace(job.ids.location)
    store = ShardedStore.open(
        workspace.files, counterfactuals_path(job.ids.explain_id, job.ids.pair)
    )
    chosen = np.flatnonzero(job.eyes["sha256"].notna())
    tables = dict(zip(CHANGE_TABLES, (job.params.methods, job.adversarial.methods), strict=True))
    rows: dict[str, list[dict]] = {table: [] for table in tables}
    if len(chosen):
        x = scaled(
            fundi(
                job.ids.location,
                job.ids.preprocess_id,
                job.eyes["position"].to_numpy(np.int64)[chosen],
            )
        )
        ids = [str(image_id) for image_id in job.eyes.index[chosen]]
        judge = _Judge(job.ids, ids, x, job.reference, job.params.batch_size, job.second)
        before = store.read(job.span, ["original/probability"])["original/probability"][chosen]
        for table, methods in tables.items():
            for method in methods:
                found = _read(store, job.span, method, chosen, before)
                made = result_rows(ids, method, job.params.target_stage, x, found)
                rows[table] += [
                    one | more
                    for one, more in zip(
                        made, judge.judged(found, job.params.target_stage), strict=True
                    )
                ]
    for table, found in rows.items():
        workspace.write_table(
            table, found, partition=job.ids.explain_id, part=job.part, digest=job.digest
        )
    return job.span.images


def _read(
    store: ShardedStore, span: Span, method: str, chosen: np.ndarray, before: np.ndarray
) -> StrengthResult:
    paths = [f"{method}/{name}" for name in (*NUMBERS, "image")]
    arrays = {
        path.rpartition("/")[2]: values[chosen] for path, values in store.read(span, paths).items()
    }
    after, images = arrays.pop("probability"), arrays.pop("image")
    return StrengthResult(**arrays, before=before, after=after, images=images)


class _Judge:
    """Asks two models about a shard's changed images: how near to real eyes, and whether the
    second changes its mind.
    """

    def __init__(
        self,
        pair_ids: PairIds,
        ids: list[str],
        x: np.ndarray,
        reference,
        batch_size: int,
        second: str,
    ):
        self.outcomes = classifier_outputs(pair_ids.location, pair_ids.model_id, batch_size)
        self.real = reference_features(pair_ids, reference, batch_size)
        places = {image_id: index for index, (image_id, _) in enumerate(reference)}
        self.own = np.array([places.get(image_id, -1) for image_id in ids])
        self.before, self.typical = feature_distances(
            self.outcomes.features(x), self.real, self.own
        )
        self.second = second
        self.other = (
            classifier_outputs(pair_ids.location, second, batch_size).predict if second else None
        )
        self.other_before = None if self.other is None else self.other(x)

    def judged(self, found: StrengthResult, target: int) -> list[dict]:
        """The further columns of each row; a failed eye has no measures."""
        after, _ = feature_distances(self.outcomes.features(found.images), self.real, self.own)
        after = np.where(found.failed, np.nan, after)
        before, other = self.other_before, None if self.other is None else self.other(found.images)
        return [
            {
                "feature_distance_before": self.before[i],
                "feature_distance_after": after[i],
                "feature_distance_typical": self.typical,
                "second_model_id": self.second or None,
                **(
                    dict.fromkeys(SECOND)
                    if before is None or other is None
                    else _second(before[i], other[i], target)
                ),
            }
            for i in range(len(after))
        ]


def _second(before: np.ndarray, after: np.ndarray, target: int) -> dict[str, float | int]:
    numbers = (
        int(before.argmax()),
        int(after.argmax()),
        float(before[target]),
        float(after[target]),
    )
    return dict(zip(SECOND, numbers, strict=True))


@functools.lru_cache(maxsize=2)
def reference_features(
    pair_ids: PairIds, reference: tuple[tuple[str, int], ...], batch_size: int
) -> np.ndarray:
    """Features of the real eyes that changed ones are compared with, (eye, feature); kept, since
    every shard needs them.
    """
    outcomes = classifier_outputs(pair_ids.location, pair_ids.model_id, batch_size)
    positions = np.array([position for _, position in reference], np.int64)
    return outcomes.features(scaled(fundi(pair_ids.location, pair_ids.preprocess_id, positions)))


def pair_rows(
    workspace: Workspace, pair_ids: PairIds, store: ShardedStore, params: CounterfactualParams
) -> dict[str, pd.DataFrame]:
    """The rows of a pair of stages in both tables."""
    ids = set(store.image_ids)
    frames = {name: workspace.frame(name, explain_id=pair_ids.explain_id) for name in CHANGE_TABLES}
    return {
        name: frame[(frame["target_stage"] == params.target_stage) & frame["image_id"].isin(ids)]
        for name, frame in frames.items()
    }


def write_pair_tables(
    workspace: Workspace,
    store: ShardedStore,
    pair_ids: PairIds,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    second: str,
) -> None:
    """Compares the methods over all eyes and counts transfers, unless no row has changed."""
    parts = {
        table: {name: digest for name, digest in found.items() if name.startswith(pair_ids.pair)}
        for table, found in (
            (table, workspace.part_digests(table, pair_ids.explain_id)) for table in CHANGE_TABLES
        )
    }
    digest = content_id(parts)
    if all(
        workspace.has_part(table, pair_ids.explain_id, pair_ids.pair, digest=digest)
        for table in PAIR_TABLES
    ):
        return
    rows = pd.concat(pair_rows(workspace, pair_ids, store, params).values(), ignore_index=True)
    patients = workspace.photos().set_index("image_id")["patient_id"]
    rows["patient_id"] = rows["image_id"].map(patients)
    stages = {
        name: getattr(params, name) for name in ("true_stage", "predicted_stage", "target_stage")
    }
    found = {"comparisons": comparisons(rows, params.methods, adversarial.methods), "transfers": []}
    if second:
        found["transfers"] = [
            {
                "method": method,
                "second_model_id": second,
                **transfer(rows[rows["method"] == method]),
            }
            for method in (*params.methods, *adversarial.methods)
        ]
    for table, some in found.items():
        made = [stages | one for one in some]
        workspace.write_table(
            table, made, partition=pair_ids.explain_id, part=pair_ids.pair, digest=digest
        )


def summary(
    workspace: Workspace, pair_ids: PairIds, store: ShardedStore, params: CounterfactualParams
) -> str:
    """How many eyes each method brought to the target, and how strongly, for the run's last
    words.
    """
    parts = []
    for frame in pair_rows(workspace, pair_ids, store, params).values():
        for method, rows in frame.groupby("method", sort=True):
            reached = rows[rows["reached"]]
            strength = (
                f" at median strength {reached['strength'].median():.3g}" if len(reached) else ""
            )
            parts.append(f"{method}: {len(reached)} of {len(rows)} reached the target{strength}")
    return "; ".join(parts)
