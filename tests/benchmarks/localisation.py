"""How well each map finds lesions, beside baseline maps: the tables of docs/localisation.md.

    python -m tests.benchmarks.localisation OUT.csv WEIGHTS.weights.h5 [MORE.weights.h5 …] --photos
    FOLDER --masks FOLDER
        [--ids IDS.txt] [--limit N] [--layers stem mixed2] [--resultant 2000] [--overlays FOLDER]

Photographs `<id>.jpg|jpeg|png`, and their masks in any layout that `dr aggregate` reads. Inception V3 with dense
layers of --dense units at --size px. Every map is smoothed with each of --sigma and judged by every
measure; a row says with which. With several networks their lesion maps are averaged too, as
`lesion_of_all`. One row is an eye's patient: the id up to its last underscore where it ends in left
or right, else the whole id.
"""

import argparse
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.explain import Explainer
from dr_lib.fundus import PreprocessParams, UngradablePhoto, normalise
from dr_lib.localisation import Judge, LocalisationParams, lesion_masks, score_rows
from dr_lib.localisation.baseline_maps import BaselineMaps
from dr_lib.localisation.scores import peaks
from dr_lib.maps import smoothed
from dr_lib.network.model import ModelParams, build
from storage.photos.masks import find_masks
from tasks.access.masks import read_planes

QUANTITY = "referable"
SHOWN = ("pixel_auc", "average_precision", "pointing_game", "precision", "recall", "froc", "energy")
OVERLAY_SCALE = 3


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    eyes = list(_eyes(args))
    print(f"{len(eyes)} eyes with lesions", flush=True)
    found: list[dict[str, np.ndarray]] = [{} for _ in eyes]
    lesion: list[list[np.ndarray]] = [[] for _ in eyes]
    for weights in args.weights:
        maps_of = _engine(weights, args)
        prefix = "" if len(args.weights) == 1 else f"{args.weights.index(weights) + 1}:"
        for number, eye in enumerate(eyes):
            maps = maps_of(eye["pixels"])
            lesion[number].append(maps["lesion"])
            found[number] |= {f"{prefix}{name}": values for name, values in maps.items()}
            print(f"{eye['id']} {time.perf_counter() - started:.0f} s", flush=True)
    if len(args.weights) > 1:
        for maps, several in zip(found, lesion, strict=True):
            maps["lesion_of_all"] = np.mean([one / one.mean() for one in several], axis=0)
    table = _judged(eyes, found, args)
    table.to_csv(args.out, index=False)
    print(_shown(table).to_string())
    if args.overlays:
        _overlays(eyes, found, args)


def _engine(weights: str, args: argparse.Namespace) -> Any:
    """pixels (y, x, 3) -> every map by name, from the product's own engine and baseline maps; says what
    each part took.
    """
    model = build(ModelParams("inception_v3", "none", tuple(args.dense), args.size))
    model.load_weights(weights)
    model.trainable = False
    fixed = {
        "tolerance": 0.0,
        "points": args.points,
        "layer_points": args.points,
        "neurons": 1,
        "batch_size": 4,
    }
    layers = tuple(args.layers)
    explainer = Explainer(
        model,
        AttributionParams(
            (QUANTITY,),
            layers,
            QUANTITY,
            resultant_neurons=args.resultant,
            lesion_poses=args.poses,
            **fixed,
        ),
    )
    baseline_maps = BaselineMaps(model, QUANTITY, args.cams)

    def maps_of(pixels: np.ndarray) -> dict[str, np.ndarray]:
        arrays = explainer.explain(pixels[None])
        maps = {"lesion": arrays["lesion/map"][0], "plain_ig": arrays["pixels/attribution"][0, 0]}
        maps |= {f"{name}_resultant": arrays[f"layers/{name}/resultant"][0, 0] for name in layers}
        print(
            {name: round(seconds, 1) for name, seconds in explainer.seconds.items()},
            "s so far",
            flush=True,
        )
        return maps | baseline_maps.maps(pixels, crop=PreprocessParams.crop)

    return maps_of


def _eyes(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    wanted = pathlib.Path(args.ids).read_text().split() if args.ids else None
    params = PreprocessParams(size=args.size)
    photos = [
        path
        for path in sorted(pathlib.Path(args.photos).iterdir())
        if path.suffix in (".jpg", ".jpeg", ".png")
    ]
    photos = [path for path in photos if wanted is None or path.stem in wanted]
    masked = find_masks(args.masks, {path.stem: path.name for path in photos}).files
    for path in photos[: args.limit or None]:
        data = path.read_bytes()
        if path.stem not in masked:
            continue
        try:
            fundus = normalise(data, params)
        except UngradablePhoto as problem:
            print(f"{path.stem}: {problem}")
            continue
        size = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        masks = lesion_masks(
            read_planes(masked[path.stem]), fundus.disc, size, fundus.pixels, params
        )
        if masks.kinds:
            yield {"id": path.stem, "pixels": fundus.pixels, "masks": masks}


def _judged(eyes: list[dict], found: list[dict], args: argparse.Namespace) -> pd.DataFrame:
    params = LocalisationParams()
    judges = [Judge(eye["masks"], params) for eye in eyes]
    patients = [eye["id"].removesuffix("_left").removesuffix("_right") for eye in eyes]
    rows = []
    for name in found[0]:
        for sigma in args.sigma:
            scores = [
                judge.scores(smoothed(maps[name], sigma))
                for judge, maps in zip(judges, found, strict=True)
            ]
            rows += [
                {"map": name, "sigma_px": sigma, **row}
                for row in score_rows(scores, patients, params)
            ]
    return pd.DataFrame(rows)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Each map at the σ of its best pixel AUC, all lesions together: the measures side by side."""
    every = table[table["lesion"] == "any"]
    auc = every[every["metric"] == "pixel_auc"].set_index(["map", "sigma_px"])["value"]
    best = auc.groupby("map").idxmax()
    rows = {}
    for name, place in best.items():
        one = (
            every[(every["map"] == name) & (every["sigma_px"] == place[1])]
            .set_index("metric")
            .reindex(SHOWN)
        )
        words = {
            m: (
                f"{one['value'][m]:.3f} ({one['low'][m]:.3f}–{one['high'][m]:.3f})"
                f" {one['chance'][m]:.3f}"
            )
            for m in SHOWN
        }
        rows[name] = {"sigma": place[1], **words}
    return pd.DataFrame(rows).T.sort_values("pixel_auc", ascending=False)


def _overlays(eyes: list[dict], found: list[dict], args: argparse.Namespace) -> None:
    """The fundus with its true lesions outlined in white, beside the map in green with its ten
    strongest peaks ringed.
    """
    folder = pathlib.Path(args.overlays)
    folder.mkdir(parents=True, exist_ok=True)
    name = "lesion_of_all" if "lesion_of_all" in found[0] else "lesion"
    for eye, maps in zip(eyes, found, strict=True):
        masks, values = eye["masks"], smoothed(maps[name], 1.0)
        strength = np.clip(values / np.percentile(values[masks.inside], 99.5), 0, 1)
        gray = cv2.cvtColor(eye["pixels"], cv2.COLOR_RGB2GRAY).astype(np.float32)
        heat = np.stack(
            [gray * (1 - strength), gray * (1 - strength) + 255 * strength, gray * (1 - strength)],
            axis=-1,
        )
        panels = []
        for image in (eye["pixels"], heat.astype(np.uint8)):
            large = cv2.resize(
                image, None, fx=OVERLAY_SCALE, fy=OVERLAY_SCALE, interpolation=cv2.INTER_CUBIC
            )
            outline = cv2.resize(
                masks.any.astype(np.uint8), large.shape[1::-1], interpolation=cv2.INTER_NEAREST
            )
            contours, _ = cv2.findContours(outline, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            panels.append(
                cv2.drawContours(np.ascontiguousarray(large), contours, -1, (255, 255, 255), 1)
            )
        for y, x in peaks(values.astype(np.float64), masks.inside, 3.0)[:10]:
            centre = (int((x + 0.5) * OVERLAY_SCALE), int((y + 0.5) * OVERLAY_SCALE))
            cv2.circle(panels[1], centre, 4 * OVERLAY_SCALE, (255, 255, 0), 1, cv2.LINE_AA)
        cv2.imwrite(str(folder / f"{eye['id']}.png"), np.hstack(panels)[..., ::-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--photos", required=True)
    parser.add_argument("--masks", required=True)
    parser.add_argument("--ids", help="file of the ids to take")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dense", type=int, nargs="*", default=[256, 64])
    parser.add_argument("--layers", nargs="*", default=["stem", "mixed2"])
    parser.add_argument("--cams", nargs="*", default=["mixed2", "mixed5", "mixed7", "mixed10"])
    parser.add_argument("--resultant", type=int, default=2000)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--poses", type=int, default=8)
    parser.add_argument("--sigma", type=float, nargs="*", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--overlays", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
