"""The Prefect flows: one a stage, and `run`, which is all of them in order.

A flow takes the configuration's file and settings laid over it, so a person can start it from Prefect's page with other
settings. It opens the session, calls its stage, and records how that went in the table `runs`.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.config import ConfigError, PipelineConfig, as_tables, check_inputs, load_config
from flows.stage_names import STAGES
from tasks.aggregate import aggregate
from tasks.attribute import attribute
from tasks.counterfactuals import counterfactuals
from tasks.ingest import ingest
from tasks.linearity import linearity
from tasks.localise import localise
from tasks.planning import check_run
from tasks.preprocess import preprocess
from tasks.progress import say
from tasks.report import report
from tasks.runs import record_run
from tasks.session import Session, StageResult, open_session
from tasks.settings import ScheduleParams
from tasks.train import train

Stage = Callable[[Session, PipelineConfig], StageResult]

STAGE_FUNCTIONS: dict[str, Stage] = {
    "ingest": lambda session, c: ingest(session, c.data),
    "preprocess": lambda session, c: preprocess(session, c.recipe, c.data, c.storage),
    "train": lambda session, c: train(session, c.recipe, as_tables(c)),
    "attribute": lambda session, c: attribute(session, c.recipe, c.storage),
    "aggregate": lambda session, c: aggregate(session, c.recipe, c.heatmaps).and_then(
        localise(session, c.recipe, c.data.photos, c.localisation)
    ),
    "counterfactuals": lambda session, c: counterfactuals(session, c.recipe, c.counterfactuals, c.adversarials, c.storage),
    "linearity": lambda session, c: linearity(session, c.recipe, c.linearity),
    "report": lambda session, c: report(session, c.recipe, c.data, as_tables(c)),
}


def _stage_flow(name: str):
    def stage(config_file: str, settings: list[str] | None = None) -> list[StageResult]:
        with _configured(config_file, settings) as config, open_session(config.workspace, config.dask) as session:
            return [_recorded(name, session, config)]

    stage.__name__ = name
    return flow(name=name, description=STAGES[name], flow_run_name=f"{name}: {{config_file}}", persist_result=False)(stage)


_running: ContextVar[PipelineConfig | None] = ContextVar("running", default=None)


@contextlib.contextmanager
def _configured(config_file: str, settings: list[str] | None) -> Iterator[PipelineConfig]:
    """The configuration of the run around this call, or the file's: editing the file in mid-run changes the next run."""
    outer = _running.get()
    if outer is not None:
        yield outer
        return
    config = load_config(config_file, settings)
    check_inputs(config)
    token = _running.set(config)
    try:
        yield config
    finally:
        _running.reset(token)


def _recorded(name: str, session: Session, config: PipelineConfig) -> StageResult:
    """Runs one stage and leaves a row in `runs`, whatever happens, and a note on Prefect's page."""
    tables = as_tables(config)
    row = {
        "run_id": uuid.uuid4().hex[:12],
        "stage": name,
        "started": datetime.now(UTC),
        "config_sha256": hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest(),
    }
    try:
        result = STAGE_FUNCTIONS[name](session, config)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record_run(session.workspace, {**row, "state": state, "message": f"{type(error).__name__}: {error}"})
        raise
    seconds = record_run(
        session.workspace,
        {**row, "state": "completed", "message": result.message, "images": result.images, "new_images": result.new_images},
    )
    create_markdown_artifact(f"**{name}**: {result.message}", key=f"{name}-result", description=f"{name} in {config.workspace}")
    say(f"{name}: {result.message}")
    return dataclasses.replace(result, seconds=seconds)


FLOWS = {name: _stage_flow(name) for name in STAGES}


@flow(
    name="run",
    description="The whole pipeline, from photographs to report.",
    flow_run_name="run: {config_file}",
    persist_result=False,
)
def run(config_file: str, settings: list[str] | None = None) -> list[StageResult]:
    """Runs every stage in order over one session; a stage with nothing to do ends at once."""
    with _configured(config_file, settings) as config, open_session(config.workspace, config.dask):
        check_run(config.workspace, config.data.photos, config.recipe, config.storage, config.dask)
        return [result for name in STAGES for result in FLOWS[name](config_file, settings)]


FLOWS["run"] = run


def serve_schedule(config: pathlib.Path, settings: list[str], schedule: ScheduleParams) -> None:
    """Serves the pipeline on its cron schedule until interrupted; a run that is late waits, two never overlap."""
    from prefect.schedules import Cron

    try:
        cron = Cron(schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        raise ConfigError(f"schedule.cron = {schedule.cron!r}: {str(error).splitlines()[0]}") from None
    run.serve(
        name="scheduled",
        schedule=cron,
        parameters={"config_file": str(config.resolve()), "settings": settings},
        limit=1,
        tags=["dr"],
    )
