"""What each step calls, and the row in `runs` that every step run leaves, whatever happens to
it.
"""

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from flows.config import PipelineConfig, as_tables
from flows.registry import STEPS
from storage.errors import after_failure
from tasks.access.inputs import require_inputs
from tasks.aggregate.lesion_study import lesion_study
from tasks.aggregate.localise import localise
from tasks.aggregate.step import aggregate
from tasks.attribute.step import attribute
from tasks.counterfactuals.step import counterfactuals
from tasks.ingest.step import ingest
from tasks.linearity.step import linearity
from tasks.preprocess.step import preprocess
from tasks.report.step import report
from tasks.run.artifacts import show_report, show_result
from tasks.run.progress import begin, say
from tasks.run.run_log import record_run
from tasks.run.session import Session, StepResult
from tasks.train.step import train

Step = Callable[[Session, PipelineConfig], StepResult]

STEP_FUNCTIONS: dict[str, Step] = {
    "ingest": lambda session, c: ingest(
        session, c.data, labels_needed=not c.recipe.trains_none(session.workspace)
    ),
    "preprocess": lambda session, c: preprocess(session, c.recipe, c.data, c.storage),
    "train": lambda session, c: train(session, c.recipe, as_tables(c)),
    "attribute": lambda session, c: attribute(session, c.recipe, c.storage),
    "aggregate": lambda session, c: (
        aggregate(session, c.recipe, c.heatmaps)
        .and_then(localise(session, c.recipe, c.data.photos, c.localisation))
        .and_then(
            lesion_study(
                session, c.recipe, c.data.photos, c.localisation, c.appearance, c.lesion_units
            )
        )
    ),
    "counterfactuals": lambda session, c: counterfactuals(
        session, c.recipe, c.counterfactuals, c.adversarials, c.storage
    ),
    "linearity": lambda session, c: linearity(session, c.recipe, c.linearity),
    "report": lambda session, c: report(session, c.recipe, c.data, as_tables(c)),
}


def run_step(name: str, session: Session, config: PipelineConfig) -> StepResult:
    """Runs one step and leaves a row in `runs`, whatever happens, and its result on Prefect's
    page.
    """
    begin(name, f"{STEPS[name]} Workspace: {config.workspace}")
    tables = as_tables(config)
    row = {
        "run_id": uuid.uuid4().hex[:12],
        "stage": name,
        "started": datetime.now(UTC),
        "config_sha256": hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest(),
    }
    try:
        require_inputs(name, session.workspace, config.recipe)
        result = STEP_FUNCTIONS[name](session, config)
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with after_failure():
            record_run(
                session.workspace,
                {**row, "state": state, "message": f"{type(error).__name__}: {error}"},
            )
        raise
    seconds = record_run(
        session.workspace,
        {
            **row,
            "state": "completed",
            "message": result.message,
            "images": result.images,
            "new_images": result.new_images,
        },
    )
    result = dataclasses.replace(result, seconds=seconds)
    show_result(session.workspace, result)
    if name == "report":
        show_report(session.workspace, result.message)
    say(f"{name}: {result.message}")
    return result
