"""What one run holds while it works: the workspace, its lock, and the workers. Steps of one run
share them.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dr_lib.formatting import duration
from storage import Workspace, open_workspace
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.execution.network import NetworkWorkers
from tasks.execution.pool import Pool
from tasks.run.settings import DaskParams
from tasks.run.stale_runs import mark_dead_run


@dataclass(frozen=True)
class Session:
    """An open workspace that this run alone writes to, and a pool that starts workers when first
    used. sources: the photographs that were listed in this run, by where they lie.
    """

    workspace: Workspace
    pool: Pool
    sources: dict[tuple[Source, ...], PhotoSources] = field(default_factory=dict)

    @property
    def network(self) -> NetworkWorkers:
        """Those workers of the pool that run the network."""
        return NetworkWorkers(self.pool)


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

    @property
    def row(self) -> dict[str, Any]:
        """As tables of a run show it."""
        worked = self.new_images and self.seconds
        return {
            "step": self.step,
            "images": self.images,
            "new": self.new_images,
            "time": duration(self.seconds),
            "a minute": round(60 * self.new_images / self.seconds, 1) if worked else "",
            "result": self.message,
        }

    def and_then(self, more: str) -> "StepResult":
        """The same with more to say at the end; nothing changes where there is nothing."""
        return dataclasses.replace(self, message=f"{self.message}; {more}") if more else self


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def photo_sources(sources: Sequence[Source]) -> PhotoSources:
    """The photographs of these sources; inside a run always the same object, so that each folder
    or zip is listed once.
    """
    session, key = _current.get(), tuple(sources)
    if session is None:
        return PhotoSources(key)
    if key not in session.sources:
        session.sources[key] = PhotoSources(key)
    return session.sources[key]


@contextlib.contextmanager
def open_session(location: str, dask: DaskParams) -> Generator[Session]:
    """The session of a run, which `photo_sources` knows inside the `with` block.

    Raises
    ------
    WorkspaceLocked: if another run works in the workspace at `location`.
    """
    workspace = open_workspace(location)
    with workspace.lock("run"), contextlib.closing(Pool(dask)) as pool:
        mark_dead_run(workspace)
        session = Session(workspace, pool)
        token = _current.set(session)
        try:
            yield session
        finally:
            _current.reset(token)
