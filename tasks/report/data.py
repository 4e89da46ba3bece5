"""What a report is about: every section reads its numbers from here."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.report.entry import EyeEntry
from storage import Workspace
from storage.tables.schemas import PARTITION
from tasks.access.contact_sheets import Photos
from tasks.report.eyes import Explained
from tasks.run.recipe import Recipe
from tasks.run.resolved_ids import ResolvedIds


@dataclass(frozen=True)
class ReportData:
    """One explanation of a workspace.

    config: the whole configuration, by section. photos: the original photographs. eyes: every image
    of the explanation (`tasks.access.explained.explained_eyes`), and whether it is `present`.
    """

    workspace: Workspace
    recipe: Recipe
    config: dict[str, Any]
    ids: ResolvedIds
    photos: Photos
    eyes: pd.DataFrame

    @functools.cached_property
    def gallery(self) -> pd.DataFrame:
        """The explained eyes, as `dr_lib.report.render` takes them."""
        return self.explained.gallery(self.eyes)

    @functools.cached_property
    def lead(self) -> tuple[EyeEntry, str] | None:
        """The eye of the opening figure with its key."""
        return self.explained.lead(self.eyes, self.gallery)

    @functools.cached_property
    def explained(self) -> Explained:
        return Explained(self.workspace, self.ids.explain_id, self.photos)

    def ids_of(self, table: str) -> dict[str, str]:
        """Which rows of a table belong to this report: the column of its partition, and the id."""
        key = PARTITION[table]
        return {key: getattr(self.ids, key)} if key else {}

    def rows(self, table: str, **equals: Any) -> pd.DataFrame:
        """The rows of a table that belong to this report, without the column of their id. equals:
        as for `Workspace.frame`."""
        ids = self.ids_of(table)
        return self.workspace.frame(table, **ids, **equals).drop(columns=[*ids])

    def fundi(self, image_ids: Iterable[str]) -> dict[str, np.ndarray]:
        """The preprocessed photographs by their id, each (y, x, 3) uint8."""
        names = list(dict.fromkeys(image_ids))
        positions = self.workspace.photos().set_index("image_id")["position"]
        rows = positions[names].to_numpy()
        pixels = self.explained.fundi.read_rows(rows, ["pixels"])["pixels"]
        return dict(zip(names, pixels, strict=True))

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
        attributed = self.last_work.loc[self.last_work["stage"] == "attribute", "run_id"]
        return str(attributed.iloc[0]) if len(attributed) else ""
