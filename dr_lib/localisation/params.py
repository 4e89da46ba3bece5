"""The settings of the comparison of maps with lesion masks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalisationParams:
    """Where the masks are and how a map is judged by them.

    - `masks`: a folder of masks, in any of the layouts of docs/localisation.md, or a COCO
      annotation file. Empty: the folder `masks` beside the photographs, where `dr synthesise` puts
      its own; without one nothing is measured.
    - `smoothing_px`: Gaussian σ that every map, the rivals too, is smoothed with before it is
    judged.
    - `tolerance_px`: so near a lesion a map's peak counts as on it.
    - `regions`: how many of a map's strongest peaks count for precision and recall.
    - `rivals`: whether simple rivals are computed on the same eyes. `rival_layers`: where Grad-CAM
    is; names that the model lacks are
      passed over.
    - `resamples`, `seed`: of the intervals, over patients.
    """

    masks: str = ""
    smoothing_px: float = 1.0
    tolerance_px: float = 3.0
    regions: int = 10
    rivals: bool = True
    rival_layers: tuple[str, ...] = ("mixed2", "mixed5", "mixed7", "mixed10")
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("smoothing_px", "tolerance_px"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.regions < 1:
            raise ValueError(f"regions must be at least 1, not {self.regions}")
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, not {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
