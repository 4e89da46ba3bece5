"""The table of photographs set aside: each step replaces its own rows, and too many end the run."""

import collections

import pandas as pd

from storage import Workspace
from storage.photos.labels import ABOUT_LABELS_ONLY
from tasks.run.errors import UserError
from tasks.run.settings import DataParams


def replace_rejects(workspace: Workspace, step: str, rejects: pd.DataFrame) -> None:
    """Puts a step's rejects in the place of those it left before; other steps' stay."""
    others = workspace.rejects()
    every = pd.concat([others[others["step"] != step], rejects.astype(object)], ignore_index=True)
    workspace.write_rejects(
        every.sort_values("step", kind="stable", ignore_index=True)
    )  # one order, so equal rows are equal bytes


def check_reject_fraction(workspace: Workspace, data: DataParams) -> None:
    """Raises UserError if more photographs were set aside than `data.max_reject_fraction`
    allows.
    """
    rejects = workspace.rejects()
    set_aside = len(rejects[~rejects["reason"].isin(ABOUT_LABELS_ONLY)])
    usable = int(workspace.photos()["present"].sum()) - int((rejects["step"] != "ingest").sum())
    share = set_aside / max(set_aside + usable, 1)
    if share > data.max_reject_fraction:
        worst, count = collections.Counter(rejects["reason"]).most_common(1)[0]
        raise UserError(
            f"{share:.0%} of the photographs in {data.photos} were set aside, mostly {worst}"
            f" ({count}); look at `dr sql {workspace.location} 'from rejects'`, or raise"
            f" data.max_reject_fraction (now {data.max_reject_fraction})"
        )
