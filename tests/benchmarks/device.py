"""What this device does: `device.py WORKSPACE [--json FILE]`, or `device.py --quick`.

WORKSPACE has fundi and a trained model; it is only read. All numbers are from one run on the device
that the framework chooses (KERAS_BACKEND says which framework):

- explanations: seconds of every part of a complete eye, several eyes together; the gradients a
  second in it, the same compiled by themselves (full batches, data on the device, nothing comes
  back), and the share of that bare rate that the engine reaches;
- training: seconds of a mini-batch, and the share that waits for pixels;
- Captum's five stages and stem neurons, where PyTorch is installed (it takes a GPU if it sees one);
- the hours that Kaggle's 53,576 test eyes would take.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import attribution
import numpy as np
from attribution_meters import bare_seconds, counted, evaluators
from attribution_sides import Side, SideFailed
from training import LEFT_OUT, Timer

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.explain import Explainer
from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build
from dr_lib.training import TrainingParams, train

KAGGLE_EYES = 53_576
# Points at which Captum's gap of five stages of a real eye is within 5 % (median).
CAPTUM_POINTS = 38


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    backend.configure(threads=options.threads if backend.device() == "CPU" else None)
    material = attribution.quick_material if options.quick else attribution.workspace_material
    architecture, weights, eyes = material(options)
    pixels = np.stack([image for _, image in eyes[: options.eyes]])
    model = build(ModelParams(**architecture))
    model.load_weights(weights)
    found: dict[str, Any] = {"device": backend.device(), "precision": precision()}
    print(f"{found['device']}, {backend.name()}, {found['precision']}; {len(pixels)} eyes together")
    found["parts"] = explanations(model, pixels, tuple(options.layers))
    found["eye_seconds"] = found["parts"]["complete eye"]["seconds"]
    found["hours_for_kaggle"] = found["eye_seconds"] * KAGGLE_EYES / 3600
    print(f"{KAGGLE_EYES:,} eyes: {found['hours_for_kaggle']:,.0f} h", flush=True)
    found["training"] = training(model, pixels, options.steps)
    if not options.without_captum and all(map(importlib.util.find_spec, ("torch", "captum"))):
        found["captum"] = captum(architecture, weights, pixels, options.threads)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", nargs="?")
    parser.add_argument("--model-id", default="latest")
    parser.add_argument("--split", default="test")
    parser.add_argument("--eyes", type=int, default=8)
    parser.add_argument("--layers", nargs="+", default=("stem", "mixed2", "fc1"))
    parser.add_argument("--steps", type=int, default=20, help="mini-batches of training")
    parser.add_argument("--threads", type=int, default=2, help="of a processor")
    parser.add_argument("--without-captum", action="store_true")
    parser.add_argument("--json", type=Path, help="writes the numbers to this file, too")
    parser.add_argument(
        "--quick", action="store_true", help="the small network and drawn eyes: whether it runs"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.layers = ("stem", "fc1")
    elif options.workspace is None:
        parser.error("give a workspace, or --quick")
    options.weights, options.share_eyes, options.floor, options.tolerance = None, 0, 0.01, 0.05
    return options


def precision() -> str:
    """How many digits a product of matrices keeps: "float32", or "TF32" where it keeps three."""
    from keras import ops

    random = np.random.default_rng(0)
    a, b = (random.normal(size=(512, 512)).astype(np.float32) for _ in range(2))
    product = np.asarray(ops.matmul(backend.tensor(a), backend.tensor(b)))
    exact = a.astype(np.float64) @ b
    return "float32" if np.abs(product - exact).max() < 1e-4 * np.abs(exact).max() else "TF32"


def explanations(
    model: Any, pixels: np.ndarray, layers: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Of each part of a complete eye: seconds an eye, gradients a second in it and by themselves,
    and the part's share of the bare rate. A row without gradients counts as a forward pass.
    """
    explainer = Explainer(model, AttributionParams(layers=layers))
    explainer.explain(pixels[:1])
    explainer.seconds.clear()
    with counted() as rows:
        started = time.perf_counter()
        explainer.explain(pixels)
        whole = time.perf_counter() - started
    parts = {
        part: {"seconds": seconds / len(pixels), "gradients": 0.0, "bare": 0.0}
        for part, seconds in explainer.seconds.items()
    }
    for path, evaluator in evaluators(explainer):
        part = {"layers": path[1:2], "lesions": ("lesion",)}.get(path[0], path)[0]
        row = parts[part]
        for width, (count, *arguments) in rows.get(id(evaluator), {}).items():
            row["gradients"] += count * width / len(pixels)
            row["bare"] += count * bare_seconds(evaluator, width, *arguments) / len(pixels)
    total = {key: sum(row[key] for row in parts.values()) for key in ("gradients", "bare")}
    parts["complete eye"] = {"seconds": whole / len(pixels)} | total
    print(f"{'':<14}{'s an eye':>10}{'gradients':>11}{'a second':>10}{'bare':>8}{'share':>8}")
    for part, row in parts.items():
        row |= {
            "rate": row["gradients"] / row["seconds"],
            "bare_rate": row["gradients"] / row["bare"],
            "share": row["bare"] / row["seconds"],
        }
        print(
            f"{part:<14}{row['seconds']:>10.2f}{row['gradients']:>11.0f}{row['rate']:>10.1f}"
            f"{row['bare_rate']:>8.1f}{row['share']:>8.0%}",
            flush=True,
        )
    return parts


def training(model: Any, pixels: np.ndarray, steps: int) -> dict[str, float]:
    """Seconds of a mini-batch of 16 and the share that waits for pixels; the pixels are in memory,
    and are turned and toned as in `dr train`.
    """
    eyes = np.resize(pixels, (40, *pixels.shape[1:]))
    params = TrainingParams(schedule=((steps, 1e-5),), validate_every=10**9, checkpoint_every=10**9)
    timer = Timer()
    timer.begin()
    train(
        model,
        lambda indices: eyes[indices],
        np.arange(len(eyes)) % 5,
        params,
        on_step=lambda report: timer.step(report.waited_s),
    )
    step, waited, _ = zip(*timer.steps, strict=True)
    found = {"seconds": statistics.median(step), "waiting": sum(waited) / sum(step)}
    print(
        f"training: {found['seconds']:.2f} s a mini-batch of {params.batch_size}, of which"
        f" {found['waiting']:.1%} waiting for pixels ({steps - LEFT_OUT} measured)",
        flush=True,
    )
    return found


def captum(
    architecture: dict[str, Any], weights: str, pixels: np.ndarray, threads: int
) -> dict[str, float]:
    """Seconds of Captum's five stages of an eye, and of one neuron of the stem at 50 points."""
    setup = {"model": architecture, "weights": weights, "threads": threads}
    side = Side("attribution_captum", {"KERAS_BACKEND": "torch"}, setup)
    try:
        side.ask("calibrate", pixels=pixels[:1], points=16)
        arguments = {"pixels": pixels[:1], "points": CAPTUM_POINTS, "rule": "gausslegendre"}
        stages = [side.ask("pixels", stage=stage, **arguments)["seconds"] for stage in range(5)]
        arguments = {"layer": "stem", "neuron": (10, 10, 0), "points": 50, "lower_only": False}
        neuron = side.ask("neuron", pixels=pixels[:1], **arguments)["seconds"]
    except SideFailed as failure:
        print(f"Captum is left out: {failure}\n{failure.story}")
        return {}
    finally:
        side.close()
    found = {"five_stages_seconds": sum(stages), "stem_neuron_seconds": neuron}
    print(
        f"Captum: five stages at {CAPTUM_POINTS} points {sum(stages):.1f} s, one neuron of the stem"
        f" at 50 points {neuron:.2f} s"
    )
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(attribution.ROOT))
    sys.exit(main())
