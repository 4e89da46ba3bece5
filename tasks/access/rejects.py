"""The table of photographs set aside: each step replaces its own rows, and too many end the run."""

import collections
from collections.abc import Iterable

import pandas as pd

from dr_lib.formatting import percent
from storage import Workspace
from storage.photos.labels import REASONS
from tasks.run.errors import UserError
from tasks.run.settings import DataParams


def replace_rejects(workspace: Workspace, step: str, rejects: pd.DataFrame) -> None:
    """Puts a step's rejects in the place of those it left before; other steps' stay."""
    rejects_before = workspace.rejects()
    rejects_after = pd.concat(
        [rejects_before[rejects_before["step"] != step], rejects.astype(object)], ignore_index=True
    )
    workspace.write_table(
        "rejects", rejects_after.sort_values("step", kind="stable", ignore_index=True)
    )  # one order, so equal rows are equal bytes


def check_reject_fraction(workspace: Workspace, data: DataParams) -> None:
    """Raises UserError if more photographs were set aside than `data.max_reject_fraction`
    allows.
    """
    rejects = workspace.rejects()
    # A second copy is no sign of a wrong folder: a zip may lie beside the parts that it was joined
    # from.
    set_aside = rejects[
        ~rejects["reason"].isin(REASONS["about_labels_only"] + REASONS["second_copies"])
    ]
    usable = int(workspace.photos()["present"].sum()) - int((rejects["step"] != "ingest").sum())
    _check_fraction("photographs", set_aside, usable, workspace, data)


def check_label_fraction(workspace: Workspace, usable: int, data: DataParams) -> None:
    """Raises UserError if more labels were set aside for their stage than
    `data.max_reject_fraction` allows.
    """
    rejects = workspace.rejects()
    _check_fraction(
        "labels", rejects[rejects["reason"].isin(REASONS["stage_faults"])], usable, workspace, data
    )


def _check_fraction(
    noun: str, set_aside: pd.DataFrame, usable: int, workspace: Workspace, data: DataParams
) -> None:
    share = len(set_aside) / max(len(set_aside) + usable, 1)
    if share <= data.max_reject_fraction:
        return
    worst, count = collections.Counter(set_aside["reason"]).most_common(1)[0]
    first = set_aside[set_aside["reason"] == worst].iloc[0]
    raise UserError(
        f"{percent(share)} of the {noun} in {data.places} were set aside, mostly {worst} ({count},"
        f" such as {first['path']}: {first['detail']}); look at `dr sql {workspace.location}"
        f" 'from rejects'`, or raise data.max_reject_fraction (now {data.max_reject_fraction})"
    )


def reason_counts(reasons: Iterable[str]) -> str:
    """Reasons with how often each occurs, the commonest first.

    >>> reason_counts(["empty", "no_label", "no_label"])
    '2 no_label, 1 empty'
    """
    common = collections.Counter(reasons).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in common)
