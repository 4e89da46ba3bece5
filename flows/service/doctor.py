"""What `dr doctor` looks at: this machine, and a configuration with the places it names."""

import os
import pathlib
import shutil
from collections.abc import Mapping

from flows.config import ConfigError, PipelineConfig, check_inputs, load_config
from flows.service import network
from storage import open_workspace
from storage.errors import StorageError
from storage.photos.sources import PhotoSources
from tasks.access.sources import listed_rows, shown_rows
from tasks.attribute.planning import check_run
from tasks.execution import system_checks as machine
from tasks.execution.system_checks import Finding
from tasks.run.errors import UserError
from tasks.run.settings import DaskParams


def examine(
    config_file: pathlib.Path | None, settings: list[str], environment: Mapping[str, str]
) -> list[Finding]:
    """A finding a check: the machine first, then the configuration and what it points to, as far as
    that can be read.

    environment: the variables as the user set them, before any was changed for this process.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    keras = machine.keras()
    config, findings = _configuration(config_file, settings)
    dask = config.dask if config else DaskParams()
    here = DaskParams(workers=dask.workers) if not dask.address else DaskParams(workers=1)
    findings = [
        machine.python(),
        machine.packages(),
        machine.cores(here.workers),
        machine.memory(here.workers),
        keras,
        *([machine.gpu()] if keras.verdict == "ok" else []),
        machine.prefect(
            PREFECT_API_URL.value(), str(PREFECT_HOME.value()), password=network.password()
        ),
        machine.network(
            network.host(),
            network.exposed("Prefect's page and the reports, with patients' photographs,"),
        ),
        *machine.proxies(environment),
        *findings,
    ]
    if config is None:
        return [*findings, machine.disk(os.getcwd(), shutil.disk_usage(".").free)]
    findings.append(machine.dask(dask))
    findings += machine.place(open_workspace(config.workspace))
    if not any(finding.verdict == "mend" for finding in findings):
        findings.append(_room(config))
    return findings


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
            Finding("configuration", "mend", line, "mend the file or --set")
            for line in str(error).splitlines()
        ]
    findings = [Finding("configuration", "ok", str(config_file))]
    try:
        check_inputs(config)
    except ConfigError as error:
        what, _, remedy = str(error).partition("; ")
        return config, [*findings, Finding("inputs", "mend", what, remedy)]
    return config, [*findings, *_photographs(config), *_schedule(config)]


def _photographs(config: PipelineConfig) -> list[Finding]:
    """What the sources hold by their names and tables; no photograph is read."""
    try:
        sources = PhotoSources(config.data.every_source)
        count = len(sources.photographs())
        needed = not config.recipe.trains_none(open_workspace(config.workspace))
    except (StorageError, UserError) as error:
        return [
            Finding(
                "photographs",
                "mend",
                str(error),
                "give the data set's folder with --set data.photos=…",
            )
        ]
    if fault := sources.label_fault(needed):
        what, _, remedy = fault.partition("; ")
        return [Finding("labels", "mend", what, remedy)]
    if not count:
        return [
            Finding(
                "photographs",
                "mend",
                f"none in {config.data.places}",
                "give the folder that has train/ and trainLabels.csv",
            )
        ]
    rows = listed_rows(sources)
    return [
        Finding("photographs", "ok", f"{count:,} in {config.data.places}"),
        Finding("labels", "ok", f"of {sum(row['labelled'] for row in rows):,} photographs"),
        *(
            Finding(
                f"source {row['source']}".strip(),
                "ok",
                ", ".join(f"{name} {value}" for name, value in row.items() if value != ""),
            )
            for row in shown_rows(rows)
        ),
    ]


def _schedule(config: PipelineConfig) -> list[Finding]:
    from flows.service.schedule import cron_schedule

    try:
        cron_schedule(config.schedule)
    except ConfigError as error:
        return [
            Finding("schedule", "mend", str(error), "write cron's five fields, such as '0 2 * * *'")
        ]
    return []


def _room(config: PipelineConfig) -> Finding:
    """Whether the run that this configuration asks for fits the disk and the memory."""
    try:
        check_run(
            config.workspace, config.data.every_source, config.recipe, config.storage, config.dask
        )
    except UserError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("room for the run", "mend", what, remedy)
    return Finding("room for the run", "ok", "what is known before a run fits; dr plan says more")
