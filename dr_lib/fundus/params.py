"""The settings of preprocessing, one frozen dataclass; cheap to import, so that a configuration
can be checked at once.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from dr_lib.fundus.photo import LARGEST_MEGAPIXELS
from dr_lib.settings import PositiveFloat, PositiveInt, PositiveShare, Settings, Share, ShareBelow1


@dataclass(frozen=True)
class PreprocessParams(Settings):
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

    size: Annotated[int, Interval(ge=16, le=4096), "pixels"] = 256
    low_pass_sigma: Annotated[float, Interval(ge=0, le=5), "pixels of the output"] = 0.5
    tone_gain: PositiveFloat = 4.0
    tone_sigma: Annotated[PositiveShare, "a fraction of the radius"] = 1 / 30
    crop: Annotated[ShareBelow1, "a fraction of the radius"] = 0.1
    min_confidence: Share = 0.25
    quality_threshold: Share = 0.39
    max_megapixels: Annotated[float, Interval(gt=0, le=LARGEST_MEGAPIXELS)] = 150.0
    min_side_px: PositiveInt = 64
