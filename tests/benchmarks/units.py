"""What the atlas of units costs for a data set of any size: minutes, memory, megabytes; and how soon
its index is there, and a filter, in headless Chromium, opened from disk.

python tests/benchmarks/units.py [--eyes 53576] [--runs 5] [--keep FOLDER]

Made-up contributions, and windows of a few drawn eyes, through the real sums and the real writer of
pages. Exits with 1 where a limit is missed.
"""

import argparse
import collections
import pathlib
import resource
import statistics
import sys
import tempfile
import time

import numpy as np
import pandas as pd

from dr_lib.attribution.receptive import ReceptiveField
from dr_lib.drawing.figures import jpeg
from dr_lib.fundus import PreprocessParams, normalise
from dr_lib.localisation.unit_sums import PLACES, UnitSums, example_rows, unit_rows
from dr_lib.report import Head, render
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Section
from dr_lib.report.units import as_fundus, crops, mosaic, mosaic_name, unit_scripts
from dr_lib.synthetic import EyePlan, SynthesisParams, draw
from dr_lib.vocabulary import LESION_TYPES
from tests import chromium

SIZE, SHARD, POOL = 256, 64, 6
# By layer: channels, units along an axis (none: dense), and what a unit sees.
LAYERS = {
    "stem": (192, 60, ReceptiveField((23, 23), (4, 4), (-1, -1))),
    "mixed2": (288, 29, ReceptiveField((143, 143), (8, 8), (-55, -55))),
    "fc1": (256, 0, ReceptiveField((SIZE, SIZE), (1, 1), (0, 0), whole=True)),
}
FIRST_VIEW_S, FILTER_S, MOST_MB = 1.0, 0.3, 100
FILTERS = (
    ("input[name=find]", "haemorrhage AUC over 0.7"),
    ("input[name=find]", "speaks against stage 4, mean over 0"),
    ("input[name=find]", "mixed2 17"),
    ("select[name=verdict]", "reversed"),
    ("select[name=order]", "-mean"),
)


def made_sums(eyes: int) -> tuple[dict[str, UnitSums], pd.DataFrame]:
    """The sums over so many eyes, shard by shard as `dr aggregate` merges them."""
    rng = np.random.default_rng(1)
    stage, graded = rng.choice(5, (2, eyes), p=[0.73, 0.07, 0.15, 0.03, 0.02])
    rows = {"row": np.arange(eyes), "stage": stage, "predicted_stage": graded}
    frame = pd.DataFrame(rows)
    leaning = {layer: rng.normal(size=(5, count)) for layer, (count, *_) in LAYERS.items()}
    sums: dict[str, UnitSums] = {}
    for start in range(0, eyes, SHARD):
        some = frame.iloc[start : start + SHARD]
        for layer, (count, side, _) in LAYERS.items():
            shape = (len(some), count)
            means = leaning[layer][some["predicted_stage"]]
            own = UnitSums.of(
                ((means + rng.normal(size=shape)) * 3e-3).astype(np.float32),
                rng.gamma(1, 1, shape).astype(np.float32),
                rng.integers(0, side, (*shape, 2, 2)) if side else np.full((*shape, 2, 2), -1),
                np.full((*shape, len(PLACES)), -1, np.int8)
                if not side
                else rng.integers(0, 2, (*shape, len(PLACES)), np.int8),
                some,
            )
            sums[layer] = sums[layer].merged(own) if layer in sums else own
    return sums, frame


def pool() -> list[list[np.ndarray]]:
    """A few drawn eyes: fundus, and photograph in its geometry."""
    pictures = []
    for patient in range(POOL):
        params = SynthesisParams(seed=7, smallest_px=900, largest_px=1200)
        photo = draw(EyePlan(patient, "left", patient % 5), params).photo
        fundus = normalise(jpeg(photo, 92), PreprocessParams(size=SIZE))
        pictures.append([fundus.pixels, as_fundus(photo, fundus.disc)])
    return pictures


def write(folder: pathlib.Path, sums: dict[str, UnitSums], eyes: pd.DataFrame) -> dict[str, float]:
    """A report of these units; returns the seconds that its parts took."""
    rng, seconds = np.random.default_rng(2), {}
    started = time.perf_counter()
    units = pd.concat([unit_rows(layer, own) for layer, own in sums.items()], ignore_index=True)
    examples = pd.concat(
        [example_rows(layer, own, LAYERS[layer][2], SIZE) for layer, own in sums.items()]
    ).join(eyes[["stage", "predicted_stage"]], on="row")
    seconds["rows"] = time.perf_counter() - started
    names = [f"{row // 2 + 1}_{('left', 'right')[row % 2]}" for row in examples["row"]]
    examples["image_id"], examples["photo"] = names, True
    examples["key"] = [
        f"{row // SHARD:05d}/{name}" for row, name in zip(examples["row"], names, strict=True)
    ]
    judged = units["layer"] != "fc1"
    for lesion in LESION_TYPES[:4]:
        units.loc[judged, f"auc_{lesion}"] = rng.beta(8, 7, judged.sum())
    words = ["linear", "reversed", "constant", "nonlinear"]
    units["verdict"] = np.where(judged, None, rng.choice(words, len(units)))
    started, pictures = time.perf_counter(), pool()
    cut: dict = collections.defaultdict(dict)
    window = [f"window_{name}_px" for name in ("top", "left", "height", "width")]
    for row in examples.to_dict("records"):
        seen = [int(row[name]) for name in window]
        name = mosaic_name(row["layer"], row["unit"])
        cut[name][row["kind"], row["rank"]] = crops(pictures[row["row"] % POOL], seen)
    for name, kept in cut.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(mosaic(kept)[0])
    seconds["pictures"] = time.perf_counter() - started
    started, made = time.perf_counter(), Folder()
    for name, script in unit_scripts(units, examples).items():
        made.add(name, script)
    content = Content(
        {
            "units": len(units),
            "layers": [*LAYERS],
            "eyes": len(eyes),
            "verdicts": words,
            "judged": int(judged.sum()),
            "tells": 40,
            "tells_from": 0.7,
            "lesion_names": LESION_TYPES[:4],
        }
    )
    for name, text in render(Head(), [Section("units", "Units", content)], made).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    seconds["pages"] = time.perf_counter() - started
    return seconds


def looked_at(folder: pathlib.Path, runs: int) -> tuple[dict[str, float], list[str]]:
    """Median seconds of the first view and of each filter, and the page's troubles."""
    with chromium.browser() as page:
        page.resize(1280, 900)
        address = (folder / "units.html").as_uri()
        views = [page.first_view_s(address, ".crop img", 18) for _ in range(runs)]
        measured = {"first view": statistics.median(views)}
        for field, value in FILTERS:
            measured[f"filter {value}"] = statistics.median(page.filter_s(field, value, runs))
        return measured, page.troubles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eyes", type=int, default=53_576)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=pathlib.Path, help="a folder to leave the report in")
    options = parser.parse_args()
    started = time.perf_counter()
    sums, eyes = made_sums(options.eyes)
    merging = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or pathlib.Path(temporary)
        seconds = {"sums and merging": merging, **write(folder, sums, eyes)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        count = sum(len(own.strength) for own in sums.values())
        print(f"{options.eyes:,} eyes, {count} units")
        for name, taken in seconds.items():
            print(f"{name:20} {taken / 60:6.2f} min")
        print(f"{'peak memory':20} {peak:6.0f} MB\n{'report':20} {megabytes:6.1f} MB")
        late = [f"{megabytes:.0f} MB"] if megabytes > MOST_MB else []
        if chromium.CHROMIUM is None:
            print(chromium.MISSING)
        else:
            measured, troubles = looked_at(folder, options.runs)
            for name, taken in measured.items():
                print(f"{name:44} {taken:6.3f} s")
                limit = FIRST_VIEW_S if name == "first view" else FILTER_S
                late += [f"{name} is too slow"] if taken > limit else []
            late += troubles
    if late:
        sys.exit("; ".join(late))


if __name__ == "__main__":
    main()
