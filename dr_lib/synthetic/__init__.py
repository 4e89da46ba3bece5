"""Plausible synthetic fundus photographs whose stage follows from the lesions drawn into them.

A photograph is a pure function of (seed, patient, eye, stage) and of the sizes asked for: eyes can
be drawn in any order, in any number of processes, and the bytes are the same. Nothing here knows
files or folders.

The parts, in the order in which an eye comes to be: `planning` (who has which stage), `anatomy`
(disc, fovea, vessel tree), `lesions` (which, where, and the clinical scale), `painting` (the retina
itself), `eye` (what a camera makes of it, and one call that joins all).
"""

from dr_lib.synthetic.eye import draw
from dr_lib.synthetic.lesions import MASK_COLOURS
from dr_lib.synthetic.planning import KAGGLE_COUNTS, EyePlan, SynthesisParams, plan, stage_counts
