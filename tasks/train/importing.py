"""Models that were trained elsewhere: a weights-only file becomes a model of this workspace, if
it fits the configuration.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build
from storage import open_workspace
from storage.arrays.store import ShardedStore
from storage.contents.models import (
    check_weights,
    find_record,
    save_model,
    update_record,
)
from storage.layout import fundus_path
from tasks.run.errors import UserError
from tasks.run.recipe import Recipe
from tasks.train.model_record import model_record


def import_model(
    location: str, file: pathlib.Path, recipe: Recipe, config: dict[str, Any]
) -> tuple[str, bool]:
    """Takes the file in as the model of these settings; returns its id and whether there are fundi
    for it to grade.

    From then on the settings have this model and train none. Nothing in the file is run: it may
    hold numbers only. Raises Refused or UserError, in one line, for anything else and for weights
    of another architecture.
    """
    check_weights(file)
    _check_fit(file, recipe.model)
    workspace = open_workspace(location)
    with workspace.lock("run"):
        old = find_record(workspace.files, file)
        if old is None:
            notes, wanted_by = {"file": file.name}, [recipe.training_id]
            record = model_record(recipe, "imported", config, notes, imported_for=wanted_by)
            model_id = save_model(
                workspace.files, file, record, pd.DataFrame({"step": pd.Series(dtype="int64")})
            )
        else:
            model_id = old.model_id
            if problem := recipe.misfit(old):
                raise UserError(f"{file} is model {model_id} of this workspace, but {problem}")
            update_record(
                workspace.files,
                model_id,
                imported_for=sorted({*old.imported_for, recipe.training_id}),
            )
    return model_id, ShardedStore.exists(workspace.files, fundus_path(recipe.preprocess_id))


def _check_fit(file: pathlib.Path, params: ModelParams) -> None:
    """Raises UserError unless the file holds the weights of just this architecture, all of them
    finite numbers.
    """
    backend.configure()
    model = build(params.explained)
    with tempfile.TemporaryDirectory() as folder:
        ours = pathlib.Path(folder) / "expected.weights.h5"
        model.save_weights(ours)
        shapes_needed = check_weights(ours)
    # A compiled model saves its optimiser, too: it is numbers, and nothing reads them.
    shapes_given = {
        name: shape
        for name, shape in check_weights(file).items()
        if not name.startswith("optimizer/")
    }
    settings = (
        f"[model] with backbone = {params.backbone!r}, dense = {list(params.dense)}, dropout ="
        f" {params.dropout}"
    )
    # Keras takes what it needs and leaves the rest: weights of a deeper network would load without
    # a word.
    if different := sorted(set(shapes_needed.items()) ^ set(shapes_given.items())):
        name = different[0][0]
        given, needed = (
            str(list(shapes[name])) if name in shapes else "absent"
            for shapes in (shapes_given, shapes_needed)
        )
        raise UserError(
            f"{file} does not fit {settings}: {name} is {given} in the file and {needed} in that"
            f" architecture ({len(different)} such differences); set [model] as the file was"
            " trained"
        )
    try:
        model.load_weights(file)
    except Exception as error:
        raise UserError(
            f"{file} cannot be loaded into {settings}: {(str(error).splitlines() or [''])[0]}"
        ) from error
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise UserError(f"{file} holds numbers that are not finite: its training had diverged")
