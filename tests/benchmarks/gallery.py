"""How soon the gallery of 50,000 eyes is there, and how soon a filter is: in headless Chromium,
opened from disk.

python tests/benchmarks/gallery.py [--eyes 50000] [--runs 5]

Generated entries; one picture under 50,000 names. Prints medians and the worst, and exits with 1
where a limit is missed.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

import numpy as np
import pandas as pd

from dr_lib.drawing.figures import jpeg
from dr_lib.report import Head, render
from dr_lib.report.pictures import Folder
from dr_lib.report.section import Content, Section
from tests import chromium

FIRST_VIEW_S, FILTER_S = 2.0, 0.5
FILTERS = (
    ("select[name=true]", "4"),
    ("select[name=grade]", "missed"),
    ("select[name=gap]", "0.05.."),
    ("select[name=share]", "0.3.."),
    ("select[name=order]", "-gap"),
    ("input[name=find]", "77"),
)


def write(folder: pathlib.Path, eyes: int) -> None:
    """A report of so many generated eyes."""
    rng = np.random.default_rng(1)
    ids = [f"{number // 2 + 1}_{'left' if number % 2 == 0 else 'right'}" for number in range(eyes)]
    rows = pd.DataFrame(
        {
            "key": [f"{number // 64:05d}/{name}" for number, name in enumerate(ids)],
            "image_id": ids,
            "stage": rng.integers(0, 5, eyes),
            "predicted": rng.integers(0, 5, eyes),
            "gap": rng.gamma(1, 0.02, eyes),
            "share": rng.random(eyes),
            "symmetry": -rng.random(eyes),
            "patient": [name.split("_")[0] for name in ids],
        }
    )
    shown = Content({"eyes": rows, "photographs": eyes, "attributed": [], "layer": "stem"})
    for name, content in render(
        Head(), [Section("eyes", "Explained eyes", shown)], Folder(), rows
    ).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    strip = folder / "strip.jpg"
    strip.write_bytes(jpeg(rng.integers(0, 256, (120, 480, 3), dtype=np.uint8), 80))
    for key in rows["key"]:
        target = folder / f"eyes/{key}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(strip, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eyes", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if chromium.CHROMIUM is None:
        sys.exit(chromium.MISSING)
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as page:
        root = pathlib.Path(folder)
        write(root, options.eyes)
        page.resize(1280, 900)
        address = (root / "eyes.html").as_uri()
        views = [page.first_view_s(address, "#cards img", 12) for _ in range(options.runs)]
        measured = {"first view": views}
        page.wait_for(
            "report.gallery.chunks.filter(Boolean).length ==="
            f" {len(list(root.glob('gallery/*.js')))}"
        )
        for field, value in FILTERS:
            measured[f"filter {field}={value}"] = page.filter_s(field, value, options.runs)
        print(
            f"{options.eyes:,} eyes,"
            f" {sum(file.stat().st_size for file in root.glob('gallery/*.js')) / 1e6:.1f} MB of"
            " rows"
        )
        for name, times in measured.items():
            print(f"{name:36} median {statistics.median(times):6.3f} s   worst {max(times):6.3f} s")
        troubles = page.troubles
    late = [
        name
        for name, times in measured.items()
        if statistics.median(times) > (FIRST_VIEW_S if name == "first view" else FILTER_S)
    ]
    if troubles or late:
        sys.exit("; ".join([*troubles, *(f"too slow: {name}" for name in late)]))


if __name__ == "__main__":
    main()
