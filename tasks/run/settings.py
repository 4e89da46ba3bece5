"""Settings of the bridge itself: which data, which machines, which images. The science's own
stand in `dr_lib`.
"""

import dataclasses
import os
import zoneinfo
from dataclasses import dataclass
from typing import Literal

from storage.photos.types import Source

SplitChoice = Literal["train", "validation", "test", "external", "all"]
FlaggedChoice = Literal["keep", "exclude"]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True)
class DataParams:
    """Where the photographs are and how patients are divided.

    photos: folder or zip of the only source; or sources: several, as `[[data.sources]]` lists them.
    rehash: read photographs of unchanged size and time too. limit: photographs to take of each
    source, whole patients in their natural order (0: all).
    max_reject_fraction: a run stops when a larger share of photographs or of labels is set aside,
    since the folder is then plainly the wrong one; second copies do not count. flagged: what
    becomes of eyes whose quality score lies below preprocess.quality_threshold. With "exclude" no
    model learns from them and none of them is explained; they are still graded, and listed in the
    table `quality`.
    """

    photos: str = ""
    sources: tuple[Source, ...] = ()
    limit: int = 0
    rehash: bool = False
    max_reject_fraction: float = 0.5
    flagged: FlaggedChoice = "keep"
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self):
        names = [source.name.casefold() for source in self.sources]
        _require(
            bool(self.photos or self.sources),
            "photos is missing; give it in the file or with --set data.photos=…, or list"
            " [[data.sources]]",
        )
        _require(
            not (self.photos and self.sources),
            "photos and [[data.sources]] are both given; name the folder of photos as one more"
            " source, or leave it out",
        )
        _require("" not in names, "sources: each of [[data.sources]] needs a name")
        _require(
            len(set(names)) == len(names),
            "sources: two of [[data.sources]] have one name; image ids begin with it",
        )
        _require(self.limit >= 0, "limit must be 0 (all) or a number of photographs")
        _require(0 <= self.max_reject_fraction <= 1, "max_reject_fraction must lie between 0 and 1")
        _require(
            self.validation_fraction > 0 and self.test_fraction > 0,
            "validation_fraction and test_fraction must be above 0",
        )
        _require(
            self.validation_fraction + self.test_fraction < 1,
            "validation_fraction + test_fraction must leave something to train on",
        )

    @property
    def every_source(self) -> tuple[Source, ...]:
        """The sources, also the one without a name that `photos` stands for."""
        return self.sources or (Source(photos=self.photos),)

    @property
    def places(self) -> str:
        """Where the photographs lie, in words."""
        return " and ".join(source.photos for source in self.every_source)

    def with_homes(self) -> "DataParams":
        """The same with each leading ~ replaced: a shell expands it at the start of a word only."""
        sources = tuple(
            dataclasses.replace(
                source,
                photos=os.path.expanduser(source.photos),
                labels=os.path.expanduser(source.labels),
                masks=os.path.expanduser(source.masks),
            )
            for source in self.sources
        )
        return dataclasses.replace(self, photos=os.path.expanduser(self.photos), sources=sources)


@dataclass(frozen=True)
class TrainingPolicy:
    """When a new model is trained: always when a setting changes; on new photographs only if asked.

    model_id: a model of the workspace, such as one that `dr import-model` took in, to use instead
    of training any (empty: the one these settings have).
    """

    on_new_data: Literal["keep", "retrain"] = "keep"
    model_id: str = ""


@dataclass(frozen=True)
class AttributionSelection:
    """Which images are explained. A limit draws from the stages in turn, so that a small run
    shows every stage.
    """

    split: SplitChoice = "test"
    limit: int = 0

    def __post_init__(self):
        _require(self.limit >= 0, "limit must be 0 (all) or a number of images")
        parent = getattr(super(), "__post_init__", None)
        if parent:
            parent()


@dataclass(frozen=True)
class SecondModel:
    """second_model: a model of the workspace, trained with another seed, to be asked whether
    changes transfer (empty: none).
    """

    second_model: str = ""


@dataclass(frozen=True)
class StorageParams:
    """shard_images: images a shard holds; a shard is the unit of writing, of resuming and of a Dask
    task.

    retry_set_aside: preprocess and attribute try what earlier runs set aside once more, in every
    run that has this.
    """

    shard_images: int = 64
    retry_set_aside: bool = False

    def __post_init__(self):
        _require(self.shard_images >= 1, "shard_images must be at least 1")


@dataclass(frozen=True)
class DaskParams:
    """address: a scheduler such as tcp://host:8786 (empty: a cluster on this machine). workers:
    0 for one a core.
    """

    address: str = ""
    workers: int = 0

    def __post_init__(self):
        _require(self.workers >= 0, "workers must be 0 (one a core) or a number of processes")


@dataclass(frozen=True)
class ScheduleParams:
    """When `dr serve` runs the pipeline, and how runs are looked after.

    cron: in cron's five fields (empty: only when a person starts a run); timezone: whose clock they
    mean. retries: how often a stage that failed is tried again, retry_minutes later.
    silent_minutes: how long a run may get on with nothing before it is reported as hanging.
    keep_days: how long Prefect keeps the history of runs (0: for ever); results are not touched.
    """

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    retries: int = 1
    retry_minutes: float = 5
    silent_minutes: float = 120
    keep_days: int = 90

    def __post_init__(self):
        _require(
            not self.cron or len(self.cron.split()) == 5,
            f"cron = {self.cron!r} does not have five fields such as '0 2 * * *'",
        )
        _require(
            self.timezone in zoneinfo.available_timezones(),
            f"timezone = {self.timezone!r} is none, such as Europe/Berlin",
        )
        _require(self.retries >= 0, "retries must be 0 or more")
        _require(self.retry_minutes >= 0, "retry_minutes must be 0 or more")
        _require(
            self.silent_minutes >= 0.2,
            "silent_minutes must be at least 0.2: Prefect looks no oftener",
        )
        _require(self.keep_days >= 0, "keep_days must be 0 (for ever) or a number of days")
