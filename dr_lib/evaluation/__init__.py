"""How good grades are: metrics with intervals over patients, and the ways to decide a stage."""

from dr_lib.evaluation.metrics import Evaluation, evaluate
