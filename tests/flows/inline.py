"""A pool without processes: jobs run where they are called, so that a test can see, count and
spoil what a worker does.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.network.model import ModelParams
from dr_lib.training import TrainingParams
from storage import open_workspace
from tasks.execution.failures import Failure, failure
from tasks.ingest.step import ingest
from tasks.preprocess import step as preprocessing
from tasks.preprocess.step import preprocess
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.run.session import Session, StepResult
from tasks.run.settings import DaskParams, DataParams, StorageParams


class WorkerDied(BaseException):
    """Raised by a job in the place of taking its process down."""


class InlinePool:
    """`tasks.execution.pool.Pool` as the stages use it, with two workers that are this process."""

    def __init__(self, params: DaskParams | None = None):
        self.params, self.workers, self.gpus = params or DaskParams(workers=2), 2, 0
        self.jobs: list[tuple[str, Any]] = []

    def connect(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to close."""

    def load(self, network: bool = False) -> str:
        """Nobody asks how busy this process is."""
        return ""

    def run(
        self, function: Callable[..., Any], jobs: Iterable[Any], **_how: Any
    ) -> Iterator[tuple[Any, Any]]:
        for job in jobs:
            name = getattr(function, "func", function).__name__  # of a partial
            self.jobs.append((name, job))
            try:
                result = function(job)
            except WorkerDied:
                result = failure(KilledWorker(name, None, 2))
            except Exception as error:
                result = failure(error)
            yield job, result


def run_here(patch: pytest.MonkeyPatch, *stages: ModuleType) -> None:
    """Lets these modules of `tasks` run their jobs in this process and without waves, so that no
    Prefect server is needed.
    """

    def in_this_process(
        pool, stage, function, jobs, *, images_of, rescue=None, table=None, collect=None
    ):
        results = [result for _, result in pool.run(function, jobs)]
        for result in results:
            if isinstance(result, Failure):
                raise UserError(f"{stage}: {result.reason}")
        return list(map(collect, results)) if collect else results

    for module in stages:
        patch.setattr(module, "run_in_waves", in_this_process)


def ingest_and_preprocess(
    patch: pytest.MonkeyPatch, workspace: Path, *, size: int = 64, **data: Any
) -> tuple[Session, tuple[StepResult, StepResult]]:
    """Both stages in this process, without a Prefect server; fundi of `size` px. `data` are the
    settings of `[data]`.
    """
    session = Session(open_workspace(str(workspace)), InlinePool())
    recipe = Recipe(
        PreprocessParams(size=size), ModelParams(), TrainingParams(), AttributionParams()
    )
    params = DataParams(**data)

    run_here(patch, preprocessing)
    return session, (
        ingest(session, params),
        preprocess(session, recipe, params, StorageParams(shard_images=8)),
    )
