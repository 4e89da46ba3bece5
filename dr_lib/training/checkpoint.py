"""A training run's whole state in one file: weights, optimiser, random counters, step and history.

The file is a plain NumPy archive (arrays and one JSON text), read without pickle: opening it can't
run code. It is written to a temporary name, flushed to the disk and renamed, and its folder is
flushed too, so that a kill or a power loss leaves the old one or the new one. The temporary name is
always the same: what a kill left of it is overwritten, so that many kills do not fill the disk.
"""

import contextlib
import json
import os
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


@dataclass
class Checkpoint:
    """`arrays`: every variable in the model's and the optimiser's own order; `state`: step,
    history, best so far.
    """

    arrays: list[np.ndarray]
    state: dict[str, Any]


def write_checkpoint(path: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Replace the file by this checkpoint, at once and for good."""
    folder = path.parent
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    named: dict[str, Any] = {
        f"array{number:05d}": array for number, array in enumerate(checkpoint.arrays)
    }
    with open(temporary, "wb") as file:
        np.savez(file, state=np.array(json.dumps(checkpoint.state)), **named)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for place in (folder, *(place.parent for place in absent)):
        _flush_folder(place)


def _flush_folder(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def read_checkpoint(path: pathlib.Path) -> Checkpoint | None:
    """The checkpoint of a file; None when there is no file.

    Raises
    ------
    ValueError: when the file is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        # Opened here, since np.load leaves the file open when it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            state = json.loads(str(archive["state"]))
            arrays = [
                archive[name] for name in sorted(name for name in archive.files if name != "state")
            ]
    except Exception as error:
        raise ValueError(
            f"{path} is not a training checkpoint ({type(error).__name__}): remove it to start"
            " afresh"
        ) from error
    return Checkpoint(arrays, state)


def write_weights(model: "keras.Model", path: pathlib.Path) -> None:
    """Write the model's weights alone, as a weights-only file of Keras, whose name ends in
    .weights.h5.

    `save_weights` of a model that was trained adds the optimiser's state: two thirds of the file,
    and its hash, the model's id, would tell two models of the same weights apart.
    """
    import keras

    # Its name stands in the file: without one Keras would number it by the models that this process
    # has built.
    keras.Model(model.inputs, model.outputs, name=model.name).save_weights(path)
