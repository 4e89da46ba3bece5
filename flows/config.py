"""One TOML file becomes one validated `PipelineConfig`; every mistake in it becomes one clear line.

Each section is the frozen dataclass that stands beside the step it configures, so a setting has one
home. This module imports no TensorFlow, Prefect or Dask: a wrong key is answered at once.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dr_lib.attribution import AttributionParams
from dr_lib.evaluation.grading import GradingParams
from dr_lib.fundus import PreprocessParams
from dr_lib.linearity import LinearityParams
from dr_lib.localisation import LocalisationParams
from dr_lib.localisation.audit import AuditParams
from dr_lib.localisation.channel_dissection import ChannelDissectionParams
from dr_lib.maps import HeatmapParams
from dr_lib.maps.region_clustering import RegionClusteringParams
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, layer_names
from dr_lib.perturbation.adversarial import AdversarialParams
from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.settings import field_types, problem
from dr_lib.training import TrainingParams
from storage import open_workspace
from storage.errors import StorageError
from storage.files.text import decoded
from storage.photos.sources import PhotoSources
from storage.photos.types import Location
from tasks.run.errors import MENDABLE, UserError
from tasks.run.recipe import Recipe, settings_of
from tasks.run.settings import (
    AttributionSelection,
    BackendChoice,
    DaskParams,
    DataParams,
    ScheduleParams,
    SecondModel,
    StorageParams,
    TrainingPolicy,
)

# Beside the packages, in a checkout and where a wheel is installed.
PROFILES = pathlib.Path(__file__).parent.parent / "deployments"


class ConfigError(UserError):
    """The configuration cannot be used; each line of the message names one mistake and its
    place.
    """


@dataclass(frozen=True)
class ModelSection(BackendChoice, ModelParams):
    """The network, and what it runs on."""


@dataclass(frozen=True)
class TrainingSection(TrainingPolicy, TrainingParams):
    """How the model is trained, and whether new photographs call for a new one."""


@dataclass(frozen=True)
class AttributionSection(AttributionSelection, AttributionParams):
    """How an image is explained, and which images are."""


@dataclass(frozen=True)
class CounterfactualSection(SecondModel, CounterfactualParams):
    """Which eyes are changed and how, and which other model is asked about it."""


@dataclass(frozen=True)
class PipelineConfig:
    """Everything a run depends on. `workspace` and the photographs have no default; all else
    does.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # of all sections, too

    workspace: Location
    data: DataParams
    preprocess: PreprocessParams = PreprocessParams()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    grading: GradingParams = GradingParams()
    attribution: AttributionSection = AttributionSection()
    heatmaps: HeatmapParams = HeatmapParams()
    localisation: LocalisationParams = LocalisationParams()
    region_clustering: RegionClusteringParams = RegionClusteringParams()
    channel_dissection: ChannelDissectionParams = ChannelDissectionParams()
    audit: AuditParams = AuditParams()
    counterfactuals: CounterfactualSection = CounterfactualSection()
    adversarials: AdversarialParams = AdversarialParams()
    linearity: LinearityParams = LinearityParams()
    storage: StorageParams = StorageParams()
    dask: DaskParams = DaskParams()
    schedule: ScheduleParams = ScheduleParams()

    def __post_init__(self):
        # The network sees fundi as they were preprocessed: one setting, not two that can disagree.
        model = dataclasses.replace(
            self.model,
            input_size=self.preprocess.size,
            backbone_weights=os.path.expanduser(self.model.backbone_weights),
        )
        object.__setattr__(self, "model", model)
        if not self.attribution.layers:
            raise ValueError("attribution.layers must name at least one layer, such as stem")
        known = layer_names(self.model)
        named = {
            f"{section}.layers": getattr(self, section).layers
            for section in ("attribution", "linearity", "channel_dissection")
        }
        if self.training.freeze_below:
            named["training.freeze_below"] = (self.training.freeze_below,)
        for setting, layers in named.items():
            if unknown := [name for name in layers if name not in known]:
                raise ValueError(
                    f"{setting}: this model has no layer {unknown[0]}; it has {', '.join(known)}"
                )

    @property
    def tables(self) -> dict[str, Any]:
        """As plain tables, every default filled in: what provenance records keep."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def recipe(self) -> Recipe:
        """The part of the configuration that decides results."""
        return Recipe(
            self.preprocess,
            self.model,
            self.training,
            AttributionParams(**settings_of(AttributionParams, self.attribution)),
            self.data.flagged,
            self.grading,
            self.model.backend,
            self.training,
            self.attribution,
        )


# Keys that no file may set any more, and their names now.
RENAMED = {
    "training.last_stair": "training.final_decay",
    "localisation.rivals": "localisation.baseline_maps",
    "localisation.rival_layers": "localisation.gradcam_layers",
    "appearance": "[region_clustering]",
    "lesion_units": "[channel_dissection]",
}


def profiles() -> list[str]:
    """The names of the configurations that come with the program."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def find_config(given: str | pathlib.Path) -> pathlib.Path:
    """The file of this path, or the profile of this name where there is no such file."""
    path = pathlib.Path(given)
    return PROFILES / f"{path}.toml" if str(path) in profiles() and not path.is_file() else path


def load_config(path: str | pathlib.Path, settings: list[str] | None = None) -> PipelineConfig:
    """The validated configuration of a TOML file or profile.

    Relative folders in the file are relative to the working directory, as on the command line.

    Parameters
    ----------
    path: the file, or the name of a profile such as `demo`.
    settings: `section.key=value` entries, laid over the file in their order.

    Raises
    ------
    ConfigError: with a line for each mistake.
    """
    return parse_config(apply_settings(read_toml(path), settings or []), source=str(path))


def read_toml(path: str | pathlib.Path) -> dict[str, Any]:
    """The file's tables. Raises ConfigError if it is missing or is not TOML."""
    try:
        return tomllib.loads(decoded(find_config(path).read_bytes()))
    except FileNotFoundError:
        names = ", ".join(profiles())
        raise ConfigError(
            f"{path}: no such file; start from a copy of {PROFILES / 'kaggle.toml'}, or name a"
            f" profile: {names}"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the TOML file itself") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: neither UTF-8 nor UTF-16; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def apply_settings(tables: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """A copy of the tables with each `section.key=value` laid over it; a value is TOML, or else a
    plain string.

    >>> apply_settings(
    ...     {"data": {"limit": 1}}, ["data.limit=5", "workspace=out", "attribution.layers=['stem']"]
    ... )
    {'data': {'limit': 5}, 'workspace': 'out', 'attribution': {'layers': ['stem']}}
    """
    result = json.loads(json.dumps(tables, default=str))
    for setting in settings:
        name, equals, text = setting.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {setting}: write it as section.key=value, such as --set data.limit=100"
            )
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {setting}: {key} is a value, not a section")
        try:
            table[keys[-1]] = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:  # so that folders need no quotes
            table[keys[-1]] = text.strip()
    return result


def parse_config(tables: dict[str, Any], *, source: str = "configuration") -> PipelineConfig:
    """The validated configuration of parsed TOML tables.

    Parameters
    ----------
    source: what each line of an error begins with, such as the file's name.

    Raises
    ------
    ConfigError: with a line for each mistake.
    """
    problems, model = [], tables.get("model")
    if isinstance(model, dict) and "input_size" in model:
        reason = "it follows preprocess.size; set that instead"
        problems.append(f"model.input_size cannot be set: {reason}")
    try:
        # JSON-strict: a list may become a tuple, but "16" never becomes 16.
        config = TypeAdapter(PipelineConfig).validate_json(
            json.dumps(tables, default=str), strict=True
        )
    except ValidationError as error:
        problems += map(_readable, error.errors())
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))


def _readable(error: Mapping[str, Any]) -> str:
    """One error of pydantic's as a line: the key, what its value must be, and what it is."""
    *above, key = error["loc"] or ("",)
    place = _written(error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "unexpected_keyword_argument" if place in RENAMED:
            return f"{place} cannot be set: it is called {RENAMED[place]} now"
        case "unexpected_keyword_argument":
            known = field_types(_type_at(above))
            close = difflib.get_close_matches(key, known, n=1)
            advice = (
                f"did you mean {_written([*above, *close])}?"
                if close
                else f"known here: {', '.join(sorted(known))}"
            )
            return f"unknown key {place}; {advice}"
        case "missing":
            listed = any(isinstance(part, int) for part in above)
            way = f"each [[{_written(above)}]]" if listed else f"the file or with --set {place}=…"
            return f"{place} is missing; give it in {way}"
        case "dataclass_type" if not isinstance(key, int):
            return f"{place} is a section: write [{place}] and its keys under it"
        case "dataclass_type" | "tuple_type" if isinstance(key, int) or _is_section(
            _type_at([*error["loc"], 0])
        ):
            return f"{place} is a list of sections: write [[{place}]] for each of them"
        case "json_invalid":  # which JSON made of TOML's values is only here
            return "a path or name in it is not in UTF-8; rename that folder or file"
        case "value_error":
            is_key = message.split(" ")[0] in field_types(_type_at(error["loc"]))
            separator = "" if not place else "." if is_key else ": "
            return f"{place}{separator}{message}"
    value = error["input"]
    if "ctx" in error and (text := problem(value, _type_at(error["loc"]))):
        return f"{place} {text}"  # of the right type, but outside its range or choices
    return f"{place} = {json.dumps(value, default=str)}: {message[:1].lower()}{message[1:]}"


def _written(place: Sequence[str | int]) -> str:
    """A place as it is written in the file, where sections of a list have no number."""
    return ".".join(
        str(part)
        for depth, part in enumerate(place, 1)
        if isinstance(part, str) or not _is_section(_type_at(place[:depth]))
    )


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _type_at(place: Sequence[str | int]) -> Any:
    """The type of a section, of a key in it, or of an item of its list."""
    kind: Any = PipelineConfig
    for part in place:
        kind = get_args(kind)[0] if isinstance(part, int) else field_types(kind).get(part, object)
    return kind


def check_inputs(config: PipelineConfig) -> None:
    """Checks what a configuration points to.

    Raises
    ------
    ConfigError: if the workspace cannot lie where it should, or if photographs, weights or Keras'
        backend are absent, or KERAS_BACKEND names another one. From then on Keras runs on it.
    """
    try:
        open_workspace(config.workspace)
    except StorageError as error:
        raise ConfigError(f"workspace: {error}") from None
    try:
        PhotoSources(config.data.every_source)
        weights = config.model.backbone_weights
        if weights not in ("imagenet", "none") and not pathlib.Path(weights).is_file():
            raise UserError(
                f"model.backbone_weights = {weights}: no such file; give a .weights.h5 file,"
                " 'imagenet' or 'none'"
            )
        backend.choose(config.model.backend)
    except MENDABLE as error:
        raise ConfigError(str(error)) from None
