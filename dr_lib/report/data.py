"""What a report is made of: plain numbers, arrays and rows, each part optional.

A part that is empty (`None`, `()`, `{}`) is not an error: its section says in a sentence which command fills it.
Rows may come as a pandas table or as a sequence of mappings; their columns are shown as they are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped, UInt8

Rows = pd.DataFrame | Sequence[Mapping[str, object]]
# Rows of tables bring NumPy's own scalars.
Integer = int | np.integer
Number = float | int | np.floating | np.integer
Boolean = bool | np.bool_


@dataclass(frozen=True)
class StageTime:
    """How long one stage of the pipeline took; `images` it worked on, 0 where it does not count images."""

    name: str
    seconds: Number
    images: Integer = 0

    @property
    def images_per_minute(self) -> float | None:
        return float(self.images * 60 / self.seconds) if self.images and self.seconds > 0 else None


@dataclass(frozen=True)
class RunSummary:
    """What ran, on what, when, and with which ids."""

    title: str = "Diabetic retinopathy, explained"
    workspace: str = ""
    run_id: str = ""
    model_id: str = ""
    preprocess_id: str = ""
    explain_id: str = ""
    model_name: str = ""
    when: str = ""
    stages: tuple[StageTime, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str | Mapping[str, object] = ""  # the configuration as text, or as (nested) settings


@dataclass(frozen=True)
class BeforeAfter:
    """A photograph beside what preprocessing made of it. `disc`: centre (y, x) and diameter, in pixels of `photo`."""

    image_id: str
    photo: UInt8[np.ndarray, "h w 3"]
    fundus: UInt8[np.ndarray, "y x 3"]
    notes: tuple[str, ...] = ()
    disc: tuple[Number, Number, Number] | None = None


@dataclass(frozen=True)
class SetAside:
    """A photograph that could not be used, and why; `photo` is None where nothing can be decoded."""

    image_id: str
    reason: str  # a short code, such as no_retina
    detail: str = ""
    photo: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True)
class DataSection:
    """Photographs found, set aside, and split. `split_stage`: rows with split, stage, count."""

    photographs: Integer = 0
    patients: Integer = 0
    split_stage: Rows = ()
    rejects: Rows = ()  # reason, and any of image_id, path, detail
    quality: Rows = ()  # any columns, such as measure, median, low, high
    samples: tuple[BeforeAfter, ...] = ()
    flagged: tuple[BeforeAfter, ...] = ()  # the worst of those below the threshold of quality
    flagged_text: str = ""  # how many are flagged, and what becomes of them
    set_aside: tuple[SetAside, ...] = ()  # some of `rejects`, every reason among them


@dataclass(frozen=True)
class ModelSection:
    """How well the model predicts on held-out patients. `evaluation`: rows with metric, value, low, high (or NaN)."""

    evaluation: Rows = ()
    confusion: Shaped[np.ndarray, "true predicted"] | None = None
    history: pd.DataFrame | None = None  # `history_x` and losses, scores, learning_rate: see plots.learning_curves
    history_x: str = "step"
    reliability: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # predicted, observed, count of each bin
    reliability_of: str = "the probability of a referable eye"
    roc: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # name → (false-positive rate, sensitivity)
    operating_points: tuple[tuple[str, Number, Number], ...] = ()  # name, false-positive rate, sensitivity
    eyes: Integer = 0
    stages: Rows = ()  # any columns, such as stage, eyes, sensitivity
    operating: Rows = ()  # the operating points in numbers; any columns
    strata: Rows = ()  # parts of the eyes, such as those of good quality; any columns
    note: str = ""


@dataclass(frozen=True)
class NeuronEntry:
    """One chosen neuron with its active region: a window of the fundus with its upper left corner at `origin` (y, x)."""

    sign: str  # "positive" or "negative"
    rank: Integer
    neuron: tuple[Integer, ...]  # (y, x, channel), or (unit,)
    attribution: Number
    region: Float[np.ndarray, "wy wx"]
    origin: tuple[Integer, Integer]


@dataclass(frozen=True)
class EyeEntry:
    """One explained eye. The two resultants belong to `layer`; `stage_maps` are pixel attributions by quantity."""

    image_id: str
    stage: Integer | None  # as labelled
    predicted: Integer
    probabilities: Sequence[Number] | Float[np.ndarray, "stages"]
    fundus: UInt8[np.ndarray, "y x 3"]
    photo: UInt8[np.ndarray, "h w 3"] | None = None
    positive: Float[np.ndarray, "y x"] | None = None
    negative: Float[np.ndarray, "y x"] | None = None
    stage_maps: Mapping[str, Float[np.ndarray, "y x"]] = field(default_factory=dict)  # "stage0" … "stage4", "referable"
    layer: str = "stem"
    quantity: str = ""  # what the resultants explain, such as "stage2"
    split: str = "test"
    gap: Number | None = None  # |F(x) − F(x') − Σ attributions|
    relative_gap: Number | None = None  # the same, as a part of |F(x) − F(x')|
    points: Number | None = None
    converged: Boolean | None = None
    symmetry: Number | None = None  # correlation of stage 0's and stage 4's map; None: taken from the maps
    lesion_share: Number | None = None  # of the positive attribution within lesion masks, where there are masks
    neurons: tuple[NeuronEntry, ...] = ()
    numbers: Rows = ()  # anything else about this eye, shown as a table


@dataclass(frozen=True)
class GroupMap:
    """The summed heat map of a group of eyes, such as all of true stage 4."""

    name: str
    images: Integer
    values: Float[np.ndarray, "y x"]
    background: UInt8[np.ndarray, "y x 3"] | None = None  # such as the group's mean fundus
    note: str = ""


@dataclass(frozen=True)
class Localisation:
    """How well maps find lesions. `scores`: rows with method, value, low, high; `regions`: any columns."""

    scores: Rows = ()
    score_name: str = "Pixel AUC"
    regions: Rows = ()
    note: str = ""


@dataclass(frozen=True)
class Triptych:
    """One counterfactual: the fundus, what had to change, and by how much."""

    image_id: str
    original: UInt8[np.ndarray, "y x 3"]
    counterfactual: UInt8[np.ndarray, "y x 3"]
    caption: str = ""
    reached: Boolean | None = None  # did the model change its mind?


@dataclass(frozen=True)
class CounterfactualSection:
    """Counterfactuals and their comparison with adversarial examples of the same outcome."""

    summary: Rows = ()
    triptychs: tuple[Triptych, ...] = ()
    adversarial: Rows = ()
    note: str = ""


@dataclass(frozen=True)
class HintonEntry:
    """Attributions of a layer's units, in the units' order; drawn on one scale within a report."""

    title: str
    values: Shaped[np.ndarray, "..."]
    note: str = ""


@dataclass(frozen=True)
class LinearitySection:
    """Units along growing adversarial strength. `units`: rows with `x`, `y` (names below), verdict."""

    verdicts: Mapping[str, Integer] = field(default_factory=dict)
    units: Rows = ()
    x: str = "gradient_change"
    y: str = "r_squared"
    x_label: str = "Change of the average gradient"
    y_label: str = "R² of the straight line"
    hintons: tuple[HintonEntry, ...] = ()
    exceptions: Rows = ()  # the units that do not follow, one by one
    note: str = ""


@dataclass(frozen=True)
class Citation:
    """How to name these numbers and get at the tables. `tables`: rows with name, path, and any of rows, description."""

    text: str = ""
    tables: Rows = ()
    queries: tuple[tuple[str, str], ...] = ()  # what it answers, SQL


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; each part may be left out."""

    run: RunSummary = field(default_factory=RunSummary)
    data: DataSection = field(default_factory=DataSection)
    model: ModelSection = field(default_factory=ModelSection)
    eyes: tuple[EyeEntry, ...] = ()
    eyes_explained: Integer = 0  # all of them in the workspace, where the gallery shows a selection; 0: as many as `eyes`
    groups: tuple[GroupMap, ...] = ()
    heatmap_stats: Rows = ()
    localisation: Localisation = field(default_factory=Localisation)
    counterfactuals: CounterfactualSection = field(default_factory=CounterfactualSection)
    linearity: LinearitySection = field(default_factory=LinearitySection)
    citation: Citation = field(default_factory=Citation)
