"""Which fundi, which model, which explanation a configuration means: settings become ids, ids find
what is there.

An id is the hash of the settings that decide a result, so a changed setting is a new id beside the
old one, and results of two settings never mix. Defaults are part of it: where a default is changed,
what was made with the old one keeps its own id. A setting that is younger than the first models is
left out where it has the value that changes nothing, which is written down beside it once and for
all (`dr_lib.training.params.DEFAULTS_BEFORE_ADDED`) and is not "the default": leaving out whatever
is default would let models trained with two defaults share an id.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.params import DEFAULTS_BEFORE_ADDED
from dr_lib.evaluation.grading import GradingParams
from dr_lib.fundus import PreprocessParams
from dr_lib.network.backend import Backend
from dr_lib.network.model import ModelParams
from dr_lib.settings import of_old
from dr_lib.training import TrainingParams, outcome_settings
from storage import Workspace
from storage.contents.models import ModelRecord
from storage.ids import content_id, digest_file
from tasks.run.errors import UserError
from tasks.run.resolved_ids import ResolvedIds
from tasks.run.settings import AttributionSelection, FlaggedChoice, TrainingPolicy

ARCHITECTURE = ("backbone", "dense", "input_size")


def settings_of(kind: type[Any], params: Any) -> dict[str, Any]:
    """The fields of `params` that belong to the dataclass `kind`; a section of the configuration
    may have more.
    """
    return {field.name: getattr(params, field.name) for field in dataclasses.fields(kind)}


def weights_identity(model: ModelParams) -> str:
    """What the trunk starts from: a word, or the hash of a file, wherever the file lies."""
    path = pathlib.Path(model.backbone_weights)
    if not path.is_file():
        return model.backbone_weights
    state = path.stat()
    return _file_sha256(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _file_sha256(path: str, size: int, modified_ns: int) -> str:
    return digest_file(path)


def settings_in_ids(attribution: Mapping[str, Any]) -> dict[str, Any]:
    """What ids say of an attribution's settings, of old ones too."""
    return of_old(attribution, DEFAULTS_BEFORE_ADDED)


@dataclass(frozen=True)
class Recipe:
    """The settings that decide every number of an explanation.

    policy: when a model is trained, and which one is used instead. selection: which images are
    explained.
    """

    preprocess: PreprocessParams
    model: ModelParams
    training: TrainingParams
    attribution: AttributionParams
    flagged: FlaggedChoice = "keep"
    grading: GradingParams = GradingParams()
    backend: Backend = "tensorflow"
    policy: TrainingPolicy = TrainingPolicy()
    selection: AttributionSelection = AttributionSelection()

    @property
    def least_quality(self) -> float:
        """The score below which an eye is neither learnt from nor explained: 0 where flagged
        eyes are kept.
        """
        return self.preprocess.quality_threshold if self.flagged == "exclude" else 0.0

    @property
    def added(self) -> dict[str, Any]:
        """What the ids of model and explanation say of eyes left out and of the backend; nothing
        where none is, and it is the one that there was at first.
        """
        left_out = {"least_quality": self.least_quality} if self.flagged == "exclude" else {}
        return left_out | ({"backend": self.backend} if self.backend != "tensorflow" else {})

    @property
    def preprocess_settings(self) -> dict[str, Any]:
        """What decides the fundi's pixels. The quality threshold only flags."""
        settings = settings_of(PreprocessParams, self.preprocess)
        del settings["quality_threshold"]
        return settings

    @property
    def preprocess_id(self) -> str:
        return content_id(self.preprocess_settings)

    @property
    def training_id(self) -> str:
        """The id of a model's settings, known before the model is: the photographs are left out
        on purpose.
        """
        return content_id(
            {
                "preprocess_id": self.preprocess_id,
                "architecture": (
                    settings_of(ModelParams, self.model)
                    | {"backbone_weights": weights_identity(self.model)}
                ),
                "training": outcome_settings(self.training),
                **self.added,
            }
        )

    def find_model(
        self, workspace: Workspace, manifest: str | None = None, labels: str | None = None
    ) -> str | None:
        """The model that `training.model_id` names; or the newest one of these settings, or None.

        One that was imported for these settings comes before any that was trained with them; of the
        trained ones, if `manifest` and `labels` are given, only those trained on exactly these
        photographs and labels count. Raises UserError for a named model that is not there or does
        not fit.
        """
        records = workspace.models()
        if name := self.policy.model_id:
            return self._named(workspace, "training.model_id", name, records, "there is none yet")
        imported = [record for record in records if self.training_id in record.imported_for]
        trained = [
            record
            for record in records
            if record.training_id == self.training_id
            and manifest in (None, record.manifest)
            # An older record does not say which labels it was.
            and (labels is None or record.labels in ("", labels))
        ]
        fitting = imported or trained
        return fitting[-1].model_id if fitting else None

    def trains_none(self, workspace: Workspace) -> bool:
        """Whether the model of these settings is named or was imported, so that no photograph
        needs a label.
        """
        return bool(self.policy.model_id) or any(
            self.training_id in record.imported_for for record in workspace.models()
        )

    def second_model(self, workspace: Workspace, model_id: str, name: str) -> str:
        """The model, other than the explained one, that is asked whether changes transfer. Raises
        UserError where it cannot be asked.
        """
        setting = "counterfactuals.second_model"
        if name == model_id:
            raise UserError(
                f"{setting} is the explained model itself; name another one, trained with another"
                " seed"
            )
        others = [record for record in workspace.models() if record.model_id != model_id]
        no_other = "there is no other yet: train one with --set training.seed=1"
        return self._named(workspace, setting, name, others, no_other, alike=())

    def _named(
        self,
        workspace: Workspace,
        setting: str,
        name: str,
        records: Sequence[ModelRecord],
        none_yet: str,
        alike: Sequence[str] = ARCHITECTURE,
    ) -> str:
        """The model of the records that a setting names."""
        by_id = {record.model_id: record for record in records}
        if name in by_id:
            problem = self.misfit(by_id[name], alike)
        else:
            there = f"there are {', '.join(by_id)}" if by_id else none_yet
            problem = f"{workspace.location} holds no such model; {there}"
        if problem:
            raise UserError(f"{setting} = {name}: {problem}")
        return name

    def misfit(self, record: ModelRecord, alike: Sequence[str] = ARCHITECTURE) -> str | None:
        """Why a stored model cannot be the model of these settings, or None if it can; alike: what
        of its architecture must be theirs.
        """
        if record.preprocess_id != self.preprocess_id:
            return "it was made for fundi of other [preprocess] settings"
        for name in alike:
            there, here = record.architecture[name], getattr(self.model, name)
            if content_id(there) != content_id(here):
                return (
                    f"its {name} is {there}, [model] says"
                    f" {here if isinstance(here, str | int) else list(here)}"
                )
        return None

    def model_id(self, workspace: Workspace) -> str:
        """The model these settings have. Raises UserError if there is none yet."""
        model_id = self.find_model(workspace)
        if model_id is None:
            raise UserError(
                f"{workspace.location} holds no model for these settings; run `dr train` with the"
                " same configuration first"
            )
        return model_id

    def resolve(self, workspace: Workspace) -> ResolvedIds:
        """All ids of these settings in a workspace. Raises UserError if there is no model yet."""
        return ResolvedIds(
            workspace.location,
            self.preprocess_id,
            self.model_id(workspace),
            self.explain_id(workspace),
        )

    def explain_id(self, workspace: Workspace) -> str:
        """The id of the explanation by that model; it may not have been made yet."""
        return content_id(
            {
                "model_id": self.model_id(workspace),
                "preprocess_id": self.preprocess_id,
                "attribution": settings_in_ids(dataclasses.asdict(self.attribution)),
                **self.added,
            }
        )
