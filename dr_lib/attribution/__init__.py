"""The attribution engine: integrated gradients that adapt their points, cut layers, and neurons in
bulk (METHOD §4–5).

From the bottom: `quadrature` and `quantities` are closed forms; `refinement`, on `partition` and
`direction`, chooses points and sees scalars only; `evaluator` runs many paths in full batches,
whose gradients `sums` keeps on the device; `integrated` makes maps of them; `receptive` and
`neurons` take networks apart; `explain` puts all together. Importing this package imports neither
Keras nor a framework.
"""

from dr_lib.attribution.integrated import Attribution, integrated_gradients
from dr_lib.attribution.neurons import Regions, neuron_regions, resultant, strongest_neurons
from dr_lib.attribution.params import AttributionParams
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import QuantityMap, stage_quantities
from dr_lib.attribution.receptive import receptive_field, window_side
from dr_lib.network.layers import split_at
