"""What a step needs of the steps before it, and which of them to run where that is not there."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from storage import Workspace
from storage.layout import attributions_path, fundus_path, ledger_folder
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe


class Output(NamedTuple):
    """What a step leaves for later ones: its name, the ids by which it is there, and the one of
    these settings.
    """

    noun: str
    there: Callable[[Workspace], Iterable[str]]
    wanted: Callable[[Workspace, Recipe], str | None]


def _begun(workspace: Workspace, ids: Iterable[str], path_of: Callable[[str], str]) -> list[str]:
    """The ids whose store has a finished shard."""
    return [name for name in ids if workspace.files.names(ledger_folder(path_of(name)))]


def _graded(workspace: Workspace) -> list[str]:
    models = (record.model_id for record in workspace.models())
    return [model_id for model_id in models if workspace.parts("predictions", model_id)]


def _explained(workspace: Workspace) -> list[str]:
    ids = (record.explain_id for record in workspace.explanations())
    return _begun(workspace, ids, attributions_path)


def _tabled(workspace: Workspace) -> list[str]:
    return [name for name in _explained(workspace) if workspace.parts("attributions", name)]


def _explain_id(workspace: Workspace, recipe: Recipe) -> str:
    return recipe.explain_id(workspace)


# Each of these steps works on what those above it left.
OUTPUTS = {
    "ingest": Output(
        "a catalogue of photographs",
        lambda workspace: [] if workspace.photos().empty else [""],
        lambda workspace, recipe: "",
    ),
    "preprocess": Output(
        "fundi of these settings",
        lambda workspace: _begun(workspace, workspace.preprocess_ids(), fundus_path),
        lambda workspace, recipe: recipe.preprocess_id,
    ),
    "train": Output(
        "a graded model of these settings",
        _graded,
        lambda workspace, recipe: recipe.find_model(workspace),
    ),
    "attribute": Output("attributions of these settings", _explained, _explain_id),
    "aggregate": Output("the tables of attributions", _tabled, _explain_id),
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
        there = set(output.there(workspace))
        if output.wanted(workspace, recipe) not in there:
            commands = ", then ".join(f"run `dr {missing}`" for missing in needed[number:])
            advice = f"{commands}, with the same configuration and --set"
            held = "none"
            if there:
                held, advice = "only some of other settings", f"repeat their --set, or {advice}"
            needed_here = f"`dr {step}` needs {output.noun}, and {workspace.location} holds {held}"
            raise UserError(f"{needed_here}: {advice}")
