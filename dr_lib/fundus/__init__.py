"""From a photograph to its normalised fundus: find the retina, scale it, even out its tone, judge
its quality (METHOD §1).

Pure functions on arrays and bytes. Nothing here knows of files, tables or of the network that looks
at the result.
"""

from dr_lib.fundus.disc import Disc, retina_disc
from dr_lib.fundus.normalise import normalise, preprocess
from dr_lib.fundus.params import PreprocessParams
from dr_lib.fundus.photo import UngradablePhoto
