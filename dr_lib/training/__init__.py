"""Training with balanced mini-batches (METHOD §3): resumable to the bit, one mini-batch after
another.

Which eyes are in mini-batch s, and how each is turned, is a pure function of (seed, s). Between
mini-batches only the weights, the optimiser's state and the dropout's counter are kept. So a
checkpoint needs nothing else, and a killed run continues to the same bits.
"""

from dr_lib.training.batches import BalancedBatches
from dr_lib.training.checkpoint import write_weights
from dr_lib.training.loop import History, StepReport, TrainingDiverged, train
from dr_lib.training.params import TrainingParams, learning_rate_schedule, outcome_settings
