"""Which fundi, which model, which explanation a configuration means: settings become ids, ids find what is there.

An id is the hash of the settings that decide a result, so a changed setting is a new id beside the old one, and results
of two settings never mix.
"""

import dataclasses
import functools
import hashlib
import pathlib
from dataclasses import dataclass
from typing import Any

from dr_lib.attribution import AttributionParams
from dr_lib.fundus import PreprocessParams
from dr_lib.model import ModelParams
from dr_lib.training import OUTCOME_FREE, TrainingParams
from storage import Workspace
from storage.ids import content_id
from tasks.errors import UserError


def settings_of(kind: type, params: Any) -> dict[str, Any]:
    """The fields of `params` that belong to the dataclass `kind`; a section of the configuration may have more."""
    return {field.name: getattr(params, field.name) for field in dataclasses.fields(kind)}


def _weights_identity(model: ModelParams) -> str:
    """What the trunk starts from: a word, or the hash of a file, wherever the file lies."""
    path = pathlib.Path(model.backbone_weights)
    if not path.is_file():
        return model.backbone_weights
    state = path.stat()
    return _file_sha256(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _file_sha256(path: str, size: int, modified_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Recipe:
    """The settings that decide every number of an explanation."""

    preprocess: PreprocessParams
    model: ModelParams
    training: TrainingParams
    attribution: AttributionParams

    @property
    def preprocess_settings(self) -> dict[str, Any]:
        """What decides the fundi's pixels. The quality threshold only flags."""
        return {
            name: value for name, value in settings_of(PreprocessParams, self.preprocess).items() if name != "quality_threshold"
        }

    @property
    def preprocess_id(self) -> str:
        return content_id(self.preprocess_settings)

    @property
    def training_id(self) -> str:
        """The id of a model's settings, known before the model is: the photographs are left out on purpose."""
        return content_id(
            {
                "preprocess_id": self.preprocess_id,
                "architecture": settings_of(ModelParams, self.model) | {"backbone_weights": _weights_identity(self.model)},
                "training": {
                    name: v for name, v in settings_of(TrainingParams, self.training).items() if name not in OUTCOME_FREE
                },
            }
        )

    @property
    def engine(self) -> AttributionParams:
        """The attribution's own settings, without which images are chosen."""
        return AttributionParams(**settings_of(AttributionParams, self.attribution))

    def find_model(self, workspace: Workspace, manifest: str | None = None) -> str | None:
        """The newest model trained with these settings (and, if given, on exactly these photographs), or None."""
        fitting = [
            record
            for record in workspace.models()
            if record.get("training_id") == self.training_id and manifest in (None, record.get("manifest"))
        ]
        return fitting[-1]["model_id"] if fitting else None

    def model_id(self, workspace: Workspace) -> str:
        """The model these settings have. Raises UserError if there is none yet."""
        model_id = self.find_model(workspace)
        if model_id is None:
            raise UserError(
                f"{workspace.location} holds no model for these settings; run `dr train` with the same configuration first"
            )
        return model_id

    def explain_id(self, workspace: Workspace) -> str:
        """The id of the explanation by that model; it may not have been made yet."""
        return content_id(
            {
                "model_id": self.model_id(workspace),
                "preprocess_id": self.preprocess_id,
                "attribution": settings_of(AttributionParams, self.attribution),
            }
        )
