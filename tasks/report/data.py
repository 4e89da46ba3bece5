"""What a report is about: every section reads its numbers from here."""

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dr_lib.report import EyeEntry
from storage import Workspace
from tasks.access.contact_sheets import Photos
from tasks.report.eyes import Explained, lead_eye
from tasks.run.recipe import Recipe
from tasks.run.settings import DataParams


@dataclass(frozen=True)
class Shown:
    """One explanation of a workspace. eyes: all of it; gallery: the explained ones, as
    `dr_lib.report.render` takes them."""

    workspace: Workspace
    recipe: Recipe
    data: DataParams
    config: dict[str, Any]
    model_id: str
    explain_id: str
    eyes: pd.DataFrame
    gallery: pd.DataFrame

    @functools.cached_property
    def photos(self) -> Photos:
        return Photos(self.workspace, self.data.every_source)

    @functools.cached_property
    def lead(self) -> tuple[EyeEntry, str] | None:
        """The eye of the opening figure with its key."""
        return lead_eye(
            Explained(self.workspace, self.explain_id, self.photos), self.eyes, self.gallery
        )

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """Every run of a step, the last one last."""
        return self.workspace.frame("runs").sort_values("started")

    @functools.cached_property
    def last_work(self) -> pd.DataFrame:
        """Of each step the last run that had something new to do."""
        worked = self.runs[(self.runs["state"] == "completed") & (self.runs["new_images"] > 0)]
        return worked.drop_duplicates("stage", keep="last")

    @functools.cached_property
    def run_id(self) -> str:
        """The run that last attributed anything: these are its numbers."""
        attributed = self.last_work[self.last_work["stage"] == "attribute"]
        return str(attributed["run_id"].iloc[0]) if len(attributed) else ""
