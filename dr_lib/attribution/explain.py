"""The complete explanation of a batch of fundus images, as the arrays of a store (DESIGN §2,
`attributions.zarr`).

Per image: every outcome on pixels, and the lesion map; per layer an outcome on the layer's units,
the strongest neurons of each sign, their active regions, and the resultant of many more. This
module puts the engine's parts together and names their results; it must not know how or where
arrays are kept.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import ImageAttribution, attributions
from dr_lib.attribution.neurons import (
    NeuronEngine,
    flat_activations,
    strongest_neurons,
    weighted_sums,
)
from dr_lib.attribution.params import AttributionParams
from dr_lib.attribution.quantities import QuantityMap, identity_quantities, stage_quantities
from dr_lib.attribution.receptive import receptive_field, window_side
from dr_lib.attribution.refinement import OPEN_POINTS
from dr_lib.maps.lesion_map import LesionMapper
from dr_lib.network import backend
from dr_lib.network.graph import calls
from dr_lib.network.layers import logits_model, split_at
from dr_lib.network.model import scaled

if TYPE_CHECKING:
    import keras

# On processors 4, 8 and 16 cost the same per image (Inception V3 at 256 px), and the few points
# that one eye asks for at a time fill the smallest; accelerators need many at once.
LARGEST_ON_CPU, LARGEST_BATCH = 4, 32
# Points that adapt start at this part of `neuron_points`, which is then the most that a neuron
# takes.
NEURON_START = 4
# The residual tolerance of a single neuron's region: its gap is promised, not what cancels in it.
GAP_ALONE = 100.0
# The arrays of `pixels/`, in their order, and their types.
PIXEL_ARRAYS = {
    "attribution": np.float32,
    "outcome": np.float32,
    "baseline_outcome": np.float32,
    "gap": np.float32,
    "map_error": np.float32,
    "points": np.int32,
    "converged": np.bool_,
}


@dataclass(frozen=True)
class LayerShape:
    """A layer's units, (y, x, channel) or (unit,), the side in px of the window a neuron's region
    is kept on, how many regions are, of each sign, and the fields of its `ReceptiveField`.
    """

    unit_shape: tuple[int, ...]
    window: int
    neurons: int
    field: Mapping[str, Any]


def layer_shapes(model: "keras.Model", params: AttributionParams) -> dict[str, LayerShape]:
    """The shapes of every layer to be explained, from the model's structure alone.

    Raises
    ------
    ValueError: for a layer that is missing or does not cut the network in two.
    """
    shapes = {}
    for name in params.layers:
        lower, _ = split_at(model, name)
        size = int(lower.inputs[0].shape[1])
        side = window_side(lower, size)
        neurons = min(params.neurons, (side == size and params.deep_neurons) or params.neurons)
        field = asdict(receptive_field(lower))
        shapes[name] = LayerShape(lower.outputs[0].shape[1:], side, neurons, field)
    return shapes


class Explainer:
    """Explains any number of batches with one model. Compiling a network takes longer than
    explaining a few eyes: keep it for the same model and parameters.

    `seconds` adds up the time spent on each part: "pixels", each layer's name, "lesion".
    """

    def __init__(self, model: "keras.Model", params: AttributionParams) -> None:
        self.params = params
        self.stages = int(model.outputs[0].shape[-1])
        self.quantities = stage_quantities(params.quantities, self.stages)
        batch = params.batch_size or suggested_batch_size(model)
        logits = logits_model(model)
        self.pixels = Evaluator(flat_activations(logits), batch)

        self.layers = {
            name: _Layer(logits, name, shape, params, batch)
            for name, shape in layer_shapes(model, params).items()
        }
        self.lesions = (
            LesionMapper(
                logits,
                poses=params.lesion_poses,
                points=params.lesion_points,
                batch_size=batch,
                enlargement=params.lesion_enlargement,
            )
            if params.lesion_poses
            else None
        )
        self.seconds: dict[str, float] = {}

    def explain(self, pixels: UInt8[np.ndarray, "image y x 3"]) -> dict[str, np.ndarray]:
        """Every array of DESIGN §2's table but `image_id`.

        Parameters
        ----------
        pixels: (n, size, size, 3) fundi, at least 1.

        Returns
        -------
        arrays by their paths in the store, the image axis first. An image whose outcome or maps
            are not finite is marked in `pixels/failed` and its numbers are NaN (neurons −1); the
            others are not touched by it. Where fewer than `neurons` units have a sign, the rest is
            −1 and NaN.
        """
        x = scaled(pixels)
        arrays = self._timed("pixels", self._explain_pixels, x)
        failed = ~_finite(arrays["pixels/attribution"])
        quantities = self._layer_quantities(x)
        for name, layer in self.layers.items():
            parts = self._timed(name, layer.explain, x, quantities)
            arrays |= {f"layers/{name}/{key}": value for key, value in parts.items()}
            failed |= ~(np.isfinite(parts["gap"]) & _finite(parts["resultant"]))
        if self.lesions:
            arrays["lesion/map"] = self._timed("lesion", self.lesions.maps, pixels)
            failed |= ~_finite(arrays["lesion/map"])
        for path, array in arrays.items():
            if array.dtype.kind == "f":
                array[failed] = np.nan
            elif path.endswith(("/neuron", "/channel_place")):
                array[failed] = -1
        arrays["pixels/converged"][failed] = False
        arrays["pixels/failed"] = failed
        return arrays

    def _timed(self, part: str, function: Callable, *arguments: object) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started
        return result

    def _explain_pixels(self, x: np.ndarray) -> dict[str, np.ndarray]:
        refinement = self.params.refinement(self.params.points)
        baseline = np.zeros(x.shape[1:], np.float32)  # half-gray carries no information (METHOD §4)
        images = {
            image.index: {"attribution": image.values.sum(axis=-1)} | image.numbers()
            for image in attributions(self.pixels, self.quantities, x, baseline, refinement)
        }
        return {
            f"pixels/{key}": np.array([images[index][key] for index in range(len(x))], dtype)
            for key, dtype in PIXEL_ARRAYS.items()
        }

    def _layer_quantities(self, x: np.ndarray) -> list[QuantityMap]:
        """Each image's outcome for the layers."""
        if self.params.layer_quantity != "predicted":
            return [stage_quantities((self.params.layer_quantity,), self.stages)] * len(x)
        predicted = np.nan_to_num(self.pixels.values(x)).argmax(axis=1)
        return [stage_quantities((f"stage{stage}",), self.stages) for stage in predicted]


class _Layer:
    """A layer at which the network is cut: outcome → units, units → pixels, many units →
    pixels.
    """

    def __init__(
        self,
        logits: "keras.Model",
        name: str,
        shape: LayerShape,
        params: AttributionParams,
        batch: int,
    ) -> None:
        self.params, most = params, params.neuron_points
        self.refinement = params.refinement(params.layer_points)
        self.neuron_refinement = replace(
            self.refinement,
            points=-(-most // NEURON_START) if params.tolerance else most,
            max_points=most,
            residual_tolerance=GAP_ALONE,
        )
        lower, upper = split_at(logits, name)
        self.units, self.kept = shape.unit_shape, shape.neurons
        self.activations = Evaluator(flat_activations(lower), batch)
        self.upper = Evaluator(flat_activations(upper), batch)
        self.sums = Evaluator(weighted_sums(lower), batch)
        self.neurons = NeuronEngine(lower, batch)

    def explain(self, x: np.ndarray, quantities: list[QuantityMap]) -> dict[str, np.ndarray]:
        """The arrays of `layers/<name>/`."""
        baseline = np.zeros(x.shape[1:], np.float32)
        h0 = self.activations.values(baseline[None]).reshape(self.units)
        h = self.activations.values(x).reshape(len(x), *self.units)
        images = {
            image.index: self._chosen(image, h[image.index], h0)
            for image in attributions(self.upper, quantities, h, h0, self.refinement)
        }
        rows = [images[index] for index in range(len(x))]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        extras = (arrays.pop("weights"),)
        arrays |= self._regions(x, baseline, arrays["neuron"])
        arrays["resultant"] = np.empty((len(x), 2, *x.shape[1:3]), np.float32)
        both_signs = identity_quantities(2)
        for image in attributions(
            self.sums, both_signs, x, baseline, self.refinement, extras=extras
        ):
            arrays["resultant"][image.index] = image.values.sum(axis=-1)
        return arrays

    def _chosen(
        self, image: ImageAttribution, h: np.ndarray, h0: np.ndarray
    ) -> dict[str, np.ndarray]:
        """An image's part of the arrays that tell its strongest neurons, and the weights (sign,
        unit) of its resultant.
        """
        values, k = image.values[0], self.kept
        shown = {"neuron_attribution": values, "activation": h, "baseline_activation": h0}
        row = {
            "neuron": np.full((2, k, len(self.units)), -1, np.int16),
            "channel_attribution": np.full(self.units[-1], np.nan, np.float32),
            "channel_activation": np.full(self.units[-1], np.nan, np.float32),
            "channel_place": np.full((self.units[-1], 2, 2), -1, np.int16),
            "gap": np.array(image.gap[0], np.float32),
            "points": np.array(image.refinement.gradients, np.int32),
            "weights": np.zeros((2, values.size), np.float32),
            **{key: np.full((2, k), np.nan, np.float32) for key in shown},
        }
        if not np.isfinite(values).all():
            return row
        of_channel, active = (array.reshape(-1, self.units[-1]) for array in (values, h))
        row["channel_attribution"][:] = of_channel.sum(axis=0, dtype=np.float64)
        row["channel_activation"][:] = active.max(axis=0)
        for at, strength in enumerate((np.abs(of_channel), active)):
            if len(self.units) == 3:
                where = np.unravel_index(strength.argmax(axis=0), self.units[:2])
                found = (strength != 0).any(axis=0, keepdims=True).T
                row["channel_place"][:, at] = np.where(found, np.stack(where, axis=1), -1)
        count = self.params.resultant_neurons
        for sign, neurons in enumerate(strongest_neurons(values, max(k, count))):
            summed, kept = tuple(neurons[:count].T), neurons[:k]
            row["weights"][sign, np.ravel_multi_index(summed, self.units)] = values[summed]
            row["neuron"][sign, : len(kept)] = kept
            for key, of_units in shown.items():
                row[key][sign, : len(kept)] = of_units[tuple(kept.T)]
        return row

    def _regions(
        self, x: np.ndarray, baseline: np.ndarray, neurons: np.ndarray
    ) -> dict[str, np.ndarray]:
        n, _, k, axes = neurons.shape
        missing = neurons[..., 0] < 0
        indices = np.where(missing[..., None], 0, neurons).reshape(n, 2 * k, axes)
        regions = self.neurons.regions(x, baseline, list(indices), self.neuron_refinement)
        values = regions.values.sum(axis=-1).reshape(n, 2, k, *regions.values.shape[2:4])
        gap = regions.gap.reshape(n, 2, k).astype(np.float32)
        origin = regions.origin.reshape(n, 2, k, 2).astype(np.int16)
        values[missing], gap[missing], origin[missing] = np.nan, np.nan, -1
        return {"region": values, "region_origin": origin, "neuron_gap": gap}


def suggested_batch_size(model: "keras.Model", free_bytes: int | None = None) -> int:
    """The largest power of two, 4 on processors and 32 elsewhere at most, whose passes take at most
    a quarter of the free memory, and another quarter the gradients that wait for their weights, if
    each row is of another line.

    Twice the outputs of all layers is an upper estimate: with four backward passes TensorFlow takes
    0.7 times them (Inception V3 at 256 px: 60 MB an image). The shape of a batch may touch the last
    bits of a result; fix `batch_size` where runs on different machines must agree to the bit.
    """
    free = backend.free_memory_bytes() if free_bytes is None else free_bytes
    numbers = sum(
        math.prod(size or 1 for size in tensor.shape[1:])
        for _, _, outputs in calls(model)
        for tensor in outputs
    )
    largest = LARGEST_ON_CPU if backend.device() == "CPU" else LARGEST_BATCH
    waiting = OPEN_POINTS * math.prod(model.inputs[0].shape[1:]) * model.outputs[0].shape[-1]
    rows = min(free / 4 / (4 * max(2 * numbers, waiting)), largest)
    return 2 ** max(int(rows).bit_length() - 1, 0)


def _finite(maps: np.ndarray) -> np.ndarray:
    """Whether all of an image's numbers are finite: (image,)."""
    return np.all(np.isfinite(maps), axis=tuple(range(1, maps.ndim)))
