"""The attribution engine: integrated gradients that adapt their points, cut layers, and neurons in
bulk (METHOD §4–5).

From the bottom: `quadrature` and `heads` are closed forms; `plans` choose points, seeing scalars
only; `evaluator` runs many lines in full batches; `integrated` makes maps of them; `layers`,
`receptive` and `neurons` take networks apart; `checks` asks whether maps deserve belief. Importing
this package imports neither Keras nor a framework.
"""

from dr_lib.attribution.checks import (
    Agreement,
    Completeness,
    MaskingCurves,
    Randomisation,
    agreement,
    chance_agreement,
    completeness,
    insertion_deletion,
    randomisation,
)
from dr_lib.attribution.integrated import Attribution, integrated_gradients
from dr_lib.attribution.neurons import Regions, neuron_regions, resultant, strongest_neurons
from dr_lib.attribution.params import AttributionParams
from dr_lib.attribution.quadrature import quadrature
from dr_lib.attribution.quantities import Head, stage_head
from dr_lib.attribution.receptive import ReceptiveField, receptive_field, window_side
from dr_lib.network.layers import split_at

__all__ = [
    "Agreement",
    "Attribution",
    "AttributionParams",
    "Completeness",
    "Head",
    "MaskingCurves",
    "Randomisation",
    "ReceptiveField",
    "Regions",
    "agreement",
    "chance_agreement",
    "completeness",
    "insertion_deletion",
    "integrated_gradients",
    "neuron_regions",
    "quadrature",
    "randomisation",
    "receptive_field",
    "resultant",
    "split_at",
    "stage_head",
    "strongest_neurons",
    "window_side",
]
