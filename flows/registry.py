"""The eight steps in their order: each one's name, the sentence its help shows, and its function.

Adding a step is one entry here and one folder in `tasks/`; commands, flows and deployments follow.
Cheap to import: what a step needs is imported when it runs.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.config import PipelineConfig
    from tasks.run.session import Session, StepResult


@dataclass(frozen=True)
class Step:
    """One step of the pipeline."""

    sentence: str
    run: "Callable[[Session, PipelineConfig], StepResult]"


def _ingest(session: "Session", config: "PipelineConfig") -> "StepResult":
    from tasks.ingest.step import ingest

    labels_needed = not config.recipe.trains_none(session.workspace)
    return ingest(session, config.data, labels_needed=labels_needed)


def _aggregate(session: "Session", config: "PipelineConfig") -> "StepResult":
    from tasks.aggregate.audit import audit
    from tasks.aggregate.lesion_study import lesion_study
    from tasks.aggregate.step import aggregate

    recipe, sources, masks = config.recipe, config.data.every_source, config.localisation
    clustering, dissection = config.region_clustering, config.channel_dissection
    result = aggregate(session, recipe, sources, config.heatmaps, masks)
    study = lesion_study(session, recipe, sources, masks, clustering, dissection)
    return result.and_then(study).and_then(audit(session, recipe, config.audit))


def _call(step: str, *settings: str) -> "Callable[[Session, PipelineConfig], StepResult]":
    """The call of a step with these parts of the configuration."""

    def run(session: "Session", config: "PipelineConfig") -> "StepResult":
        function = getattr(importlib.import_module(f"tasks.{step}.step"), step)
        return function(session, *(getattr(config, name) for name in settings))

    return run


STEPS: dict[str, Step] = {
    "ingest": Step(
        "Finds the photographs and their labels, and sets aside what cannot be used, with the"
        " reason.",
        _ingest,
    ),
    "preprocess": Step(
        "Turns photographs into normalised fundi of one size and tone.",
        _call("preprocess", "recipe", "data", "storage"),
    ),
    "train": Step(
        "Trains the five-stage classifier with balanced mini-batches and grades it.",
        _call("train", "recipe", "tables"),
    ),
    "attribute": Step(
        "Explains the chosen images with integrated gradients: outcome to neurons, neurons to"
        " pixels.",
        _call("attribute", "recipe", "storage"),
    ),
    "aggregate": Step(
        "Turns attributions into tables: regions, statistics, group heat maps.", _aggregate
    ),
    "counterfactuals": Step(
        "Makes counterfactuals and adversarial examples of missed eyes, and compares them.",
        _call("counterfactuals", "recipe", "counterfactuals", "adversarials", "storage"),
    ),
    "linearity": Step(
        "Studies how a layer's units and the outcome move together along adversarial examples.",
        _call("linearity", "recipe", "linearity"),
    ),
    "report": Step("Writes the pages people look at.", _call("report", "recipe", "data", "tables")),
}
PIPELINE = (
    "The whole pipeline, from photographs to report: every step in order. What is done already is"
    " not done again."
)


def flow_name(name: str) -> str:
    """What Prefect calls the flow of a step, or of the whole pipeline (`run`); a server may hold
    other people's flows too.

    >>> flow_name("run"), flow_name("train")
    ('dr-pipeline', 'dr-train')
    """
    return "dr-pipeline" if name == "run" else f"dr-{name}"
