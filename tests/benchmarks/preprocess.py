"""How fast preprocessing is, and how near to the straightforward full-size path: `preprocess.py
PHOTOS_DIR [--repeats 5]`.

Side by side in one run, one thread each, medians over photographs and repeats:
- full size: decode the whole photograph, count the middle line, blur, shrink, subtract the local
tone, crop;
- ours: `dr_lib.fundus.normalise`, quality measures included;
- decoding alone, at the reduction that ours chose.
Times are the processor's (user and system), so that other work on the machine counts as little as
it can.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from dr_lib.fundus import PreprocessParams, UngradablePhoto, normalise
from dr_lib.fundus.photo import UnreadablePhoto, decode, inspect

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


def straightforward(
    data: bytes, params: PreprocessParams, disc=None, exact: bool = False
) -> np.ndarray:
    """METHOD §1 as it stands, at full size. `disc` replaces its own geometry; `exact` blurs in
    float32 instead of 8 bits.
    """
    photo = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )
    if disc is None:
        line = photo[len(photo) // 2].max(axis=1)
        inside = np.flatnonzero(line > 0.1 * line.mean())
        diameter, centre_y, centre_x = (
            float(len(inside)),
            (len(photo) - 1) / 2,
            float(inside.mean()),
        )
    else:
        diameter, centre_y, centre_x = disc.diameter, disc.centre_y, disc.centre_x
    size, scale = params.size, diameter / params.size
    source = photo.astype(np.float32) if exact else photo
    smooth = cv2.GaussianBlur(
        source, (0, 0), params.low_pass_sigma * scale, borderType=cv2.BORDER_REPLICATE
    )
    offset = scale * (size - 1) / 2
    affine = np.array([[scale, 0, centre_x - offset], [0, scale, centre_y - offset]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    small = cv2.warpAffine(
        smooth, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    local = cv2.GaussianBlur(small, (0, 0), params.tone_sigma * size / 2)
    fundus = cv2.addWeighted(
        small, params.tone_gain, local, -params.tone_gain, 128, dtype=cv2.CV_8U
    )
    fundus[_distance(size) > 1 - params.crop] = 128
    return fundus


def difference(data: bytes, params: PreprocessParams, exact: bool) -> float:
    """The mean absolute difference of ours from the full-size path in grey levels, where the
    disc shows retina.
    """
    ours = normalise(data, params)
    full = straightforward(data, params, ours.disc, exact)
    shown = (_distance(params.size) <= 1 - params.crop) & ~cv2.erode(
        (ours.pixels == 128).all(axis=2).astype(np.uint8), np.ones((7, 7))
    ).astype(bool)
    return float(np.abs(ours.pixels.astype(int) - full)[shown].mean())


def _distance(size):
    line = (np.arange(size) - (size - 1) / 2) / (size / 2)
    return np.hypot(line[:, None], line)


def _milliseconds(work):
    begin = time.process_time()
    work()
    return 1e3 * (time.process_time() - begin)


def _worker(job):
    cv2.setNumThreads(1)
    paths, params = job
    for path in paths:
        normalise(path.read_bytes(), params)
    return len(paths)


def _throughput(paths, params, workers):
    """Photographs a second with so many worker processes, their start not counted."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        jobs = [(paths[start::workers], params) for start in range(workers)]
        pool.map(_worker, [([paths[0]], params)] * workers, chunksize=1)
        begin = time.perf_counter()
        done = sum(pool.map(_worker, jobs, chunksize=1))
        return done / (time.perf_counter() - begin)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--limit", type=int, default=50, help="photographs at most (default 50)")
    parser.add_argument(
        "--workers", action="store_true", help="also compare two worker processes with one"
    )
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    params = PreprocessParams(size=options.size)
    paths = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)[
        : options.limit
    ]
    if not paths:
        print(f"no photographs in {options.photos}", file=sys.stderr)
        return 2
    print(
        f"{'photograph':<18}{'pixels':>12}{'1/n':>5}{'full ms':>9}{'ours ms':>9}{'decode ms':>10}{'full/ours':>10}{'ours/dec.':>10}{'MAD':>6}{'MAD8':>6}"
    )
    rows, used = [], []
    for path in paths:
        data = path.read_bytes()
        try:
            found = normalise(data, params)
        except (UnreadablePhoto, UngradablePhoto) as error:
            print(f"{path.stem:<18}  set aside: {error}")
            continue
        size = inspect(data)
        works = (
            lambda data=data: straightforward(data, params),
            lambda data=data: normalise(data, params),
            lambda data=data, found=found: decode(
                data, max_reduction=found.reduction, diameter_px=1
            ),
        )
        times = np.array([[_milliseconds(work) for work in works] for _ in range(options.repeats)])
        full, ours, alone = np.median(times, axis=0)
        exact, eight = difference(data, params, exact=True), difference(data, params, exact=False)
        rows.append((full, ours, alone, full / ours, ours / alone, exact, eight))
        used.append(path)
        pixels = f"{size.width_px}×{size.height_px}"
        print(
            f"{path.stem:<18}{pixels:>12}{found.reduction:>5}{full:>9.1f}{ours:>9.1f}{alone:>10.1f}{full / ours:>10.1f}{ours / alone:>10.2f}{exact:>6.2f}{eight:>6.2f}"
        )
    if not rows:
        return 1
    full, ours, alone, speed, overhead, exact, eight = (
        statistics.median(column) for column in zip(*rows, strict=True)
    )
    print(
        f"{'median':<35}{full:>9.1f}{ours:>9.1f}{alone:>10.1f}{speed:>10.1f}{overhead:>10.2f}{exact:>6.2f}{eight:>6.2f}"
    )
    print(
        "MAD: mean absolute difference from the full-size path blurred in float32, in grey levels;"
        " MAD8: from it blurred in 8 bits."
    )
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if options.workers:
        many = used * max(1, 200 // len(used))
        one, two = (_throughput(many, params, workers) for workers in (1, 2))
        print(f"one worker {one:.0f} photographs/s, two {two:.0f}: {two / one:.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
