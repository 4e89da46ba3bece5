"""What a step needs of the steps before it, and which of them to run where that is not there."""

from collections.abc import Callable
from typing import NamedTuple

from storage import Workspace
from storage.layout import attributions_path, fundus_path, ledger_folder
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe


class Output(NamedTuple):
    """What a step leaves for later ones: its name, whether it is there for these settings, and
    whether for others.
    """

    noun: str
    exists: Callable[[Workspace, Recipe], bool]
    exists_otherwise: Callable[[Workspace, Recipe], bool] = lambda workspace, recipe: False


def _has_fundi(workspace: Workspace, recipe: Recipe) -> bool:
    return _has_finished_shard(workspace, fundus_path(recipe.preprocess_id))


def _has_other_fundi(workspace: Workspace, recipe: Recipe) -> bool:
    return bool(set(workspace.preprocess_ids()) - {recipe.preprocess_id})


def _has_graded_model(workspace: Workspace, recipe: Recipe) -> bool:
    model_id = recipe.find_model(workspace)
    return model_id is not None and bool(workspace.parts("predictions", model_id))


def _has_other_model(workspace: Workspace, recipe: Recipe) -> bool:
    return recipe.find_model(workspace) is None and bool(workspace.models())


def _has_attributions(workspace: Workspace, recipe: Recipe) -> bool:
    return _has_finished_shard(workspace, attributions_path(recipe.explain_id(workspace)))


def _has_other_attributions(workspace: Workspace, recipe: Recipe) -> bool:
    explain_id = recipe.explain_id(workspace)
    return any(record.explain_id != explain_id for record in workspace.explanations())


def _has_finished_shard(workspace: Workspace, path: str) -> bool:
    return bool(workspace.files.names(ledger_folder(path)))


# Each of these steps works on what those above it left.
OUTPUTS = {
    "ingest": Output(
        "a catalogue of photographs", lambda workspace, recipe: not workspace.photos().empty
    ),
    "preprocess": Output("fundi of these settings", _has_fundi, _has_other_fundi),
    "train": Output("a graded model of these settings", _has_graded_model, _has_other_model),
    "attribute": Output(
        "attributions of these settings", _has_attributions, _has_other_attributions
    ),
    "aggregate": Output(
        "the tables of attributions",
        lambda workspace, recipe: bool(
            workspace.parts("attributions", recipe.explain_id(workspace))
        ),
    ),
}
LAST_NEEDED = {
    "preprocess": "ingest",
    "train": "preprocess",
    "attribute": "train",
    "aggregate": "attribute",
    "counterfactuals": "train",
    "linearity": "attribute",
    "report": "aggregate",
}


def require_inputs(step: str, workspace: Workspace, recipe: Recipe) -> None:
    """Raises UserError where the output of an earlier step is missing, naming the commands to
    run first.
    """
    if step not in LAST_NEEDED:
        return
    steps = list(OUTPUTS)
    needed = steps[: steps.index(LAST_NEEDED[step]) + 1]
    for number, name in enumerate(needed):
        output = OUTPUTS[name]
        if not output.exists(workspace, recipe):
            commands = ", then ".join(f"run `dr {missing}`" for missing in needed[number:])
            advice = f"{commands}, with the same configuration and --set"
            held = "none"
            if output.exists_otherwise(workspace, recipe):
                held, advice = "only some of other settings", f"repeat their --set, or {advice}"
            needed_here = f"`dr {step}` needs {output.noun}, and {workspace.location} holds {held}"
            raise UserError(f"{needed_here}: {advice}")
