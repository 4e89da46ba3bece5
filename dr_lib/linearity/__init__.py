"""Are a layer's units and the outcome related linearly (METHOD §8)?

Adversarial examples are made with the gradient at exponentially growing strength. At each strength
the outcome is attributed to the layer's units on the line from the baseline h(x') to the example's
activation. The poster's finding, which is tested here: the average gradient stays almost unchanged,
so the attribution grows only through the activation difference. The caller gives the model above
the layer, the gradient, and the engine that averages gradients.
"""

from dr_lib.linearity.study import (
    LinearityParams,
    engine_average_gradient,
    linearity_study,
    special_units,
    trunk,
    unit_effects,
    unit_region,
)
from dr_lib.linearity.verdicts import unit_verdicts
