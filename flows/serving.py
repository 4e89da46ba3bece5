"""`dr serve`: the deployments of one configuration, and a process that starts their runs, one at a time."""

import os
import pathlib
from collections.abc import Callable

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.config import ConfigError, PipelineConfig
from flows.pipeline import FLOWS
from flows.report_pages import report_pages
from flows.stage_names import PIPELINE, STAGES, flow_name
from flows.watch import watch
from flows.words import tags_of, workspace_name
from tasks.settings import ScheduleParams


def serve_deployments(
    config_file: pathlib.Path,
    settings: list[str],
    config: PipelineConfig,
    notify: str,
    *,
    say: Callable[[str], None],
    page: str,
) -> None:
    """Serves the whole pipeline on its schedule, and every stage by hand, until interrupted.

    page: the API's address, for the person at the terminal. Raises ConfigError for a cron that Prefect cannot read.
    """
    deployments = deployments_of(config_file, settings, config)
    schedule = config.schedule
    heard = watch(schedule, notify)
    # For the processes of the runs: a stage that failed is tried again.
    os.environ.setdefault("PREFECT_FLOWS_DEFAULT_RETRIES", str(schedule.retries))
    os.environ.setdefault("PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS", str(60 * schedule.retry_minutes))
    with report_pages(config.workspace) as reports:
        when = f"{schedule.cron} ({schedule.timezone})" if schedule.cron else "none, runs are started by hand"
        say(f"Prefect: {page.removesuffix('/api')}   schedule: {when}")
        if reports:
            say(f"Reports: {reports}")
        say(told(heard))
        say(f"Start a run: on Prefect's page, or prefect deployment run '{flow_name('run')}/{deployments[0].name}'")
        serve(*deployments, limit=1, print_starting_message=False)


def deployments_of(config_file: pathlib.Path, settings: list[str], config: PipelineConfig) -> list[RunnerDeployment]:
    """The whole pipeline with its schedule, then a deployment for each stage: `demo`, `demo-1-ingest`, `demo-2-preprocess`, …

    Prefect's page sorts by these names and prints the flow's small beside them.
    """
    name = workspace_name(config.workspace)
    parameters = {"config_file": str(config_file.resolve()), "settings": settings}

    def deployment(stage: str, suffix: str, schedule: Schedule | None, description: str) -> RunnerDeployment:
        return FLOWS[stage].to_deployment(
            name=name + suffix,
            schedule=schedule,
            parameters=parameters,
            description=f"{description}\n\nWorkspace: `{config.workspace}`. To run it with other settings, choose *Custom run* and "
            "give them under *settings*, one an entry, such as `attribution.limit=100`.",
            tags=tags_of(config.workspace),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )

    return [
        deployment("run", "", cron_schedule(config.schedule), PIPELINE),
        *(
            deployment(stage, f"-{place}-{stage}", None, f"One stage alone. {sentence}")
            for place, (stage, sentence) in enumerate(STAGES.items(), 1)
        ),
    ]


def cron_schedule(schedule: ScheduleParams) -> Schedule | None:
    """Prefect's schedule, or None where there is none. Raises ConfigError for a cron that Prefect cannot read."""
    if not schedule.cron:
        return None
    try:
        return Cron(schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        raise ConfigError(f"schedule.cron = {schedule.cron!r}: {str(error).splitlines()[0]}") from None


def told(heard: bool) -> str:
    """Whether anybody hears of a run that fails."""
    if heard:
        return "Runs that fail, crash or hang are reported to the webhook dr-notify"
    return "Nobody is told of runs that fail or hang; give --notify URL, a webhook (dead runs are marked Crashed all the same)"
