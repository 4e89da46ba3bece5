"""Trained models: `models/<model_id>/` with weights, model.json, history.parquet, labels.parquet.

Weights only, never code.

The id is the hash of the weights file, so a file that was altered has no right to its name and is
refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.contents.records import LATEST, Dated, pick
from storage.errors import Refused, one_line
from storage.files.files import Files, write_whole
from storage.files.scratch import cache_folder
from storage.ids import ID_DIGITS, digest_bytes, digest_file
from storage.layout import MODEL_RECORD, MODELS, model_path
from storage.tables.parts import read_raw

if TYPE_CHECKING:
    import pandas as pd


WEIGHTS = "model.weights.h5"
HISTORY = "history.parquet"
LABELS = "labels.parquet"


@dataclass(frozen=True)
class ModelRecord(Dated):
    """What model.json says. `save_model` fills in the first three fields and `created`.

    architecture: settings of the network. training_id: of the settings it was trained with;
    imported_for: of those it was imported for. manifest, labels: digests of the photographs and
    labels it learned from. least_quality: the score below which eyes were left out. metrics: by
    split. notes: how it came to be, for people.
    """

    model_id: str = ""
    weights_sha256: str = ""
    weights_bytes: int = 0
    preprocess_id: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    training_id: str = ""
    imported_for: Sequence[str] = ()
    manifest: str = ""
    labels: str = ""
    least_quality: float | None = None
    step_seconds: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


def save_model(
    files: Files,
    weights_file: str | Path,
    record: ModelRecord,
    history: "pd.DataFrame",
    labels: "pd.DataFrame | None" = None,
) -> str:
    """Stores a model and returns its id. model.json comes last: without it the model does not
    exist.

    history: one row per step reported, any columns. labels: what it learned from
    (`learned_from`), where that is known. Raises ValueError for a file that is not weights only.
    """
    weights_file = Path(weights_file)
    check_weights(weights_file)
    data = weights_file.read_bytes()
    sha256 = digest_bytes(data)
    model_id = sha256[:ID_DIGITS]
    if files.size(model_path(model_id, WEIGHTS)) != len(data):
        files.write(model_path(model_id, WEIGHTS), data)
    files.write(model_path(model_id, HISTORY), _parquet(history))
    if labels is not None:
        files.write(model_path(model_id, LABELS), _parquet(labels))
    record = replace(record, model_id=model_id, weights_sha256=sha256, weights_bytes=len(data))
    record.save(files, model_path(model_id, MODEL_RECORD))
    return model_id


def load_records(files: Files) -> list[ModelRecord]:
    """Every model's record, oldest first. Raises OtherFormat."""
    return [*ModelRecord.by_id(files, MODELS, MODEL_RECORD).values()]


def load_record(files: Files, model_id: str = LATEST) -> ModelRecord:
    """One model's record. Raises FileNotFoundError, naming those there are; OtherFormat."""
    records = ModelRecord.by_id(files, MODELS, MODEL_RECORD)
    return pick(files, records, model_id, "model", "models", "dr train")


def find_record(files: Files, weights_file: Path) -> ModelRecord | None:
    """The record of the model that has just these weights, or None."""
    sha256 = digest_file(weights_file)
    return next((record for record in load_records(files) if record.weights_sha256 == sha256), None)


def update_record(files: Files, model_id: str, **changes: Any) -> None:
    """Adds to a model's record, or replaces what it says; a record that says so already is not
    written again.
    """
    old = load_record(files, model_id)
    replace(old, **changes).write(files, model_path(old.model_id, MODEL_RECORD))


def load_history(files: Files, model_id: str) -> "pd.DataFrame":
    """The training's history of one model."""
    return read_raw(files, model_path(model_id, HISTORY)).to_pandas()


def load_labels(files: Files, model_id: str) -> "pd.DataFrame | None":
    """The labels that a model learned from: image_id, stage, split; None where they are not
    known.
    """
    try:
        return read_raw(files, model_path(model_id, LABELS)).to_pandas()
    except FileNotFoundError:
        return None


def local_weights(files: Files, model_id: str = LATEST) -> Path:
    """A local path of a model's weights, its hash checked; those of a remote workspace are fetched
    once.

    Raises FileNotFoundError where the model is not there, ValueError where the file is not the one
    that was stored.
    """
    record = load_record(files, model_id)
    name = model_path(record.model_id, WEIGHTS)
    if files.is_local:
        path = Path(files.path(name))
    else:
        path = cache_folder() / "models" / f"{record.weights_sha256}.weights.h5"
        if not path.exists():
            write_whole(path, files.read(name))
    found = digest_file(path)
    if found != record.weights_sha256:
        if not files.is_local:
            path.unlink()
        raise Refused(
            f"{path} is not the file that was stored (sha256 {found[:12]}…): restore it or train"
            " again"
        )
    check_weights(path)
    return path


def check_weights(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a Keras 3 weights-only file, by its name in the file. Refuses
    anything else: full models carry code, which loading them would run.
    """
    import h5py

    if not path.is_file():
        raise Refused(f"{path} is not a file")
    if not path.name.endswith(".weights.h5"):
        raise Refused(f"{path} is not a weights file: its name must end in .weights.h5")
    if not h5py.is_hdf5(path):
        raise Refused(f"{path} is not an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            for key in ("model_config", "training_config", "keras_version"):
                if key in file.attrs:
                    raise Refused(
                        f"{path} is a full model (it has {key}): only weights are accepted"
                    )
            return {item.name.lstrip("/"): item.shape for item in _arrays(file)}
    except OSError as error:
        raise Refused(f"{path} is damaged: {one_line(error)}") from None


def _parquet(frame: "pd.DataFrame") -> bytes:
    return frame.to_parquet(index=False, compression="zstd")


def _arrays(group) -> Iterator[Any]:
    """Every array below a group. Raises Refused for anything but numbers in this very file (opaque
    bytes are how pickles hide, links could name files elsewhere).
    """
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"weights file: {group.name}/{name} is a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _arrays(item)
            continue
        if item.dtype.kind not in "fiub":
            raise Refused(f"weights file: {item.name} holds {item.dtype}, not numbers")
        if isinstance(item, h5py.Dataset):
            if item.external:
                raise Refused(f"weights file: {item.name} keeps its numbers in another file")
            yield item
