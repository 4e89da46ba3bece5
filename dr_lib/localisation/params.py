"""The settings of the comparison of maps with lesion masks."""

from dataclasses import dataclass

from dr_lib.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings


@dataclass(frozen=True)
class LocalisationParams(Settings):
    """Where the masks are and how a map is judged by them.

    - `masks`: a folder of masks, in any of the layouts of docs/localisation.md, or a COCO
      annotation file. Empty: the folder `masks` beside the photographs, where `dr synthesise` puts
      its own; without one nothing is measured.
    - `smoothing_px`: Gaussian σ that every map, baseline maps too, is smoothed with before it is
      judged.
    - `tolerance_px`: so near a lesion a map's peak counts as on it.
    - `regions`: how many of a map's strongest peaks count for precision and recall.
    - `baseline_maps`: whether simple maps are judged on the same eyes. `gradcam_layers`: where
      Grad-CAM is; names that the model lacks are passed over.
    - `resamples`, `seed`: of the intervals, over patients.
    """

    masks: str = ""
    smoothing_px: NonNegativeFloat = 1.0
    tolerance_px: NonNegativeFloat = 3.0
    regions: PositiveInt = 10
    baseline_maps: bool = True
    gradcam_layers: tuple[str, ...] = ("mixed2", "mixed5", "mixed7", "mixed10")
    resamples: PositiveInt = 1000
    seed: NonNegativeInt = 0
