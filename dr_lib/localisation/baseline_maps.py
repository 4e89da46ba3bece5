"""Simple maps that an explanation of lesions has to beat, computed on the same eyes (METHOD §5).

Two need no network: a prior that lesions lie near the centre, and the photograph's own contrast.
Gradient, gradient × input and Grad-CAM take one backward pass each. All are larger where they claim
a lesion; how well they do is judged elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from dr_lib.attribution.quantities import QuantityMap, stage_quantities
from dr_lib.attribution.receptive import enlarged, receptive_field
from dr_lib.fundus.anatomy import anatomy
from dr_lib.network import backend
from dr_lib.network.layers import logits_model, split_at
from dr_lib.network.model import scaled

if TYPE_CHECKING:
    import keras


def centre_prior(size: int, *, crop: float) -> Float32[np.ndarray, "y x"]:
    """1 at the centre of the fundus, falling straight to 0 at the edge of the visible disc.

    >>> centre_prior(129, crop=0.1)[64, [64, 6, 0]].round(3)
    array([1.   , 0.001, 0.   ], dtype=float32)
    """
    return np.maximum(1 - anatomy(size, "right", crop=crop).radius_share, 0).astype(np.float32)


def local_contrast(pixels: UInt8[np.ndarray, "y x 3"]) -> Float32[np.ndarray, "y x"]:
    """How far a normalised fundus departs from half-gray, either way: the mean over colours of |x|.

    What preprocessing leaves is the local contrast of the photograph already (METHOD §1.4).

    >>> float(local_contrast(np.full((8, 8, 3), 64, np.uint8)).max())
    0.5
    """
    return np.abs(scaled(pixels)).mean(axis=2)


class BaselineMaps:
    """The gradient maps of one model and quantity; keeps its compiled functions, so reuse it.

    quantity: as `stage_quantities` names it. layers: where Grad-CAM looks; each must be a full cut
    with positions.
    """

    def __init__(self, model: "keras.Model", quantity: str, layers: Sequence[str]) -> None:
        logits = logits_model(model)
        quantities = stage_quantities((quantity,), int(model.outputs[0].shape[-1]))
        self._gradient = _gradient_of(logits, quantities)
        self._cams = {}
        for name in layers:
            lower, upper = split_at(logits, name)
            if len(lower.outputs[0].shape) != 4:
                raise ValueError(
                    f"layer {name!r} has no positions, so Grad-CAM has nothing to show there"
                )
            below = _of_one(lambda x, net=lower: net(x, training=False))
            self._cams[name] = (below, _gradient_of(upper, quantities), receptive_field(lower))

    def maps(
        self, pixels: UInt8[np.ndarray, "y x 3"], *, crop: float
    ) -> dict[str, Float32[np.ndarray, "y x"]]:
        """Every map of one fundus with this crop: gradient, gradient_input, gradcam_<layer>,
        centre, contrast.

        gradient: Σ|∂F/∂x| over colours (Simonyan et al., 2013). gradient_input: Σ x · ∂F/∂x, with
        its sign. gradcam: max(Σ_c w_c h_c, 0), w_c the mean of ∂F/∂h_c over positions, each laid on
        the centre of what it sees (Selvaraju et al., 2017).
        """
        x = scaled(pixels)
        gradient = self._gradient(x)
        maps = {
            "gradient": np.abs(gradient).sum(axis=2),
            "gradient_input": (x * gradient).sum(axis=2),
        }
        for name, (below, above, field) in self._cams.items():
            h = below(x)
            weights = above(h).mean(axis=(0, 1))
            cam = np.maximum(h @ weights, 0)
            maps[f"gradcam_{name}"] = enlarged(cam, field, len(x))
        return maps | {
            "centre": centre_prior(len(x), crop=crop),
            "contrast": local_contrast(pixels),
        }


def _gradient_of(network: "keras.Model", quantities: QuantityMap) -> Callable:
    """The gradient of the only quantity by the network's one input."""
    probability, logit = (
        weights.T.astype(np.float32)
        for weights in (quantities.probability_weights, quantities.logit_weights)
    )

    def outcome(x: object) -> object:
        from keras import ops

        u = network(x, training=False)
        return ops.matmul(ops.softmax(u), probability) + ops.matmul(u, logit)

    return _of_one(
        lambda x: backend.vjp(outcome, x, backend.tensor(np.ones((1, 1), np.float32)))[1]
    )


def _of_one(function: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """A function of a batch, compiled, for a single array and its answer."""
    run = backend.compiled(function)
    return lambda x: np.asarray(run(backend.tensor(x[None])))[0]
