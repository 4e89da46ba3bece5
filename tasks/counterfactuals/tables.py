"""The tables of changed images, made of the stored ones: rows by eye and method, paired
comparisons, transfers.
"""

import functools
from collections.abc import Sequence

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
from tasks.counterfactuals.shard import Place
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
    place: Place,
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
        part = f"{place.pair}-{span.part}"
        if not all(
            workspace.has_part(table, place.explain_id, part, digest=digest)
            for table in CHANGE_TABLES
        ):
            known = tuple(
                zip(reference["image_id"], reference["position"].astype(int), strict=True)
            )
            jobs.append(
                (
                    place,
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
        images_of=lambda job: job[1].images,
    )


def _tabulate_shard(
    place: Place,
    span: Span,
    eyes: pd.DataFrame,
    part: str,
    digest: str,
    reference: Sequence[tuple[str, int]],
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    second: str,
) -> int:
    """Runs on a worker: the rows of one shard of both tables."""
    workspace = open_workspace(place.location)
    store = ShardedStore.open(workspace.files, counterfactuals_path(place.explain_id, place.pair))
    chosen = np.flatnonzero(eyes["sha256"].notna())
    tables = dict(zip(CHANGE_TABLES, (params.methods, adversarial.methods), strict=True))
    rows: dict[str, list[dict]] = {table: [] for table in tables}
    if len(chosen):
        x = scaled(
            fundi(place.location, place.fundus_id, eyes["position"].to_numpy(np.int64)[chosen])
        )
        ids = [str(image_id) for image_id in eyes.index[chosen]]
        judge = _Judge(place, ids, x, reference, params.batch_size, second)
        before = store.read(span, ["original/probability"])["original/probability"][chosen]
        for table, methods in tables.items():
            for method in methods:
                found = _read(store, span, method, chosen, before)
                made = result_rows(ids, method, params.target_stage, x, found)
                rows[table] += [
                    one | more
                    for one, more in zip(
                        made, judge.judged(found, params.target_stage), strict=True
                    )
                ]
    for table, found in rows.items():
        workspace.write_table(table, found, partition=place.explain_id, part=part, digest=digest)
    return span.images


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
        self, place: Place, ids: list[str], x: np.ndarray, reference, batch_size: int, second: str
    ):
        self.outcomes = classifier_outputs(place.location, place.model_id, batch_size)
        self.real = reference_features(place, reference, batch_size)
        places = {image_id: index for index, (image_id, _) in enumerate(reference)}
        self.own = np.array([places.get(image_id, -1) for image_id in ids])
        self.before, self.typical = feature_distances(
            self.outcomes.features(x), self.real, self.own
        )
        self.second = second
        self.other = (
            classifier_outputs(place.location, second, batch_size).predict if second else None
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
    place: Place, reference: tuple[tuple[str, int], ...], batch_size: int
) -> np.ndarray:
    """Features of the real eyes that changed ones are compared with, (eye, feature); kept, since
    every shard needs them.
    """
    outcomes = classifier_outputs(place.location, place.model_id, batch_size)
    positions = np.array([position for _, position in reference], np.int64)
    return outcomes.features(scaled(fundi(place.location, place.fundus_id, positions)))


def pair_rows(
    workspace: Workspace, place: Place, store: ShardedStore, params: CounterfactualParams
) -> dict[str, pd.DataFrame]:
    """The rows of a pair of stages in both tables."""
    ids = set(store.image_ids)
    frames = {name: workspace.frame(name, explain_id=place.explain_id) for name in CHANGE_TABLES}
    return {
        name: frame[(frame["target_stage"] == params.target_stage) & frame["image_id"].isin(ids)]
        for name, frame in frames.items()
    }


def write_pair_tables(
    workspace: Workspace,
    store: ShardedStore,
    place: Place,
    params: CounterfactualParams,
    adversarial: AdversarialParams,
    second: str,
) -> None:
    """Compares the methods over all eyes and counts transfers, unless no row has changed."""
    parts = {
        table: {name: digest for name, digest in found.items() if name.startswith(place.pair)}
        for table, found in (
            (table, workspace.part_digests(table, place.explain_id)) for table in CHANGE_TABLES
        )
    }
    digest = content_id(parts)
    if all(
        workspace.has_part(table, place.explain_id, place.pair, digest=digest)
        for table in PAIR_TABLES
    ):
        return
    rows = pd.concat(pair_rows(workspace, place, store, params).values(), ignore_index=True)
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
            table, made, partition=place.explain_id, part=place.pair, digest=digest
        )


def summary(
    workspace: Workspace, place: Place, store: ShardedStore, params: CounterfactualParams
) -> str:
    """How many eyes each method brought to the target, and how strongly, for the run's last
    words.
    """
    parts = []
    for frame in pair_rows(workspace, place, store, params).values():
        for method, rows in frame.groupby("method", sort=True):
            reached = rows[rows["reached"]]
            strength = (
                f" at median strength {reached['strength'].median():.3g}" if len(reached) else ""
            )
            parts.append(f"{method}: {len(reached)} of {len(rows)} reached the target{strength}")
    return "; ".join(parts)
