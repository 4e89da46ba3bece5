"""The commands of whoever keeps the pipeline running: the schedule, the watch over runs, and a
look at the machine.
"""

import os
import pathlib
from typing import Annotated

import typer

from flows.cli.command_line import Config, Settings, checked_config, fail, prepare_prefect
from flows.cli.printing import print_rows

Notify = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="DR_NOTIFY_URL",
        show_envvar=True,
        help=(
            "A webhook that is told of runs that fail, crash or hang (JSON with a `text`, as Slack,"
            " Mattermost and Teams read it). Kept on the Prefect server as the block dr-notify."
        ),
    ),
]


def serve(config: Config, settings: Settings = None, notify: Notify = "") -> None:
    """Runs the pipeline on its schedule (schedule.cron) and whenever a person starts it on
    Prefect's page. Ctrl-C ends it.

    Starts a Prefect server at 127.0.0.1:4200 if none runs. One run at a time; of runs that were
    missed one is made up for.
    """

    loaded = checked_config(config, settings)
    from flows.service.server import history, prefect_server, service_port

    for name, value in history(loaded.schedule).items():
        os.environ.setdefault(name, value)
    with prefect_server(service_port()) as api:
        from flows.service.schedule import serve_deployments

        serve_deployments(config, settings or [], loaded, notify, page=api)


def watch(config: Config, settings: Settings = None, notify: Notify = "") -> None:
    """Sets up the watch over runs on the Prefect server of PREFECT_API_URL: dead and hanging runs
    are found and told of.

    `dr serve` does so itself; this is for runs that a work pool starts.
    """
    from flows.config import load_config

    loaded = load_config(config, settings or [])
    from flows.service.server import given_server

    given_server()
    from flows.service.watch import watch as set_up

    typer.echo(set_up(loaded.schedule, notify), err=True)


def doctor(
    config: Annotated[
        pathlib.Path | None,
        typer.Argument(metavar="[CONFIG.toml]", help="A configuration to look at as well."),
    ] = None,
    settings: Settings = None,
) -> None:
    """Checks this machine, and a configuration if one is given: a line each, with the remedy where
    something is wrong.

    Ends with exit code 1 if something must be mended before a run.
    """

    environment = dict(os.environ)
    prepare_prefect()
    from flows.service.doctor import examine

    findings = examine(config, settings or [], environment)
    print_rows([finding.row for finding in findings], title="dr doctor")
    broken = [finding for finding in findings if finding.verdict == "mend"]
    if broken:
        raise fail(
            f"{len(broken)} to mend: {', '.join(finding.what for finding in broken)}; the remedies"
            " are in the table",
            1,
        )
