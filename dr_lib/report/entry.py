"""One explained eye as the report and `dr show` see it: numbers and arrays, whichever store they
came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from dr_lib.drawing.figures import Map, Photo, Pixels
from dr_lib.formatting import Number, finite
from dr_lib.report.section import Rows

# Rows of tables bring NumPy's own scalars.
Integer = int | np.integer


@dataclass(frozen=True)
class NeuronEntry:
    """One chosen neuron with its active region: a window of the fundus with its upper left corner
    at `origin` (y, x)."""

    sign: str  # "positive" or "negative"
    rank: Integer
    neuron: tuple[Integer, ...]  # (y, x, channel), or (unit,)
    attribution: Number
    region: Float[np.ndarray, "wy wx"]
    origin: tuple[Integer, Integer]
    activation: Number | None = None
    baseline_activation: Number | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """The region's rows and columns in the fundus."""
        (top, left), (height, width) = self.origin, self.region.shape
        return slice(top, top + height), slice(left, left + width)

    @property
    def place(self) -> str:
        """Where the neuron stands in its layer, in words."""
        indices = ", ".join(map(str, self.neuron))
        return f"unit {indices}" if len(self.neuron) == 1 else f"({indices})"


@dataclass(frozen=True)
class OutcomeMap:
    """An outcome attributed to pixels: the map, F(x) and F(x'), and how exact it is."""

    quantity: str  # "stage0" … "stage4", "referable"
    values: Map
    outcome: Number | None = None
    baseline_outcome: Number | None = None
    gap: Number | None = None  # Σ attributions − (F(x) − F(x'))
    points: Number | None = None
    converged: bool | np.bool_ | None = None

    @property
    def change(self) -> float:
        """F(x) − F(x'); NaN where either is unknown."""
        return float(np.float64(self.outcome) - np.float64(self.baseline_outcome))

    @property
    def relative_gap(self) -> float | None:
        """|gap| as a part of |F(x) − F(x')|; None where either is unknown or nothing changes."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return finite(np.abs(np.float64(self.gap) / self.change))


@dataclass(frozen=True)
class LayerMaps:
    """A layer's two resultants, and its strongest neurons one by one."""

    layer: str
    quantity: str = ""  # what they explain, such as "stage2"
    positive: Map | None = None
    negative: Map | None = None
    neurons: tuple[NeuronEntry, ...] = ()

    @property
    def ranked(self) -> list[NeuronEntry]:
        """The neurons that have a number, the positive ones first, the strongest first."""
        known = (neuron for neuron in self.neurons if finite(neuron.attribution) is not None)
        return sorted(known, key=lambda neuron: (neuron.sign != "positive", neuron.rank))


@dataclass(frozen=True)
class EyeEntry:
    """One explained eye."""

    image_id: str
    stage: Integer | None  # as labelled
    predicted: Integer
    probabilities: Sequence[Number] | Float[np.ndarray, "stages"]
    fundus: Pixels
    photo: Photo | None = None
    outcomes: tuple[OutcomeMap, ...] = ()
    layers: tuple[LayerMaps, ...] = ()
    split: str = "test"
    # Anything else about this eye, by caption.
    tables: Mapping[str, Rows] = field(default_factory=dict)
    crop: float = field(kw_only=True)  # of the fundus: `PreprocessParams.crop`
