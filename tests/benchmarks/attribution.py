"""How fast and how exact explanations are, beside Captum's in one run: `attribution.py WORKSPACE`
or `attribution.py --quick`.

Ours runs on TensorFlow, Captum on Keras' torch backend with the same weights in the layout that is
quickest there (`pip install -c constraints.txt -e '.[bench]'`); without Captum its columns stay
empty. Each side is a process of its own with the same number of threads, and they take turns, so
that each has the machine to itself. A pass is one forward or one backward of the whole network for
one image: a gradient counts 2, four gradients that share a forward count 5.

neurons  a layer's units at 50 points: ours on receptive-field windows, Captum's
NeuronIntegratedGradients pixels   five stages at a 5 % gap: ours adaptive; uniform midpoints and
Captum's Gauss–Legendre, each stage at the
         smallest number of points of a ladder whose gap holds (found from slopes along the line,
         then run)
layer    one stage on a layer's units at equal points: ours above the layer only, Captum's
LayerIntegratedGradients eye      one eye's complete explanation: seconds, shares, part of the
processor's matrix rate share    how many eyes converge within 256 points, as probability and as
logit memory   the peak of fresh processes at 50 and at 1,000 points
"""

import argparse
import dataclasses
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from attribution_parts import HEADLINES, PARTS, Bench, our_side
from attribution_sides import SideFailed

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.quick:
        model, weights, eyes = quick_material(options)
    else:
        model, weights, eyes = workspace_material(options)
    bench = Bench(options, model, weights, eyes)
    started = time.perf_counter()
    try:
        bench.introduce()
        for part in options.parts:
            begin = time.perf_counter()
            print(f"\n== {part}: {HEADLINES[part]}", flush=True)
            try:
                getattr(bench, part)()
            except Exception as failure:
                # The other parts are worth having, perhaps after half an hour: this one's reason,
                # and on.
                story = failure.story if isinstance(failure, SideFailed) else traceback.format_exc()
                print(f"FAILED: {failure}\n{story}", flush=True)
                bench.failed = True
            print(f"({time.perf_counter() - begin:.0f} s)", flush=True)
        bench.summarise()
    finally:
        bench.close()
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    return int(bench.failed)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options; --quick makes everything small where nothing else is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workspace", nargs="?", help="a workspace with normalised fundi and a trained model"
    )
    parser.add_argument("--model-id", default="latest")
    parser.add_argument(
        "--weights",
        type=Path,
        help=(
            "a .weights.h5 file of an Inception V3 with dense layers 256, 64 on the workspace's"
            " eyes, instead of its model"
        ),
    )
    parser.add_argument(
        "--split",
        default="test",
        help="which eyes (default test), taken from all true stages in turn",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"any of {' '.join(PARTS)} (default all)",
    )
    parser.add_argument("--eyes", type=int, help="eyes of the parts that compare (default 8)")
    parser.add_argument("--share-eyes", type=int, help="eyes of the part `share` (default 50)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--layer", default="stem", help="the layer of the parts neurons, layer and memory"
    )
    parser.add_argument(
        "--layers", nargs="+", default=("stem", "mixed2", "fc1"), help="the layers of the part eye"
    )
    parser.add_argument(
        "--points", type=int, help="points of the parts neurons and layer (default 50)"
    )
    parser.add_argument(
        "--neurons", type=int, help="neurons of each of two eyes on our side (default 64)"
    )
    parser.add_argument(
        "--captum-neurons", type=int, help="neurons of the first eye on Captum's side (default 4)"
    )
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument(
        "--floor",
        type=float,
        default=0.01,
        help="changes of a probability below this are judged as if they were this (default 0.01)",
    )
    parser.add_argument("--max-points", type=int, default=256, help="of the part share")
    parser.add_argument(
        "--longest", type=int, help="the ladder's last number of points (default 512)"
    )
    parser.add_argument(
        "--reference",
        type=int,
        help="midpoints of the map against which maps are held (default 512)",
    )
    parser.add_argument(
        "--reference-eyes", type=int, default=1, help="for so many eyes (default 1)"
    )
    parser.add_argument("--memory-points", type=int, nargs=2, help="default 50 1000")
    parser.add_argument(
        "--steady",
        action="store_true",
        help="pixels: run the whole ladder to see from which n on the gap holds",
    )
    parser.add_argument("--without-captum", action="store_true")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run: the small network with random weights, two drawn eyes of 64 px",
    )
    options = parser.parse_args(arguments)
    full = {
        "eyes": 8,
        "share_eyes": 50,
        "points": 50,
        "neurons": 64,
        "captum_neurons": 4,
        "longest": 512,
        "reference": 512,
        "memory_points": (50, 1000),
    }
    quick = {
        "eyes": 2,
        "share_eyes": 2,
        "points": 8,
        "neurons": 4,
        "captum_neurons": 2,
        "longest": 64,
        "reference": 64,
        "memory_points": (10, 60),
    }
    for key, value in (quick if options.quick else full).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if not options.quick and options.workspace is None:
        parser.error("give a workspace, or --quick")
    if (
        options.eyes < 1
        or options.share_eyes < 1
        or options.captum_neurons < 1
        or options.neurons < options.captum_neurons
    ):
        parser.error(
            "eyes and neurons must be at least 1, and ours at least as many neurons as Captum's"
        )
    return options


def quick_material(options: argparse.Namespace) -> tuple[dict, str, list[tuple[str, np.ndarray]]]:
    """The small network and drawn discs: nothing to learn from, everything to go wrong."""
    size, random = 64, np.random.default_rng(0)
    y, x = (
        (np.arange(size) - (size - 1) / 2) / (size / 2),
        (np.arange(size)[:, None] - (size - 1) / 2) / (size / 2),
    )
    inside = np.hypot(y, x) < 0.9
    eyes = []
    for number in range(max(options.eyes, options.share_eyes)):
        pixels = np.where(inside[..., None], random.integers(60, 200, (size, size, 3)), 128).astype(
            np.uint8
        )
        eyes.append((f"drawn{number}", pixels))
    model = {"backbone": "small", "backbone_weights": "none", "dense": (16, 8), "input_size": size}
    # Both sides must have the same random weights; and untouched ones hardly move a probability.
    weights = str(Path(tempfile.mkdtemp()) / "quick.weights.h5")
    side = our_side(options, model, None)
    side.ask("save_weights", path=weights, scale=30.0)
    side.close()
    return model, weights, eyes


def workspace_material(
    options: argparse.Namespace,
) -> tuple[dict, str, list[tuple[str, np.ndarray]]]:
    """The workspace's model and enough of its fundi, all true stages in turn. Exits with one
    line where it can't.
    """
    from dr_lib.network.model import ModelParams
    from storage import open_workspace
    from storage.contents.models import load_record, local_weights
    from tasks.execution.worker import model_params

    try:
        workspace = open_workspace(options.workspace)
        photos, fundus = workspace.photos(), workspace.fundus()
        if options.weights:
            params, weights = (
                ModelParams(backbone_weights="none"),
                options.weights.resolve(strict=True),
            )
        else:
            params = model_params(load_record(workspace.files, options.model_id))
            weights = local_weights(workspace.files, options.model_id)
    except (OSError, ValueError) as error:
        sys.exit(f"attribution.py: {error}")
    ready = set(fundus["image_id"].values[fundus["status"].values == 1].tolist())
    chosen = photos[photos["image_id"].isin(ready) & (photos["split"] == options.split)].copy()
    if chosen.empty:
        sys.exit(
            f"attribution.py: {options.workspace} has no normalised fundus of the split"
            f" {options.split!r}"
        )
    # All stages in turn: a share of 74 % healthy eyes would hide what the sick ones cost.
    chosen["turn"] = chosen.groupby("stage").cumcount()
    names = (
        chosen.sort_values(["turn", "stage", "image_id"])["image_id"]
        .head(max(options.eyes, options.share_eyes))
        .tolist()
    )
    pixels = fundus["pixels"].sel(image_id=names).values
    return dataclasses.asdict(params), str(weights), list(zip(names, pixels, strict=True))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
