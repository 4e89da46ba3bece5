"""What `dr doctor` looks at: this machine, and a configuration with the places it names."""

import importlib.metadata
import os
import pathlib
import shutil
from collections.abc import Mapping

from packaging.version import Version

from flows.config import ConfigError, PipelineConfig, check_inputs, load_config
from flows.service import network
from flows.service.server import server_version
from storage import open_workspace
from storage.photos.sources import PhotoSources
from tasks.access.sources import listed_rows, shown_rows
from tasks.attribute.planning import check_run
from tasks.execution import system_checks as checks
from tasks.execution.system_checks import Finding, checked, refusal
from tasks.run.errors import MENDABLE, UserError
from tasks.run.settings import DaskParams


def examine(
    config_file: pathlib.Path | None, settings: list[str], environment: Mapping[str, str]
) -> list[Finding]:
    """A finding for each check: the machine first, then the configuration and what it points to,
    as far as that can be read.

    Parameters
    ----------
    config_file: the configuration to look at as well, or None.
    settings: what `--set` lays over it.
    environment: the variables as the user set them, before any was changed for this process.
    """
    config, findings = _configuration(config_file, settings)  # says what Keras is to run on
    keras = checks.keras()
    dask = config.dask if config else DaskParams()
    workers_here = 1 if dask.address else dask.workers
    exposed = network.exposed("Prefect's page and the reports, with patients' photographs,")
    findings = [
        checks.python_version(),
        checks.packages(),
        checks.cores(workers_here),
        checks.memory(workers_here),
        keras,
        *([] if keras.remedy else [checks.gpu()]),
        prefect(),
        checks.network(network.host(), exposed),
        *checks.proxy_settings(environment),
        *findings,
    ]
    if config is None:
        return [*findings, checks.disk(os.getcwd(), shutil.disk_usage(".").free)]
    findings += [checks.dask(dask), *checks.place(open_workspace(config.workspace))]
    if all(finding.verdict != "mend" for finding in findings):
        findings.append(checked("room for the run", lambda: _room(config)))
    return findings


def prefect(version: str = "") -> Finding:
    """The server that PREFECT_API_URL names, or the place for the history of those that `dr`
    starts. version: of Prefect here, unless given.
    """
    return checked("Prefect", lambda: _prefect(version or importlib.metadata.version("prefect")))


def _prefect(version: str) -> str:
    api, home = map(network.setting, ("PREFECT_API_URL", "PREFECT_HOME"))
    if not api:
        if not checks.may_write(home):
            raise UserError(f"{home} cannot be written; set PREFECT_HOME to a folder of your own")
        return f"{version}; a server is started for each run, its history in {home}"
    theirs = server_version(api)
    if Version(theirs).release[:2] != Version(version).release[:2]:
        raise UserError(
            f"server {theirs} at {api}, but {version} here; pip install prefect=={version} there"
        )
    return f"server {theirs} at {api}"


def _configuration(
    config_file: pathlib.Path | None, settings: list[str]
) -> tuple[PipelineConfig | None, list[Finding]]:
    """The configuration, if it can be used, and what is to be said of it and of its inputs."""
    if config_file is None:
        return None, []
    try:
        config = load_config(config_file, settings)
    except ConfigError as error:
        return None, [
            Finding("configuration", line, "mend the file or --set")
            for line in str(error).splitlines()
        ]
    findings = [Finding("configuration", str(config_file))]
    try:
        check_inputs(config)
    except ConfigError as error:
        return config, [*findings, refusal("inputs", error)]
    findings += _photographs(config)
    from flows.service.schedule import cron_schedule

    try:
        cron_schedule(config.schedule)
    except ConfigError as error:
        findings.append(refusal("schedule", error))
    return config, findings


def _photographs(config: PipelineConfig) -> list[Finding]:
    """What the sources hold by their names and tables; no photograph is read."""
    try:
        sources = PhotoSources(config.data.every_source)
        count = len(sources.photographs())
        needed = not config.recipe.trains_none(open_workspace(config.workspace))
    except MENDABLE as error:
        remedy = "give the data set's folder with --set data.photos=…"
        return [Finding("photographs", str(error), remedy)]
    if fault := sources.label_fault(needed):
        return [refusal("labels", fault)]
    if not count:
        remedy = "give the folder that has train/ and trainLabels.csv"
        return [Finding("photographs", f"none in {config.data.places}", remedy)]
    rows = listed_rows(sources)
    return [
        Finding("photographs", f"{count:,} in {config.data.places}"),
        Finding("labels", f"of {sum(row['labelled'] for row in rows):,} photographs"),
        *(
            Finding(
                f"source {row['source']}".strip(),
                ", ".join(f"{name} {value}" for name, value in row.items() if value != ""),
            )
            for row in shown_rows(rows)
        ),
    ]


def _room(config: PipelineConfig) -> str:
    """Whether the run that this configuration asks for fits the disk and the memory."""
    check_run(
        config.workspace, config.data.every_source, config.recipe, config.storage, config.dask
    )
    return "what is known before a run fits; dr plan says more"
