"""The settings of an explanation."""

from dataclasses import dataclass

from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import stage_quantities


@dataclass(frozen=True)
class AttributionParams:
    """What is attributed, to which layers, and how exactly.

    quantities: outcomes attributed to pixels: "stage0" … "stage4", "referable" (stages 2 + 3 + 4),
        "logit3", "logodds3:0".
    layers: where the network is cut; each must be a full cut.
    layer_quantity: the outcome attributed to the layers: "predicted" (each image's most probable
        stage) or a quantity.
    neurons: regions kept one by one, of each sign.
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
        quarter to start with.
    lesion_poses: over how many poses of the disc the lesion map is averaged (1, 2, 4 or 8; 0: no
        such map). lesion_points: how many points each pose takes.
    batch_size: images in one pass; 0 chooses by free memory: at most 4 on processors and 32
        elsewhere.
    """

    quantities: tuple[str, ...] = ("stage0", "stage1", "stage2", "stage3", "stage4", "referable")
    layers: tuple[str, ...] = ("stem", "mixed2", "fc1")
    layer_quantity: str = "predicted"
    neurons: int = 10
    resultant_neurons: int = 2000
    rule: str = "midpoint"
    tolerance: float = 0.05
    residual_tolerance: float = 0.0
    floor: float = 0.01
    max_points: int = 256
    points: int = 16
    layer_points: int = 16
    neuron_points: int = 32
    lesion_poses: int = 8
    lesion_points: int = 2
    batch_size: int = 0

    def __post_init__(self) -> None:
        if not self.quantities:
            raise ValueError("quantities must name at least one outcome")
        if len(set(self.quantities)) < len(self.quantities) or len(set(self.layers)) < len(
            self.layers
        ):
            raise ValueError("quantities and layers must each be named once")
        stage_quantities(self.quantities)
        if self.layer_quantity != "predicted":
            stage_quantities((self.layer_quantity,))
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be at least 0 and below 1, not {self.tolerance}")
        if not 0 <= self.residual_tolerance <= 100:
            raise ValueError(
                "residual_tolerance must be between 0 (as tolerance) and 100, not"
                f" {self.residual_tolerance}"
            )
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1, not {self.floor}")
        for name in ("points", "layer_points", "neuron_points"):
            quadrature(self.rule, getattr(self, name))
        if self.tolerance and self.rule != "midpoint":
            raise ValueError(
                f"points that adapt start as midpoints: set tolerance = 0 to use the {self.rule}"
                " rule"
            )
        if self.max_points < max(self.points, self.layer_points):
            raise ValueError(
                f"max_points ({self.max_points}) must be at least points and layer_points"
            )
        if self.lesion_poses not in (0, 1, 2, 4, 8):
            raise ValueError(
                "lesion_poses must be 1, 2, 4 or 8, or 0 for no lesion map, not"
                f" {self.lesion_poses}"
            )
        quadrature("midpoint", self.lesion_points)
        if self.neurons < 1 or self.resultant_neurons < 1:
            raise ValueError("neurons and resultant_neurons must be at least 1")
        if self.batch_size < 0:
            raise ValueError(f"batch_size must be at least 0, not {self.batch_size}")
