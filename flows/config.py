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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dr_lib.attribution import AttributionParams
from dr_lib.evaluation.grading import GradingParams
from dr_lib.fundus import PreprocessParams
from dr_lib.linearity import LinearityParams
from dr_lib.localisation import LocalisationParams
from dr_lib.localisation.channel_dissection import LesionUnitParams
from dr_lib.maps import HeatmapParams
from dr_lib.maps.region_clustering import AppearanceParams
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, layer_names
from dr_lib.perturbation.adversarial import AdversarialParams
from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.training import TrainingParams
from storage import open_workspace
from storage.errors import StorageError
from storage.files.files import is_url
from storage.files.text import decoded
from storage.photos.types import Source
from tasks.run.recipe import Recipe
from tasks.run.settings import (
    AttributionSelection,
    DaskParams,
    DataParams,
    ScheduleParams,
    SecondModel,
    StorageParams,
    TrainingPolicy,
)

# Beside the packages, in a checkout and where a wheel is installed.
PROFILES = pathlib.Path(__file__).parent.parent / "deployments"


class ConfigError(Exception):
    """The configuration cannot be used; each line of the message names one mistake and its
    place.
    """


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

    workspace: str
    data: DataParams
    preprocess: PreprocessParams = field(default_factory=PreprocessParams)
    model: ModelParams = field(default_factory=ModelParams)
    training: TrainingSection = field(default_factory=TrainingSection)
    grading: GradingParams = field(default_factory=GradingParams)
    attribution: AttributionSection = field(default_factory=AttributionSection)
    heatmaps: HeatmapParams = field(default_factory=HeatmapParams)
    localisation: LocalisationParams = field(default_factory=LocalisationParams)
    appearance: AppearanceParams = field(default_factory=AppearanceParams)
    lesion_units: LesionUnitParams = field(default_factory=LesionUnitParams)
    counterfactuals: CounterfactualSection = field(default_factory=CounterfactualSection)
    adversarials: AdversarialParams = field(default_factory=AdversarialParams)
    linearity: LinearityParams = field(default_factory=LinearityParams)
    storage: StorageParams = field(default_factory=StorageParams)
    dask: DaskParams = field(default_factory=DaskParams)
    schedule: ScheduleParams = field(default_factory=ScheduleParams)

    def __post_init__(self):
        # The network sees fundi as they were preprocessed: one setting, not two that can disagree.
        model = dataclasses.replace(
            self.model,
            input_size=self.preprocess.size,
            backbone_weights=os.path.expanduser(self.model.backbone_weights),
        )
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "workspace", os.path.expanduser(self.workspace))
        object.__setattr__(self, "data", self.data.with_homes())
        if not self.attribution.layers:
            raise ValueError("attribution.layers must name at least one layer, such as stem")
        known = layer_names(self.model)
        for section in ("attribution", "linearity", "lesion_units"):
            unknown = [name for name in getattr(self, section).layers if name not in known]
            if unknown:
                raise ValueError(
                    f"{section}.layers: this model has no layer {unknown[0]}; it has"
                    f" {', '.join(known)}"
                )
        if self.training.freeze_below and self.training.freeze_below not in known:
            raise ValueError(
                f"training.freeze_below: this model has no layer {self.training.freeze_below}; it"
                f" has {', '.join(known)}"
            )

    @property
    def recipe(self) -> Recipe:
        """The part of the configuration that decides results."""
        return Recipe(
            self.preprocess,
            self.model,
            self.training,
            self.attribution,
            self.data.flagged,
            self.grading,
        )


# Keys that no file may set: one that follows from another setting, and a former name.
REFUSED_KEYS: dict[tuple[str, ...], str] = {
    ("model", "input_size"): "it follows preprocess.size; set that instead",
    ("training", "last_stair"): "it is called training.final_decay now",
}


def profiles() -> list[str]:
    """The names of the configurations that come with the program."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def find_config(given: str | pathlib.Path) -> pathlib.Path:
    """The file of this path, or the profile of this name where there is no such file."""
    path = pathlib.Path(given)
    return PROFILES / f"{path}.toml" if str(path) in profiles() and not path.is_file() else path


def load_config(path: str | pathlib.Path, settings: list[str] | None = None) -> PipelineConfig:
    """The validated configuration of a TOML file or profile, with `section.key=value` settings laid
    over it.

    Relative folders in the file are relative to the working directory, as on the command line.
    Raises ConfigError, one line a mistake.
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
        table[keys[-1]] = _value(text.strip())
    return result


def _value(text: str) -> Any:
    """A TOML value where the text is one; otherwise the text itself, so that folders need no
    quotes.
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_config(tables: dict[str, Any], *, source: str = "configuration") -> PipelineConfig:
    """The validated configuration of parsed TOML tables. Raises ConfigError with a line for
    every mistake.
    """
    problems = _unknown_keys(tables, PipelineConfig, ())
    if not problems:
        try:
            # JSON-strict: a list may become a tuple, but "16" never becomes 16.
            return TypeAdapter(PipelineConfig).validate_json(
                json.dumps(tables, default=str), strict=True
            )
        except ValidationError as error:
            problems = [_readable(item) for item in error.errors()]
    raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))


def _unknown_keys(tables: dict[str, Any], section: type[Any], place: tuple[str, ...]) -> list[str]:
    known = {item.name: item for item in dataclasses.fields(section)}
    problems = []
    for key, value in tables.items():
        name = ".".join((*place, key))
        if (*place, key) in REFUSED_KEYS:
            problems.append(f"{name} cannot be set: {REFUSED_KEYS[(*place, key)]}")
        elif key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            problems.append(
                f"unknown key {name}"
                + (f"; did you mean {'.'.join((*place, close[0]))}?" if close else _listing(known))
            )
        elif isinstance(kind := known[key].type, type) and dataclasses.is_dataclass(kind):
            if isinstance(value, dict):
                problems += _unknown_keys(value, kind, (*place, key))
            else:
                problems.append(f"{name} is a section: write [{name}] and its keys under it")
        elif kind == tuple[Source, ...]:
            if isinstance(value, list) and all(isinstance(one, dict) for one in value):
                for one in value:
                    problems += _unknown_keys(one, Source, (*place, key))
            else:
                problems.append(f"{name} is a list of sections: write [[{name}]] for each of them")
    return problems


def _listing(known: dict[str, Any]) -> str:
    return f"; known here: {', '.join(sorted(known))}"


def _readable(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{place} is missing; give it in the file or with --set {place}=…"
    if error["type"] == "json_invalid":  # which JSON made of TOML's values is only here
        return "a path or name in it is not in UTF-8; rename that folder or file"
    if error["type"] in ("value_error", "assertion_error"):
        if message.startswith(place):
            return message
        section: Any = next(
            (one.type for one in dataclasses.fields(PipelineConfig) if one.name == place), None
        )
        keys = {one.name for one in dataclasses.fields(section)} if section else set()
        return f"{place}{'.' if message.split(' ')[0] in keys else ': '}{message}"
    return (
        f"{place} = {json.dumps(error['input'], default=str)}: {message[:1].lower()}{message[1:]}"
    )


def as_tables(config: PipelineConfig) -> dict[str, Any]:
    """The configuration as plain tables, every default filled in: what provenance records keep."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def check_inputs(config: PipelineConfig) -> None:
    """Raises ConfigError if the workspace cannot lie there, or if photographs, weights or Keras'
    backend are absent.
    """
    try:
        open_workspace(config.workspace)
    except StorageError as error:
        raise ConfigError(f"workspace: {error}") from None
    for source in config.data.every_source:
        photos = source.photos
        if not is_url(photos) and not pathlib.Path(photos).exists():
            raise ConfigError(
                f"data.sources: {source.name} has photos = {photos}: no such folder or zip"
                if source.name
                else f"data.photos = {photos}: no such folder or zip; give the data set's folder"
                " with --set data.photos=…"
            )
    weights = config.model.backbone_weights
    if weights not in ("imagenet", "none") and not pathlib.Path(weights).is_file():
        raise ConfigError(
            f"model.backbone_weights = {weights}: no such file; give a .weights.h5 file, 'imagenet'"
            " or 'none'"
        )
    if problem := backend.problem():
        raise ConfigError(problem)
