"""How far a step is: one bar on the terminal, one progress artifact in Prefect, each with the
time left.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Generator
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dr_lib.formatting import duration, number

INTERVALS_S = {"line": 30, "artifact": 5, "sign": 60}  # at least, between two of a kind
ALIVE = (  # the event by which the watch tells a run that works from one that hangs
    "dr-explain.progress"
)

# No markup: what is told holds paths, such as /data/[2024].
_console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(message: str) -> None:
    """Tells the person at the terminal, and the run's log in Prefect."""
    _console.print(message, soft_wrap=True)
    if inside_run():
        get_run_logger().info(message)


def log_start(step: str, sentence: str) -> None:
    """Writes the first line of a step's log in Prefect: an empty page looks like a run that
    hangs.
    """
    if inside_run():
        get_run_logger().info("%s: %s", step, sentence)
        report_alive()


def report_alive() -> None:
    """Sends Prefect the event by which the watch sees that the whole run makes progress, of
    whichever part of it this is called.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run_id = flow_run.root_flow_run_id
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{run_id}",
        "prefect.resource.name": context.flow_run.name,
    }
    tags = [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in context.flow_run.tags
    ]
    emit_event(ALIVE, resource=resource, related=tags)


def inside_run() -> bool:
    """Whether a Prefect run is under way here; outside one there is nowhere to put logs and
    artifacts.
    """
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


@contextlib.contextmanager
def progress(step: str, total: int, unit: str = "images") -> Generator[Callable[..., None]]:
    """Yields `advance(count, note="", earlier=False)`; shows count of total, the rate and the time
    left.

    On a terminal that is a bar; in a file or a pipe it is a line every half minute. What an
    `earlier` run did counts as done but not in the rate: the time left would be far too short.
    """
    meter = _Meter(step, total, unit)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit} · {{task.fields[rate]}}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(
        *columns, console=_console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(step, total=total, rate="", note="")

        def advance(count: int, note: str = "", earlier: bool = False) -> None:
            meter.advance(count, earlier)
            if bar.disable and meter.is_due("line"):
                _console.print(f"{meter.text()} {note}".rstrip(), soft_wrap=True)
            if earlier:
                bar.reset(task, total=total, completed=meter.done)
            bar.update(task, completed=meter.done, rate=meter.rate_text(), note=note)

        yield advance
    meter.update_artifact()


def artifact_key(*words: str) -> str:
    """A key for an artifact: Prefect's know lower-case letters, digits and dashes only.

    >>> artifact_key("counterfactuals' tables", "progress")
    'counterfactuals-tables-progress'
    """
    return re.sub("[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


class _Meter:
    """How far a step is, and its progress artifact in Prefect."""

    def __init__(self, step: str, total: int, unit: str):
        self.step, self.total, self.unit = step, total, unit
        self.done = self.done_earlier = 0
        self.started = time.monotonic()
        self.last = dict.fromkeys(INTERVALS_S, self.started)
        self.artifact: UUID | None = None
        if inside_run():
            key, text = artifact_key(step, "progress"), f"{step}: 0 of {total} {unit}"
            # Prefect's types name the coroutine too that only an event loop is given.
            self.artifact = create_progress_artifact(  # ty: ignore[invalid-assignment]
                0.0, key=key, description=text
            )
            report_alive()

    def is_due(self, what: str) -> bool:
        """Whether so long has passed since this was last due."""
        now = time.monotonic()
        due = now - self.last[what] > INTERVALS_S[what]
        if due:
            self.last[what] = now
        return due

    def advance(self, count: int, earlier: bool) -> None:
        self.done += count
        self.done_earlier += count * earlier
        if self.is_due("artifact"):
            self.update_artifact()
        if self.artifact and self.is_due("sign"):
            report_alive()

    def rate_text(self) -> str:
        minutes = (time.monotonic() - self.started) / 60
        if minutes <= 0:
            return ""
        return f"{number((self.done - self.done_earlier) / minutes)} a minute"

    def text(self) -> str:
        seconds_each = (time.monotonic() - self.started) / max(self.done - self.done_earlier, 1)
        return (
            f"{self.step}: {self.done:,} of {self.total:,} {self.unit}, {self.rate_text()}, about"
            f" {duration((self.total - self.done) * seconds_each)} left"
        )

    def update_artifact(self) -> None:
        if self.artifact:
            share = min(100.0 * self.done / self.total, 100.0) if self.total else 100.0
            update_progress_artifact(self.artifact, progress=share, description=self.text())
