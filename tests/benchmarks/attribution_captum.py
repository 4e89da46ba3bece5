"""The other side of the attribution benchmark: Captum on Keras' torch backend with the same
weights.

Keras keeps a kernel as (y, x, in, out) whatever the data format, so the network in "channels first"
has the very same arrays. Which layout is quickest in PyTorch is measured, not assumed
(`calibrate`).
"""

import time
import warnings
from typing import Any

import attribution_sides
import numpy as np

from dr_lib.network import backend
from dr_lib.network.graph import calls
from dr_lib.network.model import ModelParams, build, scaled

LAYOUTS = ("channels last", "channels first", "channels first, strided last")
BATCHES = (8, 16, 32)


class Side:
    """One model in PyTorch; `calibrate` chooses its layout and Captum's internal batch size."""

    def __init__(self, model: dict[str, Any], weights: str | None, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        backend.name = lambda: "torch"  # which the product refuses
        last = build(ModelParams(**model))
        if weights:
            last.load_weights(weights)
        last.trainable = False
        first = channels_first(last)
        first.trainable = False
        self.models = dict(zip(LAYOUTS, (last, first, first), strict=True))
        self.layout, self.batch = LAYOUTS[1], BATCHES[1]

    def describe(self) -> dict[str, Any]:
        import captum
        import keras
        import torch

        versions = (
            f"Captum {captum.__version__}, PyTorch {torch.__version__}, Keras {keras.__version__}"
            f" on {keras.backend.backend()}"
        )
        return {"versions": versions, "threads": torch.get_num_threads()}

    def calibrate(self, pixels: np.ndarray, points: int) -> dict[str, Any]:
        """Seconds a point of IntegratedGradients in every layout and internal batch; the
        quickest is used from now on.
        """
        table = {}
        for layout in LAYOUTS:
            for batch in BATCHES:
                self.layout, self.batch = layout, batch
                self.pixels(pixels, 0, batch, "gausslegendre")
                count = max(points // batch, 1) * batch
                table[layout, batch] = (
                    self.pixels(pixels, 0, count, "gausslegendre")["seconds"] / count
                )
        self.layout, self.batch = min(table, key=table.get)
        return {
            "table": table,
            "layout": self.layout,
            "batch": self.batch,
            "gradient": min(table.values()),
        }

    def outputs(self, pixels: np.ndarray) -> np.ndarray:
        """The stages' probabilities."""
        import torch

        with torch.no_grad():
            return np.concatenate([self._model(self._tensor(one[None])).numpy() for one in pixels])

    def pixels(
        self, pixels: np.ndarray, stage: int, points: int, rule: str, whole_batch: bool = False
    ) -> dict[str, Any]:
        """One stage on one eye's pixels: seconds, the relative gap's two numbers, the map (y, x,
        3).
        """
        from captum.attr import IntegratedGradients

        x = self._tensor(pixels)
        engine = IntegratedGradients(self._model)
        started = time.perf_counter()
        with _no_advice():
            found = engine.attribute(
                x,
                x * 0,
                target=stage,
                n_steps=points,
                method=rule,
                internal_batch_size=None if whole_batch else self.batch,
            )
        seconds = time.perf_counter() - started
        outcome, baseline = self._model(x)[0, stage].item(), self._model(x * 0)[0, stage].item()
        values = self._array(found)[0]
        return {
            "seconds": seconds,
            "change": outcome - baseline,
            "gap": float(values.sum(dtype=np.float64)) - (outcome - baseline),
            "values": values,
        }

    def neuron(
        self,
        pixels: np.ndarray,
        layer: str,
        neuron: tuple[int, int, int],
        points: int,
        lower_only: bool,
    ) -> dict[str, Any]:
        """One unit (y, x, channel) on one eye's pixels by midpoints, with the whole network or
        only what lies below.
        """
        from captum.attr import NeuronIntegratedGradients

        x = self._tensor(pixels)
        place = self._model.get_layer(layer)
        engine = NeuronIntegratedGradients(self._lower(layer) if lower_only else self._model, place)
        y, column, channel = (int(n) for n in neuron)
        selector = (y, column, channel) if self.layout == LAYOUTS[0] else (channel, y, column)
        started = time.perf_counter()
        with _no_advice():
            found = engine.attribute(
                x,
                selector,
                x * 0,
                n_steps=points,
                method="riemann_middle",
                internal_batch_size=self.batch,
            )
        return {"seconds": time.perf_counter() - started, "values": self._array(found)[0]}

    def layer(self, pixels: np.ndarray, layer: str, stage: int, points: int) -> dict[str, Any]:
        """One stage on the units of a layer by midpoints."""
        from captum.attr import LayerIntegratedGradients

        x = self._tensor(pixels)
        engine = LayerIntegratedGradients(self._model, self._model.get_layer(layer))
        started = time.perf_counter()
        with _no_advice():
            found = engine.attribute(
                x,
                x * 0,
                target=stage,
                n_steps=points,
                method="riemann_middle",
                internal_batch_size=self.batch,
            )
        return {"seconds": time.perf_counter() - started, "values": self._array(found)[0]}

    def peak(self, pixels: np.ndarray, points: int, whole_batch: bool) -> dict[str, int]:
        """The most memory this process has held, before and after one map with so many points."""
        before = attribution_sides.peak_memory_bytes()
        self.pixels(pixels, 0, points, "gausslegendre", whole_batch)
        return {"before": before, "peak": attribution_sides.peak_memory_bytes()}

    @property
    def _model(self) -> Any:
        return self.models[self.layout]

    def _lower(self, layer: str) -> Any:
        import keras

        return keras.Model(self._model.inputs[0], self._model.get_layer(layer).output)

    def _tensor(self, pixels: np.ndarray) -> Any:
        import torch

        x = torch.from_numpy(scaled(pixels))
        if self.layout == LAYOUTS[0]:
            return x
        x = x.permute(0, 3, 1, 2)
        return x.contiguous(
            memory_format=(
                torch.channels_last if self.layout == LAYOUTS[2] else torch.contiguous_format
            )
        )

    def _array(self, tensor: Any) -> np.ndarray:
        found = tensor.detach()
        if found.ndim == 4 and self.layout != LAYOUTS[0]:
            found = found.permute(0, 2, 3, 1)
        return found.contiguous().numpy()


def channels_first(model: Any) -> Any:
    """The same network on (n, channel, y, x), each layer made anew from its configuration with
    the same weights.
    """
    import keras

    size = model.inputs[0].shape
    inputs = keras.Input((size[3], size[1], size[2]), name="fundus_first")
    tensors = {id(model.inputs[0]): inputs}
    for layer, sources, outputs in calls(model):
        if not sources:
            continue
        config = layer.get_config()
        if "data_format" in config:
            config["data_format"] = "channels_first"
        if (
            type(layer).__name__ in ("BatchNormalization", "Concatenate")
            and len(sources[0].shape) == 4
        ):
            config["axis"] = 1
        twin = type(layer).from_config(config)
        arguments = [tensors[id(source)] for source in sources]
        tensors[id(outputs[0])] = twin(arguments[0] if len(arguments) == 1 else arguments)
        twin.set_weights(layer.get_weights())
    return keras.Model(inputs, tensors[id(model.outputs[0])], name=f"{model.name}_first")


def _no_advice() -> Any:
    return warnings.catch_warnings(action="ignore")
