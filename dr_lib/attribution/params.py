"""The settings of an explanation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from dr_lib.attribution.integrated import RefinementMaker
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import stage_quantities
from dr_lib.network.backend import Precision
from dr_lib.settings import NonNegativeInt, PositiveInt, PositiveShare, Settings, ShareBelow1

# Settings that the first explanations did not have, with the value that changes nothing.
DEFAULTS_BEFORE_ADDED = {"deep_neurons": 0, "precision": "float32", "lesion_enlargement": 1.0}


@dataclass(frozen=True)
class AttributionParams(Settings):
    """What is attributed, to which layers, and how exactly.

    quantities: outcomes attributed to pixels: "stage0" … "stage4", "referable" (stages 2 + 3 + 4),
        "logit3", "logodds3:0".
    layers: where the network is cut; each must be a full cut.
    layer_quantity: the outcome attributed to the layers: "predicted" (each image's most probable
        stage) or a quantity.
    neurons: regions kept one by one, of each sign.
    deep_neurons: the most at layers whose neurons see the whole image (0: as `neurons`). Such a
        region costs a hundred times what one of the stem does, and those of a layer look alike.
    resultant_neurons: neurons in the weighted sum, of each sign.
    rule: of fixed points; points that adapt start as midpoints.
    tolerance: points adapt until |gap| ≤ tolerance · max(|F(x) − F(x')|, floor); 0 takes exactly
        `points` points of `rule`.
    residual_tolerance: residuals along the line that cancel in the gap are bounded, too, by this
        (0: as tolerance); the larger, the fewer passes and the coarser the map. 100 promises the
        gap alone.
    floor: a probability that changes by less is judged as if it changed by this much: the map of a
        stage that hardly moves would otherwise cost more than all others.
    points, max_points: gradients on pixels to start with and at most.
    layer_points: the same start for outcome → layer and for the resultant.
    neuron_points: points of a single neuron's region, by `rule`; with a tolerance the most, a
        quarter to start with, and the gap alone is promised.
    lesion_poses: over how many poses of the disc the lesion map is averaged (1, 2, 4 or 8; 0: no
        such map). lesion_points: how many points each pose takes.
    lesion_enlargement: the lesion map is the mean of that of the fundus and that of the fundus
        enlarged so many times.
    batch_size: images in one pass; 0 chooses by free memory: at most 4 on processors and 32
        elsewhere.
    precision: of products on a GPU that has TF32: three digits instead of seven, and several times
        as fast. Gaps and residuals need six.
    """

    quantities: tuple[str, ...] = ("stage0", "stage1", "stage2", "stage3", "stage4", "referable")
    layers: tuple[str, ...] = ("stem", "mixed2", "fc1")
    layer_quantity: str = "predicted"
    neurons: PositiveInt = 10
    deep_neurons: Annotated[int, Interval(ge=0), "0: as neurons"] = 3
    resultant_neurons: PositiveInt = 2000
    rule: str = "midpoint"
    tolerance: ShareBelow1 = 0.05
    residual_tolerance: Annotated[float, Interval(ge=0, le=100), "0: as tolerance"] = 0.2
    floor: PositiveShare = 0.01
    max_points: int = 256
    points: int = 16
    layer_points: int = 12
    neuron_points: int = 32
    lesion_poses: Annotated[Literal[0, 1, 2, 4, 8], "0: no lesion map"] = 4
    lesion_points: int = 2
    lesion_enlargement: Annotated[float, Interval(ge=1, le=4), "1: not enlarged"] = 2.0
    batch_size: NonNegativeInt = 0
    precision: Precision = "float32"

    def check(self) -> None:
        if not self.quantities:
            raise ValueError("quantities must name at least one outcome")
        if any(len(set(names)) < len(names) for names in (self.quantities, self.layers)):
            raise ValueError("quantities and layers must each be named once")
        stage_quantities(self.quantities)
        if self.layer_quantity != "predicted":
            stage_quantities((self.layer_quantity,))
        if self.max_points < max(self.points, self.layer_points):
            raise ValueError(
                f"max_points ({self.max_points}) must be at least points and layer_points"
            )
        for points in (self.points, self.layer_points):
            self.refinement(points)  # refuses impossible rules
        quadrature(self.rule, self.neuron_points)
        quadrature("midpoint", self.lesion_points)

    def refinement(self, points: int) -> RefinementMaker:
        """How points are chosen on a line that starts with this many."""
        return RefinementMaker(
            points,
            self.rule,
            self.tolerance or None,
            self.max_points,
            self.floor,
            self.residual_tolerance or None,
        )
