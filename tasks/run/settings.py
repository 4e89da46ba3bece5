"""Settings of the bridge itself: which data, which machines, which images. The science's own
stand in `dr_lib`.
"""

import zoneinfo
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval

from dr_lib.network.backend import Backend
from dr_lib.settings import Limit, NonNegativeFloat, NonNegativeInt, PositiveInt, Settings, Share
from storage.photos.types import Location, Source

SplitChoice = Literal["train", "validation", "test", "external", "all"]
FlaggedChoice = Literal["keep", "exclude"]
SplitFraction = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True)
class DataParams(Settings):
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

    photos: Location = ""
    sources: tuple[Source, ...] = ()
    limit: Limit = 0
    rehash: bool = False
    max_reject_fraction: Share = 0.5
    flagged: FlaggedChoice = "keep"
    validation_fraction: SplitFraction = 0.1
    test_fraction: SplitFraction = 0.2
    split_seed: int = 0

    def check(self) -> None:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave something to train on")
        names = [source.name.casefold() for source in self.sources]
        if not (self.photos or self.sources):
            raise ValueError(
                "photos is missing; give it in the file or with --set data.photos=…, or list"
                " [[data.sources]]"
            )
        if self.photos and self.sources:
            raise ValueError(
                "photos and [[data.sources]] are both given; name the folder of photos as one more"
                " source, or leave it out"
            )
        if "" in names:
            raise ValueError("sources: each of [[data.sources]] needs a name")
        if len(set(names)) < len(names):
            raise ValueError(
                "sources: two of [[data.sources]] have one name; image ids begin with it"
            )

    @property
    def every_source(self) -> tuple[Source, ...]:
        """The sources, also the one without a name that `photos` stands for."""
        return self.sources or (Source(photos=self.photos),)

    @property
    def places(self) -> str:
        """Where the photographs lie, in words."""
        return " and ".join(source.photos for source in self.every_source)


@dataclass(frozen=True)
class TrainingPolicy(Settings):
    """When a new model is trained: always when a setting changes; on new photographs only if asked.

    model_id: a model of the workspace, such as one that `dr import-model` took in, to use instead
    of training any (empty: the one these settings have).
    """

    on_new_data: Literal["keep", "retrain"] = "keep"
    model_id: str = ""


@dataclass(frozen=True)
class BackendChoice(Settings):
    """backend: what Keras runs on; results of the two differ in their last digits."""

    backend: Backend = "tensorflow"


@dataclass(frozen=True)
class AttributionSelection(Settings):
    """Which images are explained. A limit draws from the stages in turn, so that a small run
    shows every stage.
    """

    split: SplitChoice = "test"
    limit: Limit = 0


@dataclass(frozen=True)
class SecondModel(Settings):
    """second_model: a model of the workspace, trained with another seed, to be asked whether
    changes transfer (empty: none).
    """

    second_model: str = ""


@dataclass(frozen=True)
class StorageParams(Settings):
    """shard_images: images a shard holds; a shard is the unit of writing, of resuming and of a Dask
    task.

    retry_set_aside: preprocess and attribute try what earlier runs set aside once more, in every
    run that has this.
    """

    shard_images: PositiveInt = 64
    retry_set_aside: bool = False


@dataclass(frozen=True)
class DaskParams(Settings):
    """address: a scheduler such as tcp://host:8786 (empty: a cluster on this machine). workers:
    0 for one a core.

    gpus: workers that each have a GPU beside these, for what runs the network: "auto" for as many
    as are free, at least one where there is any; a number for just so many; 0 for none.
    """

    address: str = ""
    workers: Annotated[NonNegativeInt, "0: one a core"] = 0
    gpus: Any = "auto"

    def check(self) -> None:
        if self.gpus != "auto" and not (type(self.gpus) is int and self.gpus >= 0):
            raise ValueError(f'gpus must be "auto", or a number (0: none), not {self.gpus!r}')


@dataclass(frozen=True)
class ScheduleParams(Settings):
    """When `dr serve` runs the pipeline, and how runs are looked after.

    cron: in cron's five fields (empty: only when a person starts a run); timezone: whose clock they
    mean. retries: how often a stage that failed is tried again, retry_minutes later.
    silent_minutes: how long a run may get on with nothing before it is reported as hanging.
    keep_days: how long Prefect keeps the history of runs (0: for ever); results are not touched.
    """

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    retries: NonNegativeInt = 1
    retry_minutes: NonNegativeFloat = 5
    silent_minutes: Annotated[float, Interval(ge=0.2), "Prefect looks no oftener"] = 120
    keep_days: Annotated[NonNegativeInt, "0: for ever"] = 90

    def check(self) -> None:
        if self.cron and len(self.cron.split()) != 5:
            raise ValueError(f"cron = {self.cron!r} does not have five fields such as '0 2 * * *'")
        if self.timezone not in zoneinfo.available_timezones():
            raise ValueError(f"timezone = {self.timezone!r} is none, such as Europe/Berlin")
