"""Are the highlighted places lesions? Maps against lesion masks, beside chance (METHOD §5).

`masks` brings a photograph's mask into the fundus' geometry, `scores` judges maps of one eye and of
many. Nothing here knows networks, files or tables.
"""

from dr_lib.localisation.masks import (
    LesionMasks,
    UnusableMask,
    lesion_masks,
    lesion_share,
    retina_seen,
)
from dr_lib.localisation.scores import Judge, LocalisationParams, Score, score_rows
