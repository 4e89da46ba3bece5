"""What one run holds while it works: the workspace, its lock, and the workers. Steps of one run
share them.
"""

import contextlib
import dataclasses
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from storage import Workspace, open_workspace
from tasks.execution.pool import Pool
from tasks.run.settings import DaskParams
from tasks.run.stale_runs import mark_dead_run


@dataclass(frozen=True)
class Session:
    """An open workspace that this run alone writes to, and a pool that starts workers when first
    used.
    """

    workspace: Workspace
    pool: Pool


@dataclass(frozen=True)
class StepResult:
    """What a step did. images: how many it is about; new_images: how many had work done now. table:
    rows for people to read after it.
    """

    step: str
    images: int
    new_images: int
    message: str
    seconds: float = 0.0
    table: tuple[dict[str, Any], ...] = ()

    def and_then(self, more: str) -> "StepResult":
        """The same with more to say at the end; nothing changes where there is nothing."""
        return dataclasses.replace(self, message=f"{self.message}; {more}") if more else self


_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextlib.contextmanager
def open_session(location: str, dask: DaskParams) -> Generator[Session]:
    """The session of the run around this call, or a new one. Raises the storage's error if
    another run holds the lock.
    """
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    workspace = open_workspace(location)
    with workspace.lock("run"), contextlib.closing(Pool(dask)) as pool:
        mark_dead_run(workspace)
        session = Session(workspace, pool)
        token = _current.set(session)
        try:
            yield session
        finally:
            _current.reset(token)
