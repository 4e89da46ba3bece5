"""The Prefect flows: one a step, and `run`, which is all of them in order.

A flow takes the configuration's file and settings laid over it, so a person can start it from
Prefect's page with other settings. Its run is named by workspace and step; its closing state says
in words what was done, or what to do.
"""

import contextlib
import dataclasses
import hashlib
import json
import uuid
from collections.abc import Callable, Generator
from contextvars import ContextVar
from datetime import UTC, datetime

from prefect import Flow, flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunPolicy
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.config import ConfigError, PipelineConfig, as_tables, check_inputs, load_config
from flows.registry import PIPELINE, STEPS, flow_name
from flows.service.backlog import skip_missed
from flows.service.messages import closing_words, readable, tags_of, workspace_name
from storage.errors import after_failure
from tasks.access.inputs import require_inputs
from tasks.attribute.planning import check_run
from tasks.run.artifacts import show_report, show_result, show_summary
from tasks.run.progress import alive, begin, say
from tasks.run.run_log import record_run
from tasks.run.session import Session, StepResult, open_session

_running: ContextVar[PipelineConfig | None] = ContextVar("running", default=None)


@contextlib.contextmanager
def _configured(config_file: str, settings: list[str] | None) -> Generator[PipelineConfig]:
    """The configuration of the run around this call, or the file's: editing the file in mid-run
    changes the next run.
    """
    outer = _running.get()
    if outer is not None:
        yield outer
        return
    config = load_config(config_file, settings)
    check_inputs(config)
    token = _running.set(config)
    try:
        with tags(
            *tags_of(config.workspace)
        ):  # the steps' runs would have none of a deployment's tags
            yield config
    finally:
        _running.reset(token)


def _run_name(name: str) -> Callable[[], str]:
    """Makes the name that Prefect's page shows of a run, such as `demo: 3 of 8, train` or `demo:
    whole pipeline`.
    """

    def named() -> str:
        parameters = flow_run.parameters
        config = _running.get()
        if name != "run" and config is not None:
            place = list(STEPS).index(name) + 1
            return f"{workspace_name(config.workspace)}: {place} of {len(STEPS)}, {name}"
        try:
            shown = workspace_name(
                load_config(parameters["config_file"], parameters.get("settings")).workspace
            )
        except ConfigError:  # the run itself says what is wrong with it
            shown = str(parameters["config_file"])
        return f"{shown}: {'whole pipeline' if name == 'run' else name}"

    return named


def _told(work: Callable[[], list[StepResult]]) -> State:
    """The closing state of a flow: its message is what a person reads first on the run's page.

    A failure is raised, not returned: Prefect tries again only what was raised, and puts its words
    into the state's message.
    """
    try:
        results = work()
    except Exception as error:
        told = readable(error)
        if told is error:
            with after_failure():
                _no_second_try()
            raise
        raise told from error
    return Completed(message=closing_words(results), data=results)


def _no_second_try() -> None:
    """What a person has to mend would only fail again, and keep the next run waiting until then."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(uuid.UUID(flow_run.id), empirical_policy=FlowRunPolicy(retries=0))


def _flow(name: str, description: str) -> Callable[[Callable], Flow]:
    # A run under `dr serve` is tried again by schedule.retries; a step is, and not the whole: the
    # pipeline's 0 stands for itself.
    retries = 0 if name == "run" else None
    return flow(
        name=flow_name(name),
        description=description,
        flow_run_name=_run_name(name),
        persist_result=False,
        retries=retries,
    )


def run_step(name: str, session: Session, config: PipelineConfig) -> StepResult:
    """Runs one step and leaves a row in `runs`, whatever happens, and its result on Prefect's
    page.
    """
    begin(name, f"{STEPS[name].sentence} Workspace: {config.workspace}")
    tables = as_tables(config)
    row = {
        "run_id": uuid.uuid4().hex[:12],
        "stage": name,
        "started": datetime.now(UTC),
        "config_sha256": hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest(),
    }
    try:
        require_inputs(name, session.workspace, config.recipe)
        result = STEPS[name].run(session, config)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with after_failure():
            record_run(
                session.workspace,
                {**row, "state": state, "message": f"{type(error).__name__}: {error}"},
            )
        raise
    seconds = record_run(
        session.workspace,
        {
            **row,
            "state": "completed",
            "message": result.message,
            "images": result.images,
            "new_images": result.new_images,
        },
    )
    result = dataclasses.replace(result, seconds=seconds)
    show_result(session.workspace, result)
    if name == "report":
        show_report(session.workspace, result.message)
    say(f"{name}: {result.message}")
    return result


def _step_flow(name: str) -> Flow:
    def step(config_file: str, settings: list[str] | None = None):
        """One step.

        Args:
            config_file: The pipeline's configuration, a TOML file on the machine that runs it.
            settings: Settings laid over it for this run alone, such as data.limit=100, one an
            entry.
        """

        def work() -> list[StepResult]:
            with (
                _configured(config_file, settings) as config,
                open_session(config.workspace, config.dask) as session,
            ):
                return [run_step(name, session, config)]

        return _told(work)

    step.__name__ = step.__qualname__ = name
    return _flow(name, STEPS[name].sentence)(step)


STEP_FLOWS = {name: _step_flow(name) for name in STEPS}
# By these names a deployment finds its flow, such as flows.pipeline.attribute.
globals().update(STEP_FLOWS)


@_flow("run", PIPELINE)
def run(config_file: str, settings: list[str] | None = None):
    """Runs every step in order over one session; a step with nothing to do ends at once.

    Args:
        config_file: The pipeline's configuration, a TOML file on the machine that runs it.
        settings: Settings laid over it for this run alone, such as data.limit=100, one an entry.
    """

    def work() -> list[StepResult]:
        with (
            skip_missed(),
            _configured(config_file, settings) as config,
            open_session(config.workspace, config.dask),
        ):
            alive()
            check_run(
                config.workspace,
                config.data.every_source,
                config.recipe,
                config.storage,
                config.dask,
            )
            results = [
                result for step in STEP_FLOWS.values() for result in step(config_file, settings)
            ]
            show_summary(results)
            return results

    return _told(work)


FLOWS = {**STEP_FLOWS, "run": run}
