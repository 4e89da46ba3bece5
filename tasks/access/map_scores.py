"""How well each map finds lesions, and what its audit found, read from the table `evaluation`."""

import pandas as pd

from dr_lib.formatting import with_interval
from storage import Workspace

STRATUM, AUDIT = "masks", "audit"


def pixel_aucs(workspace: Workspace, model_id: str, explain_id: str) -> pd.DataFrame:
    """Each map's pixel AUC for all lesions together, best first, by its name in `map`: of the
    split with the most eyes.
    """
    rows = workspace.frame(
        "evaluation", model_id=model_id, stratum=STRATUM, metric="pixel_auc", lesion="any"
    )
    rows = rows[rows["explain_id"] == explain_id]
    rows = rows[rows["images"] == rows["images"].max()].sort_values(
        "value", ascending=False, kind="stable"
    )
    names = [
        source if pd.isna(of) else f"{source}, {of}"
        for source, of in zip(rows["source"], rows["quantity"], strict=True)
    ]
    return rows.assign(map=names).reset_index(drop=True)


def audit_rows(workspace: Workspace, model_id: str, explain_id: str) -> pd.DataFrame:
    """The measures of the audit, each also in words, with its interval."""
    rows = workspace.frame("evaluation", model_id=model_id, stratum=AUDIT)
    rows = rows[rows["explain_id"] == explain_id].reset_index(drop=True)
    ends = zip(rows["value"], rows["low"], rows["high"], strict=True)
    return rows.assign(words=[with_interval(*interval) for interval in ends])
