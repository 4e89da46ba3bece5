"""The complete explanation of a batch of fundus images, as the arrays of one store (DESIGN §2,
`attributions.zarr`).

Per image: every outcome on pixels, and the lesion map; per layer one outcome on the layer's units,
the strongest neurons of each sign, their active regions, and the resultant of many more. This
module puts the engine's parts together and names their results; it must not know how or where
arrays are kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.integrated import ImageAttribution, attributions, refinement_maker
from dr_lib.attribution.neurons import (
    NeuronEngine,
    flat_activations,
    strongest_neurons,
    weighted_sums,
)
from dr_lib.attribution.params import AttributionParams
from dr_lib.attribution.quantities import QuantityMap, identity_quantities, stage_quantities
from dr_lib.attribution.receptive import window_side
from dr_lib.maps.lesion_map import LesionMapper
from dr_lib.network import backend
from dr_lib.network.graph import calls
from dr_lib.network.layers import logits_model, split_at
from dr_lib.network.model import scaled

if TYPE_CHECKING:
    import keras

# On processors 4, 8 and 16 cost the same per image (Inception V3 at 256 px), and the few points
# that one eye asks for at a time fill the smallest; accelerators need many at once.
LARGEST_BATCH = {"CPU": 4}
LARGEST_BATCH_ELSEWHERE = 32
# Points that adapt start at this part of `neuron_points`, which is then the most that a neuron
# takes.
NEURON_START = 4


@dataclass(frozen=True)
class LayerShape:
    """A layer's units, (y, x, channel) or (unit,), and the side of the window a neuron's region
    is kept on.
    """

    unit_shape: tuple[int, ...]
    window: int

    @property
    def channels(self) -> int:
        return self.unit_shape[-1]


def layer_shapes(model: "keras.Model", params: AttributionParams) -> dict[str, LayerShape]:
    """The shapes of every layer to be explained, from the model's structure alone.

    Raises ValueError for a layer that is missing or does not cut the network in two.
    """
    shapes = {}
    for name in params.layers:
        lower, _ = split_at(model, name)
        shapes[name] = LayerShape(
            tuple(lower.outputs[0].shape[1:]), window_side(lower, int(lower.inputs[0].shape[1]))
        )
    return shapes


class Explainer:
    """Explains any number of batches with one model; `seconds` adds up the time spent in each
    part. Compiling a network takes longer than explaining a few eyes: keep it for the same model
    and parameters.
    """

    def __init__(self, model: "keras.Model", params: AttributionParams) -> None:
        self.params = params
        self.quantities = stage_quantities(params.quantities, int(model.outputs[0].shape[-1]))
        self.stages = int(model.outputs[0].shape[-1])
        batch = params.batch_size or suggested_batch_size(model)
        self.logits = logits_model(model)
        self.pixels = Evaluator(_inference(self.logits), batch)
        tolerance = params.tolerance or None
        shared = (params.max_points, params.floor, params.residual_tolerance or None)
        self.pixel_refinement = refinement_maker(params.points, params.rule, tolerance, *shared)
        self.layer_refinement = refinement_maker(
            params.layer_points, params.rule, tolerance, *shared
        )
        self.layers = {name: _Layer(self, name, batch) for name in params.layers}
        how = {"poses": params.lesion_poses, "points": params.lesion_points, "batch_size": batch}
        self.lesions = LesionMapper(self.logits, **how) if params.lesion_poses else None
        self.seconds: dict[str, float] = {}

    def explain(
        self,
        pixels: UInt8[np.ndarray, "image y x 3"],
        on_image: Callable[[str, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Every array of DESIGN §2's table but `image_id`, keyed by its path in the store; the
        image axis comes first.

        An image whose outcome or maps are not finite is marked in `pixels/failed` and its numbers
        are NaN (neurons −1); the others are not touched by it. Where fewer than `neurons` units
        have a sign, the rest is −1 and NaN. on_image(part, index) is called whenever a part
        ("pixels" or a layer's name) of an image is done.
        """
        x = scaled(pixels)
        report_progress = on_image or (lambda part, index: None)
        arrays = self._explain_pixels(x, report_progress)
        failed = np.zeros(len(x), bool)
        failed |= ~np.isfinite(arrays["pixels/attribution"]).all(axis=(1, 2, 3))
        quantities = self._layer_quantities(x)
        for name, layer in self.layers.items():
            started = time.perf_counter()
            parts = layer.explain(x, quantities, report_progress)
            arrays |= {f"layers/{name}/{key}": value for key, value in parts.items()}
            failed |= ~np.isfinite(parts["gap"]) | ~np.isfinite(parts["resultant"]).all(
                axis=(1, 2, 3)
            )
            self._add_seconds(name, started)
        if self.lesions:
            started = time.perf_counter()
            arrays["lesion/map"] = self.lesions.maps(pixels)
            failed |= ~np.isfinite(arrays["lesion/map"]).all(axis=(1, 2))
            self._add_seconds("lesion", started)
        for path, array in arrays.items():
            if array.dtype.kind == "f":
                array[failed] = np.nan
            elif path.endswith("/neuron"):
                array[failed] = -1
        arrays["pixels/converged"][failed] = False
        arrays["pixels/failed"] = failed
        return arrays

    def _explain_pixels(
        self, x: np.ndarray, report_progress: Callable[[str, int], None]
    ) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        n, q = len(x), len(self.params.quantities)
        arrays = {"pixels/attribution": np.full((n, q, *x.shape[1:3]), np.nan, np.float32)}
        for key in ("outcome", "baseline_outcome", "gap", "map_error"):
            arrays[f"pixels/{key}"] = np.full((n, q), np.nan, np.float32)
        arrays["pixels/points"] = np.zeros((n, q), np.int32)
        arrays["pixels/converged"] = np.zeros((n, q), bool)
        baseline = np.zeros(x.shape[1:], np.float32)  # half-gray carries no information (METHOD §4)
        for image in attributions(self.pixels, self.quantities, x, baseline, self.pixel_refinement):
            numbers: dict[str, Any] = {
                "attribution": image.values.sum(axis=-1),
                "outcome": image.refinement.outcome,
                "baseline_outcome": image.refinement.baseline_outcome,
                "gap": image.gap,
                "map_error": image.map_error,
                "points": image.refinement.gradients,
                "converged": image.refinement.converged,
            }
            for key, value in numbers.items():
                arrays[f"pixels/{key}"][image.index] = value
            report_progress("pixels", image.index)
        self._add_seconds("pixels", started)
        return arrays

    def _layer_quantities(self, x: np.ndarray) -> list[QuantityMap]:
        """Each image's outcome for the layers."""
        if self.params.layer_quantity != "predicted":
            return [stage_quantities((self.params.layer_quantity,), self.stages)] * len(x)
        predicted = np.nan_to_num(self.pixels.values(x)).argmax(axis=1)
        return [stage_quantities((f"stage{stage}",), self.stages) for stage in predicted]

    def _add_seconds(self, part: str, started: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


class _Layer:
    """One cut of the network: outcome → units, units → pixels, many units → pixels."""

    def __init__(self, explainer: Explainer, name: str, batch: int) -> None:
        self.name, self.params = name, explainer.params
        self.refinement = explainer.layer_refinement
        self.lower, upper = split_at(explainer.logits, name)
        self.units = tuple(int(n) for n in self.lower.outputs[0].shape[1:])
        self.activations = Evaluator(flat_activations(self.lower), batch)
        self.upper = Evaluator(_inference(upper), batch)
        self.sums = Evaluator(weighted_sums(self.lower), batch)
        self.neurons = NeuronEngine(self.lower, batch)

    def explain(
        self,
        x: np.ndarray,
        quantities: list[QuantityMap],
        report_progress: Callable[[str, int], None],
    ) -> dict[str, np.ndarray]:
        n, k, baseline = len(x), self.params.neurons, np.zeros(x.shape[1:], np.float32)
        h0 = self.activations.values(baseline[None]).reshape(self.units)
        h = self.activations.values(x).reshape(n, *self.units)
        arrays = {
            "neuron": np.full((n, 2, k, len(self.units)), -1, np.int16),
            "channel_attribution": np.full((n, self.units[-1]), np.nan, np.float32),
            "gap": np.full(n, np.nan, np.float32),
            "points": np.zeros(n, np.int32),
        }
        for key in ("neuron_attribution", "activation", "baseline_activation"):
            arrays[key] = np.full((n, 2, k), np.nan, np.float32)
        weights = np.zeros((n, 2, int(np.prod(self.units))), np.float32)
        for image in attributions(self.upper, quantities, h, h0, self.refinement):
            self._choose(image, h[image.index], h0, arrays, weights[image.index])
        arrays |= self._regions(x, baseline, arrays["neuron"])
        arrays["resultant"] = self._resultants(x, baseline, weights, report_progress)
        return arrays

    def _choose(
        self,
        attribution: ImageAttribution,
        h: np.ndarray,
        h0: np.ndarray,
        arrays: dict[str, np.ndarray],
        weights: np.ndarray,
    ) -> None:
        """Writes down the strongest neurons of one image, and every weight of its resultant."""
        image, values = attribution.index, attribution.values[0]
        arrays["gap"][image] = attribution.gap[0]
        arrays["points"][image] = attribution.refinement.gradients
        if not np.isfinite(values).all():
            return
        arrays["channel_attribution"][image] = values.reshape(-1, self.units[-1]).sum(
            axis=0, dtype=np.float64
        )
        many = strongest_neurons(values, max(self.params.neurons, self.params.resultant_neurons))
        for sign, neurons in enumerate(many):
            summed = tuple(neurons[: self.params.resultant_neurons].T)
            weights[sign, np.ravel_multi_index(summed, self.units)] = values[summed]
            kept = neurons[: self.params.neurons]
            index = tuple(kept.T)
            arrays["neuron"][image, sign, : len(kept)] = kept
            for key, array in (
                ("neuron_attribution", values),
                ("activation", h),
                ("baseline_activation", h0),
            ):
                arrays[key][image, sign, : len(kept)] = array[index]

    def _regions(
        self, x: np.ndarray, baseline: np.ndarray, neurons: np.ndarray
    ) -> dict[str, np.ndarray]:
        n, _, k, axes = neurons.shape
        missing = neurons[..., 0] < 0
        indices = np.where(missing[..., None], 0, neurons).reshape(n, 2 * k, axes)
        most, tolerance = self.params.neuron_points, self.params.tolerance or None
        points = most if tolerance is None else -(-most // NEURON_START)
        regions = self.neurons.regions(
            x,
            baseline,
            list(indices),
            points=points,
            rule=self.params.rule,
            tolerance=tolerance,
            max_points=most,
        )
        side = regions.values.shape[2:4]
        values = regions.values.sum(axis=-1).reshape(n, 2, k, *side)
        gap = regions.gap.reshape(n, 2, k).astype(np.float32)
        origin = regions.origin.reshape(n, 2, k, 2).astype(np.int16)
        values[missing], gap[missing], origin[missing] = np.nan, np.nan, -1
        return {"region": values, "region_origin": origin, "neuron_gap": gap}

    def _resultants(
        self, x: np.ndarray, baseline: np.ndarray, weights: np.ndarray, report_progress: Callable
    ) -> np.ndarray:
        maps = np.full((len(x), 2, *x.shape[1:3]), np.nan, np.float32)
        for image in attributions(
            self.sums, identity_quantities(2), x, baseline, self.refinement, extras=(weights,)
        ):
            maps[image.index] = image.values.sum(axis=-1)
            report_progress(self.name, image.index)
        return maps


def suggested_batch_size(model: "keras.Model", free_bytes: int | None = None) -> int:
    """The largest power of two, 4 on processors and 32 elsewhere at most, whose passes take at most
    a quarter of the free memory.

    Twice the outputs of all layers is an upper estimate: with four backward passes TensorFlow takes
    0.7 times them (Inception V3 at 256 px: 60 MB an image). The shape of a batch may touch the last
    bits of a result; fix `batch_size` where runs on different machines must agree to the bit.
    """
    free = backend.free_memory_bytes() if free_bytes is None else free_bytes
    numbers = sum(
        int(np.prod([n or 1 for n in out.shape[1:]]))
        for _, _, outputs in calls(model)
        for out in outputs
    )
    rows = free / 4 / (numbers * 4 * 2)
    batch = 1
    largest = LARGEST_BATCH.get(backend.device(), LARGEST_BATCH_ELSEWHERE)
    while batch * 2 <= min(rows, largest):
        batch *= 2
    return batch


def _inference(network: "keras.Model") -> Callable:
    return lambda x: network(x, training=False)
