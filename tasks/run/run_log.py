"""The table `runs`: one row a step run, so that what was done, when and with which versions can
be asked.
"""

import importlib.metadata
import json
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from dr_lib.network import backend
from storage import Workspace

LIBRARIES = ("dask", "numpy", "opencv-python-headless", "prefect", "zarr")


def versions() -> dict[str, str]:
    """Versions of the libraries that decide results."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES} | backend.versions()


def record_run(workspace: Workspace, row: dict[str, Any]) -> float:
    """Adds a step run to the table and returns its seconds, from `started` until now.

    `row` holds run_id, stage (the step), state, started, message and, if known, image counts.
    """
    finished = datetime.now(UTC)
    full = {
        "images": None,
        "new_images": None,
        **row,
        "finished": finished,
        "seconds": (finished - row["started"]).total_seconds(),
        "versions": json.dumps(versions()),
    }
    workspace.write_table(
        "runs",
        pd.DataFrame([full]),
        partition=None,
        part=f"{row['started']:%Y%m%dT%H%M%S}-{row['run_id']}",
    )
    return full["seconds"]
