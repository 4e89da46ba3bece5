"""What a step needs of the steps before it, and which of them to run where that is not there."""

import itertools
from collections.abc import Callable, Iterable, Iterator

from storage import Workspace
from storage.layout import attributions_path, fundus_path, ledger_folder
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe


def _begun(workspace: Workspace, ids: Iterable[str], path_of: Callable[[str], str]) -> list[str]:
    """The ids whose store has a finished shard."""
    return [name for name in ids if workspace.files.names(ledger_folder(path_of(name)))]


# Each of these works on what those before it left.
STEPS = ("ingest", "preprocess", "train", "attribute", "aggregate")
LAST_NEEDED = {
    "preprocess": "ingest",
    "train": "preprocess",
    "attribute": "train",
    "aggregate": "attribute",
    "counterfactuals": "train",
    "linearity": "attribute",
    "report": "aggregate",
}


def _outputs(workspace: Workspace, recipe: Recipe) -> Iterator[tuple[str, list[str], str | None]]:
    """What each of STEPS has left: its name, the ids by which it is there, and the one of these
    settings; nobody looks further than the first that is missing.
    """
    yield ("a catalogue of photographs", [] if workspace.photos().empty else [""], "")
    fundi = _begun(workspace, workspace.preprocess_ids(), fundus_path)
    yield ("fundi of these settings", fundi, recipe.preprocess_id)
    models = [record.model_id for record in workspace.models()]
    graded = [model_id for model_id in models if workspace.parts("predictions", model_id)]
    yield ("a graded model of these settings", graded, recipe.find_model(workspace))
    ids = [record.explain_id for record in workspace.explanations()]
    explained, wanted = _begun(workspace, ids, attributions_path), recipe.explain_id(workspace)
    yield ("attributions of these settings", explained, wanted)
    tabled = [name for name in explained if workspace.parts("attributions", name)]
    yield ("the tables of attributions", tabled, wanted)


def require_inputs(step: str, workspace: Workspace, recipe: Recipe) -> None:
    """Raises UserError where the output of an earlier step is missing, naming the commands to
    run first.
    """
    if step not in LAST_NEEDED:
        return
    needed = STEPS[: STEPS.index(LAST_NEEDED[step]) + 1]
    outputs = itertools.islice(_outputs(workspace, recipe), len(needed))
    for number, (noun, there, wanted) in enumerate(outputs):
        if wanted not in there:
            commands = ", then ".join(f"run `dr {missing}`" for missing in needed[number:])
            advice = f"{commands}, with the same configuration and --set"
            held = "none"
            if there:
                held, advice = "only some of other settings", f"repeat their --set, or {advice}"
            needed_here = f"`dr {step}` needs {noun}, and {workspace.location} holds {held}"
            raise UserError(f"{needed_here}: {advice}")
