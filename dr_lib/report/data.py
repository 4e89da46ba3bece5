"""What a report is made of: plain numbers, arrays and rows, each part optional.

A part that is empty (`None`, `()`, `{}`) is not an error: its section says in a sentence which
command fills it. Rows may come as a pandas table or as a sequence of mappings; their columns are
shown as they are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """How long one stage of the pipeline took; `images` it worked on, 0 where it does not count
    images.
    """

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
    progress: Rows = ()  # how far each stage is; any columns
    failures: Rows = ()  # what did not work, with its reason; any columns


@dataclass(frozen=True)
class BeforeAfter:
    """A photograph beside what preprocessing made of it. `disc`: centre (y, x) and diameter, in
    pixels of `photo`.
    """

    image_id: str
    photo: UInt8[np.ndarray, "h w 3"]
    fundus: UInt8[np.ndarray, "y x 3"]
    notes: tuple[str, ...] = ()
    disc: tuple[Number, Number, Number] | None = None


@dataclass(frozen=True)
class SetAside:
    """A photograph that could not be used, and why; `photo` is None where nothing can be
    decoded.
    """

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
    """How well the model predicts on held-out patients. `evaluation`: rows with metric, value,
    low, high (or NaN).
    """

    evaluation: Rows = ()
    confusion: Shaped[np.ndarray, "true predicted"] | None = None
    history: pd.DataFrame | None = (
        None  # `history_x` and losses, scores, learning_rate: see plots.learning_curves
    )
    history_x: str = "step"
    reliability: tuple[np.ndarray, np.ndarray, np.ndarray] | None = (
        None  # predicted, observed, count of each bin
    )
    reliability_of: str = "the probability of a referable eye"
    roc: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict
    )  # name → (false-positive rate, sensitivity)
    operating_points: tuple[
        tuple[str, Number, Number], ...
    ] = ()  # name, false-positive rate, sensitivity
    eyes: Integer = 0
    stages: Rows = ()  # any columns, such as stage, eyes, sensitivity
    operating: Rows = ()  # the operating points in numbers; any columns
    strata: Rows = ()  # parts of the eyes, such as those of good quality; any columns
    note: str = ""


@dataclass(frozen=True)
class NeuronEntry:
    """One chosen neuron with its active region: a window of the fundus with its upper left
    corner at `origin` (y, x).
    """

    sign: str  # "positive" or "negative"
    rank: Integer
    neuron: tuple[Integer, ...]  # (y, x, channel), or (unit,)
    attribution: Number
    region: Float[np.ndarray, "wy wx"]
    origin: tuple[Integer, Integer]
    activation: Number | None = None
    baseline_activation: Number | None = None


@dataclass(frozen=True)
class OutcomeMap:
    """An outcome attributed to pixels: the map, F(x) and F(x'), and how exact it is."""

    quantity: str  # "stage0" … "stage4", "referable"
    values: Float[np.ndarray, "y x"]
    outcome: Number | None = None
    baseline_outcome: Number | None = None
    gap: Number | None = None  # Σ attributions − (F(x) − F(x'))
    points: Number | None = None
    converged: Boolean | None = None

    @property
    def relative_gap(self) -> float | None:
        """|gap| as a part of |F(x) − F(x')|; None where either is unknown or nothing changes."""
        outcome, baseline, gap = self.outcome, self.baseline_outcome, self.gap
        if outcome is None or baseline is None or gap is None:
            return None
        if not np.isfinite([outcome, baseline, gap]).all() or outcome == baseline:
            return None
        return float(abs(gap / (outcome - baseline)))


@dataclass(frozen=True)
class LayerMaps:
    """A layer's two resultants, and its strongest neurons one by one."""

    layer: str
    quantity: str = ""  # what they explain, such as "stage2"
    positive: Float[np.ndarray, "y x"] | None = None
    negative: Float[np.ndarray, "y x"] | None = None
    neurons: tuple[NeuronEntry, ...] = ()


@dataclass(frozen=True)
class EyeEntry:
    """One explained eye."""

    image_id: str
    stage: Integer | None  # as labelled
    predicted: Integer
    probabilities: Sequence[Number] | Float[np.ndarray, "stages"]
    fundus: UInt8[np.ndarray, "y x 3"]
    photo: UInt8[np.ndarray, "h w 3"] | None = None
    outcomes: tuple[OutcomeMap, ...] = ()
    layers: tuple[LayerMaps, ...] = ()
    split: str = "test"
    tables: Mapping[str, Rows] = field(
        default_factory=dict
    )  # anything else about this eye, by caption
    crop: float = field(kw_only=True)  # of the fundus: `PreprocessParams.crop`


@dataclass(frozen=True)
class GallerySection:
    """Every explained eye, in the gallery's order.

    eyes: columns key (the name of its files below eyes/, such as 00000/10_left), image_id, stage,
    predicted, gap (relative), share (of the lesion map that lies in its regions), symmetry (stage 0
    against 4), patient; any of the last four may be missing.
    """

    eyes: pd.DataFrame | None = None
    layers: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class GroupMap:
    """The summed heat map of a group of eyes, such as all of true stage 4."""

    name: str
    images: Integer
    values: Float[np.ndarray, "y x"]
    background: UInt8[np.ndarray, "y x 3"] | None = None  # such as the group's mean fundus
    note: str = ""


@dataclass(frozen=True)
class GroupSection:
    """Maps of groups of eyes, and statistics of heat maps with any columns."""

    maps: tuple[GroupMap, ...] = ()
    stats: Rows = ()


@dataclass(frozen=True)
class Localisation:
    """How well maps find lesions. `scores`: rows with method, value, low, high; `regions`: any
    columns.
    """

    scores: Rows = ()
    score_name: str = "Pixel AUC"
    regions: Rows = ()
    note: str = ""


@dataclass(frozen=True)
class Triptych:
    """One counterfactual: the fundus, what had to change, and each stage's probability before
    and after.
    """

    image_id: str
    original: UInt8[np.ndarray, "y x 3"]
    counterfactual: UInt8[np.ndarray, "y x 3"]
    before: Float[np.ndarray, "stages"] | Sequence[Number] = ()
    after: Float[np.ndarray, "stages"] | Sequence[Number] = ()
    caption: str = ""
    reached: Boolean | None = None  # did the model change its mind?


@dataclass(frozen=True)
class CounterfactualSection:
    """Counterfactuals and their comparison with adversarial examples of the same outcome;
    summaries are by method.
    """

    summary: Rows = ()
    triptychs: tuple[Triptych, ...] = ()
    adversarial: Rows = ()
    comparisons: Rows = ()  # those of the table `comparisons`
    transfers: Rows = ()  # any columns
    note: str = ""


@dataclass(frozen=True)
class HintonEntry:
    """Attributions of a layer's units, in the units' order; those of one layer are drawn on one
    scale.
    """

    title: str
    values: Shaped[np.ndarray, "..."]
    note: str = ""
    layer: str = ""


@dataclass(frozen=True)
class UnitEye:
    """An eye on which a special unit is strong: the fundus, and the unit's region on it."""

    image_id: str
    fundus: UInt8[np.ndarray, "y x 3"]
    region: Float[np.ndarray, "y x"]
    note: str = ""


@dataclass(frozen=True)
class UnitEntry:
    """A constant or reversed unit, one by one. `stages`: what it argues for, and what is without
    it, by stage; any columns.
    """

    layer: str
    unit: Integer
    verdict: str
    lede: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    stages: Rows = ()
    eyes: tuple[UnitEye, ...] = ()
    rows: Rows = ()  # eye by eye; any columns


@dataclass(frozen=True)
class LinearitySection:
    """Units along growing adversarial strength. `units`: rows with `x`, `y` (names below),
    verdict.
    """

    verdicts: Mapping[str, Integer] = field(default_factory=dict)
    by_layer: Rows = ()  # the verdicts' counts by layer; any columns
    units: Rows = ()
    x: str = "gradient_change"
    y: str = "r_squared"
    x_label: str = "Change of the average gradient"
    y_label: str = "R² of the straight line"
    hintons: tuple[HintonEntry, ...] = ()
    exceptions: Rows = ()  # the units that do not follow
    pages: tuple[UnitEntry, ...] = ()  # some of them, one by one
    up_to: Mapping[str, Shaped[np.ndarray, "_units"]] = field(
        default_factory=dict
    )  # `plots.linear_range`, with the next two
    strengths: Sequence[Number] = ()
    flips: Shaped[np.ndarray, "_eyes"] | Sequence[Number] = ()
    note: str = ""


@dataclass(frozen=True)
class Citation:
    """How to name these numbers and get at the tables. `tables`: rows with name, path, and any
    of rows, description.
    """

    text: str = ""
    tables: Rows = ()
    csv: Mapping[str, bytes] = field(
        default_factory=dict
    )  # a table's rows by its name, of those small enough to enclose
    queries: tuple[tuple[str, str], ...] = ()  # what it answers, SQL


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows. `parts`: what each section shows, by the section's id; each may be
    left out.

    lead: the eye of the opening figure, with its key in the gallery.
    """

    run: RunSummary = field(default_factory=RunSummary)
    parts: Mapping[str, Any] = field(default_factory=dict)
    lead: tuple[EyeEntry, str] | None = None
