"""What a run says of itself on Prefect's page: its name, its closing words, and what to do where
it failed.
"""

from collections.abc import Sequence

from storage.errors import one_line
from tasks.run.errors import FAULT, MENDABLE, UserError, remedy
from tasks.run.session import StepResult


def workspace_name(location: str) -> str:
    """A workspace as people call it: the last part of its place.

    >>> workspace_name("workspaces/demo"), workspace_name("s3://bucket/retina/2026/")
    ('demo', '2026')
    """
    return location.rstrip("/").rpartition("/")[2] or location


def tags_of(location: str) -> list[str]:
    """What a workspace's runs are tagged with: `dr`, by which the watch knows them, and the
    workspace's name.
    """
    return ["dr", workspace_name(location)]


def closing_words(results: Sequence[StepResult]) -> str:
    """What a run did, in a line.

    >>> ingest, train = (
    ...     StepResult("ingest", 9, 9, "9 photographs"),
    ...     StepResult("train", 9, 0, "model a"),
    ... )
    >>> closing_words([ingest]), closing_words([ingest, train]), closing_words([train, train])
    ('9 photographs', 'new work in ingest; train: model a', 'nothing new; train: model a')
    """
    *_, last = results
    if len(results) == 1:
        return last.message
    busy = [result.step for result in results if result.new_images]
    return (
        f"{'new work in ' + ', '.join(busy) if busy else 'nothing new'}; {last.step}:"
        f" {last.message}"
    )


class ProgramFault(Exception):
    """What nobody's input explains; the cause has the stack trace that a report of it needs."""


def readable(error: Exception) -> Exception:
    """The error a flow ends with: its text becomes the message of the run's state, so it says
    how to go on.
    """
    if isinstance(error, (*MENDABLE, ProgramFault)):
        return error  # these say what to do already
    if isinstance(error, MemoryError):
        return UserError(f"{remedy(error)}; what is finished is kept")
    return ProgramFault(
        f"{type(error).__name__}: {one_line(error)}; what is finished is kept, and a new run goes"
        f" on from there; {FAULT}"
    )
