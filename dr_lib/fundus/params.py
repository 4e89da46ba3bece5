"""The settings of preprocessing, one frozen dataclass; cheap to import, so that a configuration
can be checked at once.
"""

from dataclasses import dataclass

from dr_lib.fundus.photo import LARGEST_MEGAPIXELS


@dataclass(frozen=True)
class PreprocessParams:
    """The settings that turn a photograph into a normalised fundus (METHOD §1).

    - `size`: the side of the output and the retina's diameter in it, in pixels.
    - `low_pass_sigma`: the Gaussian blur against noise before shrinking, in pixels of the output.
    - `tone_gain`, `tone_sigma`: `gain · (image − blurred) + 128`; the blur's sigma is a fraction of
    the retina's radius.
    - `crop`: the outer fraction of the radius that is replaced by half-gray.
    - `min_confidence`: a disc found with less confidence (0…1) is refused as ungradable.
    - `quality_threshold`: an eye whose quality score is lower is flagged (never dropped here); the
    default lets at least 97 %
      of the eyes pass that a human called gradable, see `dr_lib.fundus.quality`.
    - `max_megapixels`, `min_side_px`: photographs larger or smaller than this are refused before
    they are decoded.
    """

    size: int = 256
    low_pass_sigma: float = 0.5
    tone_gain: float = 4.0
    tone_sigma: float = 1 / 30
    crop: float = 0.1
    min_confidence: float = 0.25
    quality_threshold: float = 0.39
    max_megapixels: float = 150.0
    min_side_px: int = 64

    def __post_init__(self):
        if not 16 <= self.size <= 4096:
            raise ValueError(f"preprocess.size must be from 16 to 4096 pixels, not {self.size}")
        if not 0 <= self.low_pass_sigma <= 5:
            raise ValueError(
                "preprocess.low_pass_sigma must be from 0 to 5 output pixels, not"
                f" {self.low_pass_sigma}"
            )
        if not self.tone_gain > 0:
            raise ValueError(f"preprocess.tone_gain must be positive, not {self.tone_gain}")
        if not 0 < self.tone_sigma <= 1:
            raise ValueError(
                "preprocess.tone_sigma is a fraction of the radius: above 0, at most 1, not"
                f" {self.tone_sigma}"
            )
        if not 0 <= self.crop < 1:
            raise ValueError(
                f"preprocess.crop is a fraction of the radius: from 0 to below 1, not {self.crop}"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(
                f"preprocess.min_confidence must be from 0 to 1, not {self.min_confidence}"
            )
        if not 0 <= self.quality_threshold <= 1:
            raise ValueError(
                f"preprocess.quality_threshold must be from 0 to 1, not {self.quality_threshold}"
            )
        if not 0 < self.max_megapixels <= LARGEST_MEGAPIXELS:
            raise ValueError(
                f"preprocess.max_megapixels must be above 0, at most {LARGEST_MEGAPIXELS:g}, not"
                f" {self.max_megapixels}"
            )
        if self.min_side_px < 1:
            raise ValueError(f"preprocess.min_side_px must be at least 1, not {self.min_side_px}")
