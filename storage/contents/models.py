"""Trained models: `models/<model_id>/` with weights, model.json, history.parquet, labels.parquet.

Weights only, never code.

The id is the hash of the weights file, so a file that was altered has no right to its name and is
refused.
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import NotThere, Refused
from storage.files.files import Files, canonical_json
from storage.ids import ID_DIGITS

if TYPE_CHECKING:
    import pandas as pd


WEIGHTS = "model.weights.h5"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def save_model(
    files: Files,
    weights_file: str | Path,
    record: Mapping[str, Any],
    history: "pd.DataFrame",
    labels: "pd.DataFrame | None" = None,
) -> str:
    """Stores a model and returns its id. model.json comes last: without it the model does not
    exist.

    record: architecture, metrics, provenance. history: one row per step reported, any columns.
    labels: what it learned from (`learned_from`), where that is known. Raises ValueError for a file
    that is not weights only.
    """
    weights_file = Path(weights_file)
    check_weights(weights_file)
    data = weights_file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    model_id = sha256[:ID_DIGITS]
    folder = f"models/{model_id}"
    old = files.read_json(f"{folder}/model.json") or {}
    if files.size(f"{folder}/{WEIGHTS}") != len(data):
        files.write(f"{folder}/{WEIGHTS}", data)
    files.write(f"{folder}/history.parquet", _parquet(history))
    if labels is not None:
        files.write(f"{folder}/labels.parquet", _parquet(labels))
    created = old.get("created") or datetime.now(UTC).isoformat()
    own = {
        "model_id": model_id,
        "weights_sha256": sha256,
        "weights_bytes": len(data),
        "created": created,
    }
    files.write_json(f"{folder}/model.json", {**record, **own})
    return model_id


def load_records(files: Files) -> list[dict]:
    """Every model's record, oldest first."""
    records = [files.read_json(f"models/{name}/model.json") for name in files.names("models")]
    return sorted(
        (record for record in records if record),
        key=lambda record: (record["created"], record["model_id"]),
    )


def load_record(files: Files, model_id: str = "latest") -> dict:
    """One model's record. Raises FileNotFoundError, naming those there are."""
    records = {record["model_id"]: record for record in load_records(files)}
    if model_id == "latest" and records:
        return list(records.values())[-1]
    if model_id not in records:
        which = (
            f"no model {model_id}; there are {', '.join(records)}" if records else "no models yet"
        )
        raise NotThere(f"{files.location} holds {which}: run dr train")
    return records[model_id]


def find_record(files: Files, weights_file: Path) -> dict | None:
    """The record of the model that has just these weights, or None."""
    with weights_file.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return next(
        (record for record in load_records(files) if record["weights_sha256"] == sha256), None
    )


def update_record(files: Files, model_id: str, **changes: Any) -> None:
    """Adds to a model's record, or replaces what it says; a record that says so already is not
    written again.
    """
    record = load_record(files, model_id)
    if canonical_json({**record, **changes}) != canonical_json(record):
        files.write_json(f"models/{record['model_id']}/model.json", {**record, **changes})


def load_history(files: Files, model_id: str = "latest") -> "pd.DataFrame":
    """The training's history of one model."""
    import pandas as pd

    model_id = load_record(files, model_id)["model_id"]
    return pd.read_parquet(io.BytesIO(files.read(f"models/{model_id}/history.parquet")))


def load_labels(files: Files, model_id: str) -> "pd.DataFrame | None":
    """The labels that a model learned from: image_id, stage, split; None where they are not
    known.
    """
    import pandas as pd

    try:
        return pd.read_parquet(io.BytesIO(files.read(f"models/{model_id}/labels.parquet")))
    except FileNotFoundError:
        return None


def local_weights(files: Files, model_id: str = "latest") -> Path:
    """A local path of a model's weights, its hash checked; those of a remote workspace are fetched
    once.

    Raises FileNotFoundError where the model is not there, ValueError where the file is not the one
    that was stored.
    """
    record = load_record(files, model_id)
    name = f"models/{record['model_id']}/{WEIGHTS}"
    if files.is_local:
        path = Path(files.path(name))
    else:
        path = _cache_folder() / f"{record['weights_sha256']}.weights.h5"
        if not path.exists():
            _write_whole(path, files.read(name))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != record["weights_sha256"]:
        if not files.is_local:
            path.unlink()
        raise Refused(
            f"{path} is not the file that was stored (sha256 {found[:12]}…): restore it or train"
            " again"
        )
    check_weights(path)
    return path


def check_weights(path: Path) -> None:
    """Refuses anything that is not a Keras 3 weights-only file: full models carry code, which
    loading them would run.
    """
    if not path.is_file():
        raise Refused(f"{path} is not a file")
    if not path.name.endswith(".weights.h5"):
        raise Refused(f"{path} is not a weights file: its name must end in .weights.h5")
    with path.open("rb") as file:
        if file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
            raise Refused(f"{path} is not an HDF5 file")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            refused = [
                key
                for key in ("model_config", "training_config", "keras_version")
                if key in file.attrs
            ]
            if refused:
                raise Refused(
                    f"{path} is a full model (it has {refused[0]}): only weights are accepted"
                )
            file.visititems(_refuse_objects)
            # visititems follows hard links only; these could name files elsewhere.
            _refuse_links(file)
    except OSError as error:
        raise Refused(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a weights file that `check_weights` accepts, by its name in
    the file.
    """
    import h5py

    shapes = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                shapes.__setitem__(name, item.shape) if isinstance(item, h5py.Dataset) else None
            )
        )
    return shapes


def _parquet(frame: "pd.DataFrame") -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False, compression="zstd")
    return sink.getvalue()


def _refuse_objects(name: str, item) -> None:
    """Anything but numbers has no place among weights (opaque bytes are how pickles hide)."""
    kind = getattr(getattr(item, "dtype", None), "kind", "f")
    if kind not in "fiub":
        raise Refused(f"weights file: {name} holds {item.dtype}, not numbers")


def _refuse_links(group) -> None:
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"weights file: {group.name}/{name} is a link to elsewhere")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item)
        elif item.external:
            raise Refused(f"weights file: {item.name} keeps its numbers in another file")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dr-explain" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_whole(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    shutil.move(file.name, path)
