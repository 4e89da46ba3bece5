"""`dr serve`: the deployments of one configuration, and a process that starts their runs, one at
a time.
"""

import asyncio
import contextlib
import os
import pathlib
import re
import shlex
from typing import Any

from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.types.names import BANNED_CHARACTERS

from flows.config import ConfigError, PipelineConfig, find_config
from flows.pipeline import FLOWS
from flows.registry import PIPELINE, STEPS, flow_name
from flows.service.messages import tags_of, workspace_name
from flows.service.report_pages import report_pages
from flows.service.server_end import ServerError
from flows.service.watch import watch
from storage.errors import one_line
from tasks.run.progress import say
from tasks.run.settings import ScheduleParams


class _Runner(Runner):
    """Ends by SIGTERM as by Ctrl-C: Prefect's own answer to it leaves its stop unawaited, and a
    schedule that looks active.
    """

    async def until_stopped(self) -> None:
        self._task = asyncio.current_task()
        await self.start()

    def handle_sigterm(self, *signal_and_frame: Any) -> None:
        # Not by raising SIGINT: a process that a shell started in its background ignores that.
        if task := self._task:
            task.get_loop().call_soon_threadsafe(task.cancel)


def serve_deployments(
    config_file: pathlib.Path,
    settings: list[str],
    config: PipelineConfig,
    notify: str,
    *,
    page: str,
) -> None:
    """Serves the whole pipeline on its schedule, and every step by hand, until interrupted.

    Parameters
    ----------
    config_file, settings: what the runs are started with. config: the same, read.
    notify: the webhook's URL; empty for the one of an earlier call, if any.
    page: the API's address, for the person at the terminal.

    Raises
    ------
    ConfigError: for a cron that Prefect cannot read.
    ServerError: if the Prefect server does not accept a deployment.
    """
    deployments = deployments_of(config_file, settings, config)
    schedule = config.schedule
    who_is_told = watch(schedule, notify)
    # For the processes of the runs: a step that failed is tried again.
    os.environ.setdefault("PREFECT_FLOWS_DEFAULT_RETRIES", str(schedule.retries))
    os.environ.setdefault(
        "PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS", str(60 * schedule.retry_minutes)
    )
    runner = _Runner(limit=1)  # whatever starts a run, there is one at a time
    with report_pages(config.workspace) as reports:
        try:
            for deployment in deployments:
                runner.add_deployment(deployment)
        except DeploymentApplyError as error:
            reason = one_line(error).partition(" - Response")[0]
            raise ServerError(
                f"the Prefect server did not take a deployment ({reason}); start dr serve again"
            ) from None
        when = (
            f"{schedule.cron} ({schedule.timezone})"
            if schedule.cron
            else "none, runs are started by hand"
        )
        say(f"Prefect: {page.removesuffix('/api')}   schedule: {when}")
        if reports:
            say(f"Reports: {reports}")
        say(who_is_told)
        started = f"{flow_name('run')}/{deployments[0].name}"
        say(f"Start a run: on Prefect's page, or prefect deployment run {shlex.quote(started)}")
        with contextlib.suppress(KeyboardInterrupt, TerminationSignal, asyncio.CancelledError):
            asyncio.run(runner.until_stopped())


def deployments_of(
    config_file: pathlib.Path, settings: list[str], config: PipelineConfig
) -> list[RunnerDeployment]:
    """The whole pipeline with its schedule, then a deployment for each step: `demo`,
    `demo-1-ingest`, `demo-2-preprocess`, …

    Prefect's page sorts by these names and prints the flow's small beside them.
    """
    name = re.sub(f"[{''.join(BANNED_CHARACTERS)}]", "-", workspace_name(config.workspace))
    parameters = {"config_file": str(find_config(config_file).resolve()), "settings": settings}

    planned = {"run": (name, PIPELINE)} | {
        step: (f"{name}-{place}-{step}", f"One step alone. {entry.sentence}")
        for place, (step, entry) in enumerate(STEPS.items(), 1)
    }
    # Prefect's types name the coroutine too that only an event loop is given.
    return [  # ty: ignore[invalid-explicit-return]
        FLOWS[step].to_deployment(
            name=own_name,
            schedule=cron_schedule(config.schedule) if step == "run" else None,
            parameters=parameters,
            description=(
                f"{sentence}\n\nWorkspace: `{config.workspace}`. To run it with other settings,"
                " choose *Custom run* and give them under *settings*, one an entry, such as"
                " `attribution.limit=100`."
            ),
            tags=tags_of(config.workspace),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for step, (own_name, sentence) in planned.items()
    ]


def cron_schedule(schedule: ScheduleParams) -> Schedule | None:
    """Prefect's schedule, or None where there is none. Raises ConfigError for a cron that
    Prefect cannot read.
    """
    if not schedule.cron:
        return None
    try:
        return Cron(schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        raise ConfigError(
            f"schedule.cron = {schedule.cron!r}: {one_line(error)}; write cron's five"
            " fields, such as '0 2 * * *'"
        ) from None
