"""The Prefect flows: one a step, and `run`, which is all of them in order.

A flow takes the configuration's file and settings laid over it, so a person can start it from
Prefect's page with other settings. Its run is named by workspace and step; its closing state says
in words what was done, or what to do.
"""

import contextlib
import dataclasses
import functools
import json
import uuid
from collections.abc import Callable, Generator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from prefect import Flow, flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunPolicy
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows.config import ConfigError, PipelineConfig, check_inputs, load_config
from flows.registry import PIPELINE, STEPS, flow_name
from flows.service.backlog import skip_missed
from flows.service.messages import closing_words, readable, tags_of, workspace_name
from storage.errors import after_failure
from storage.ids import digest_bytes
from tasks.access.inputs import require_inputs
from tasks.attribute.planning import check_run
from tasks.run.artifacts import show_report, show_result, show_summary
from tasks.run.progress import log_start, report_alive, say
from tasks.run.run_log import record_run
from tasks.run.session import Session, StepResult, open_session

_running: ContextVar[tuple[PipelineConfig, Session] | None] = ContextVar("running", default=None)


@contextlib.contextmanager
def _session(
    config_file: str, settings: list[str] | None
) -> Generator[tuple[PipelineConfig, Session]]:
    """The configuration and the session of the run around this call, or new ones: editing the
    file in mid-run changes the next run.
    """
    outer = _running.get()
    if outer is not None:
        yield outer
        return
    config = load_config(config_file, settings)
    check_inputs(config)
    with (
        tags(*tags_of(config.workspace)),  # the steps' runs would have none of a deployment's
        open_session(config.workspace, config.dask) as session,
    ):
        token = _running.set((config, session))
        try:
            yield config, session
        finally:
            _running.reset(token)


def _run_name(name: str) -> str:
    """The name that Prefect's page shows of a run, such as `demo: 3 of 8, train` or `demo: whole
    pipeline`.
    """
    parameters, running = flow_run.parameters, _running.get()
    if running is not None:
        number = list(STEPS).index(name) + 1
        return f"{workspace_name(running[0].workspace)}: {number} of {len(STEPS)}, {name}"
    try:
        shown = workspace_name(
            load_config(parameters["config_file"], parameters.get("settings")).workspace
        )
    except ConfigError:  # the run itself says what is wrong with it
        shown = str(parameters["config_file"])
    return f"{shown}: {'whole pipeline' if name == 'run' else name}"


def _no_second_try() -> None:
    """What a person has to mend would only fail again, and keep the next run waiting until then."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(uuid.UUID(flow_run.id), empirical_policy=FlowRunPolicy(retries=0))


def run_step(name: str, session: Session, config: PipelineConfig) -> StepResult:
    """Runs one step and leaves a row in the table `runs`, whatever happens, and its result on
    Prefect's page.

    Raises
    ------
    UserError: if the output of an earlier step is missing; else whatever the step raises.
    """
    log_start(name, f"{STEPS[name].sentence} Workspace: {config.workspace}")
    settings = json.dumps(config.tables, sort_keys=True)
    row: dict[str, Any] = {
        "run_id": uuid.uuid4().hex[:12],
        "stage": name,
        "started": datetime.now(UTC),
        "config_sha256": digest_bytes(settings.encode()),
    }
    try:
        require_inputs(name, session.workspace, config.recipe)
        result = STEPS[name].run(session, config)
    except BaseException as error:
        row["state"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        row["message"] = f"{type(error).__name__}: {error}"
        with after_failure():
            record_run(session.workspace, row)
        raise
    row |= {
        "state": "completed",
        "message": result.message,
        "images": result.images,
        "new_images": result.new_images,
    }
    seconds = record_run(session.workspace, row)
    result = dataclasses.replace(result, seconds=seconds)
    show_result(session.workspace, result)
    if name == "report":
        show_report(session.workspace, result.message)
    say(f"{name}: {result.message}")
    return result


def _one_step(name: str, config_file: str, settings: list[str] | None) -> list[StepResult]:
    with _session(config_file, settings) as (config, session):
        return [run_step(name, session, config)]


def _all_steps(config_file: str, settings: list[str] | None) -> list[StepResult]:
    """Every step in order over one session; a step with nothing to do ends at once."""
    with skip_missed(), _session(config_file, settings) as (config, _):
        report_alive()
        check_run(
            config.workspace, config.data.every_source, config.recipe, config.storage, config.dask
        )
        results = [result for name in STEPS for result in FLOWS[name](config_file, settings)]
        show_summary(results)
        return results


def _flow(
    name: str, description: str, work: Callable[[str, list[str] | None], list[StepResult]]
) -> Flow:
    """The flow around some work; the message of its closing state is what a person reads first on
    the run's page.
    """

    def body(config_file: str, settings: list[str] | None = None) -> State:
        """One step or the whole pipeline.

        Args:
            config_file: The pipeline's configuration, a TOML file on the machine that runs it.
            settings: Settings laid over it for this run alone, one an entry, such as
                data.limit=100.
        """
        try:
            results = work(config_file, settings)
        except Exception as error:
            # Raised, not returned: Prefect tries again only what was raised, and puts its words
            # into the state's message.
            reported = readable(error)
            if reported is not error:
                raise reported from error
            with after_failure():
                _no_second_try()
            raise
        return Completed(message=closing_words(results), data=results)

    body.__name__ = body.__qualname__ = name
    return flow(
        name=flow_name(name),
        description=description,
        flow_run_name=functools.partial(_run_name, name),
        persist_result=False,
        # A run under `dr serve` is tried again by schedule.retries; a step is, and not the whole.
        retries=0 if name == "run" else None,
    )(body)


FLOWS = {
    name: _flow(name, step.sentence, functools.partial(_one_step, name))
    for name, step in STEPS.items()
}
FLOWS["run"] = _flow("run", PIPELINE, _all_steps)
# By these names a deployment finds its flow, such as flows.pipeline.attribute.
globals().update(FLOWS)
