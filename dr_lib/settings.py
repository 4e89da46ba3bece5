"""Settings that say in their types which values they may have, and refuse others.

`share: Annotated[float, Interval(gt=0, le=1)] = 0.05` is checked whenever its group of settings is
made, in code as from a configuration file. A string beside the interval explains a value or names
the unit: `Annotated[int, Interval(ge=0), "0: all"]`. What involves several fields at once is
checked by the group's own `check`, after these.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

from dr_lib.vocabulary import STAGE_COUNT

PositiveInt = Annotated[int, Interval(ge=1)]
NonNegativeInt = Annotated[int, Interval(ge=0)]
Limit = Annotated[int, Interval(ge=0), "0: all"]
PositiveFloat = Annotated[float, Interval(gt=0)]
NonNegativeFloat = Annotated[float, Interval(ge=0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelow1 = Annotated[float, Interval(ge=0, lt=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
Stage = Annotated[int, Interval(ge=0, le=STAGE_COUNT - 1), "a stage"]
WORDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Settings:
    """The base of every group of settings. Raises ValueError, one line naming every field whose
    value its type does not allow.
    """

    def __post_init__(self) -> None:
        kinds = field_types(type(self))
        problems = {name: problem(getattr(self, name), kind) for name, kind in kinds.items()}
        if found := [f"{name} {text}" for name, text in problems.items() if text]:
            raise ValueError("; ".join(found))
        self.check()

    def check(self) -> None:
        """Raises ValueError, one line, where the fields do not fit together."""


def of_old(settings: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that were added later and have the value that changes nothing:
    what ids are made of, so that what was made before keeps its id.

    >>> of_old({"points": 16, "poses": 1}, {"poses": 1})
    {'points': 16}
    """
    return {
        name: value for name, value in settings.items() if name not in added or value != added[name]
    }


@functools.cache
def field_types(group: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with what is written beside it."""
    return get_type_hints(group, include_extras=True)


def problem(value: Any, kind: Any) -> str:
    """What a setting of the type `kind` must be, if `value` is not; empty if it is allowed.

    Python's own types are not checked here, only what is written beside them, and choices.

    >>> problem(1.0, Annotated[float, Interval(ge=0, lt=1)])
    'must be at least 0 and below 1, not 1.0'
    >>> problem(-3, Limit), problem(3, Limit)
    ('must be at least 0 (0: all), not -3', '')
    >>> problem(("adam", "rms"), tuple[Literal["adam", "adamw", "sgd"], ...])
    "must be adam, adamw or sgd, not 'rms'"
    """
    kind, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if get_origin(kind) is tuple:
        return next(filter(None, (problem(item, get_args(kind)[0]) for item in value)), "")
    bounds = {
        name: bound
        for rule in rules
        if isinstance(rule, Interval)
        for name, bound in dataclasses.asdict(rule).items()
        if bound is not None
    }
    fulfilled = (getattr(operator, name)(value, bound) for name, bound in bounds.items())
    if bounds and not (math.isfinite(value) and all(fulfilled)):
        wanted = _range(bounds)
    elif get_origin(kind) is Literal and value not in get_args(kind):
        *others, last = map(str, get_args(kind))
        wanted = f"{', '.join(others)} or {last}"
    else:
        return ""
    notes = "".join(f" ({rule})" for rule in rules if isinstance(rule, str))
    return f"must be {wanted}{notes}, not {value!r}"


def _range(bounds: dict[str, int | float]) -> str:
    if bounds.keys() == {"ge", "le"}:
        return f"from {bounds['ge']:g} to {bounds['le']:g}"
    return " and ".join(f"{WORDS[name]} {bound:g}" for name, bound in bounds.items())
