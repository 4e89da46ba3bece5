"""How few bytes a map can take: `codecs.py WORKSPACE [--images 12]`, on the attributions of a
finished explanation.

The stored maps are rounded to 9 bits already, so the bits given up here are counted from those; for
9 bits and more, and for float16, `--full MAPS.npy` takes maps (image, quantity, y, x) float32 that
were never rounded. A row for every precision and compressor: bytes an image; the largest loss
relative to the map's largest value; the largest change of a map's sum, relative to the sum of its
absolute values and to the outcome's change where the workspace knows it; and ms to write and to
read one image.

Then, in the same program: ms from nothing to one image's complete explanation, by
`xarray.open_datatree` and `open_zarr`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from storage import open_workspace
from storage.arrays.specs import round_mantissa
from storage.contents.explanations import DONE
from storage.layout import attributions_path

COMPRESSORS = {
    "zstd 3": ZstdCodec(level=3),
    "zstd 9": ZstdCodec(level=9),
    "blosc zstd 5, shuffle": BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=4),
    "blosc zstd 1, bitshuffle": BloscCodec(
        cname="zstd", clevel=1, shuffle="bitshuffle", typesize=4
    ),
    "blosc zstd 5, bitshuffle": BloscCodec(
        cname="zstd", clevel=5, shuffle="bitshuffle", typesize=4
    ),
    "blosc zstd 9, bitshuffle": BloscCodec(
        cname="zstd", clevel=9, shuffle="bitshuffle", typesize=4
    ),
    "blosc lz4 5, bitshuffle": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4),
}


def scaled_float16(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps as float16 of their share of the largest value, and what they read back as."""
    scale = np.abs(maps).max(axis=(2, 3), keepdims=True)
    scale[scale == 0] = 1
    small = (maps / scale).astype(np.float16)
    return small, small.astype(np.float32) * scale


def precisions(maps: np.ndarray, least: int, most: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each way to keep a map: what is stored, and what it reads back as."""
    found = {f"{bits} bits": (round_mantissa(maps, bits),) * 2 for bits in range(least, most + 1)}
    return {**found, "float16 and scale": scaled_float16(maps), "float32": (maps, maps)}


def stored(folder: Path, values: np.ndarray, compressor) -> tuple[float, float, float]:
    """Bytes, ms to write and ms to read of one image, each image a chunk of one shard."""
    if isinstance(compressor, BloscCodec):
        compressor = BloscCodec(
            cname=compressor.cname.value,
            clevel=compressor.clevel,
            shuffle=compressor.shuffle.value,
            typesize=values.dtype.itemsize,
        )
    array = zarr.create_array(
        folder,
        shape=values.shape,
        chunks=(1, *values.shape[1:]),
        shards=values.shape,
        dtype=values.dtype,
        compressors=compressor,
    )
    started = time.perf_counter()
    array[:] = values
    written = time.perf_counter() - started
    reads = []
    for row in range(len(values)):
        started = time.perf_counter()
        array[row]
        reads.append(time.perf_counter() - started)
    size = sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    return size / len(values), 1e3 * written / len(values), 1e3 * statistics.median(reads)


def table(maps: np.ndarray, change: np.ndarray | None, least: int, most: int) -> None:
    """Prints a row for each precision and compressor. change: |F(x) − F(x')| of (image,
    quantity).
    """
    peak = np.abs(maps).max(axis=(2, 3))
    mass = np.abs(maps.astype(np.float64)).sum(axis=(2, 3))
    raw = maps[0].nbytes
    print(
        f"{len(maps)} images of {maps.shape[1]} maps {maps.shape[2]}×{maps.shape[3]}: {raw:,} bytes"
        " an image as float32"
    )
    print(
        f"{'kept':<19}{'compressor':<26}{'bytes':>10}{'of raw':>8}{'loss/max':>10}{'Δsum/Σ|map|':>13}{'Δgap/|ΔF|':>11}{'write':>7}{'read ms':>8}"
    )
    for kept, (values, back) in precisions(maps, least, most).items():
        with np.errstate(invalid="ignore", divide="ignore"):
            loss = np.nanmax(np.abs(back - maps).max(axis=(2, 3)) / peak)
            moved = np.abs(
                back.astype(np.float64).sum(axis=(2, 3)) - maps.astype(np.float64).sum(axis=(2, 3))
            )
            gap = "" if change is None else f"{np.nanmax(moved / np.maximum(change, 0.01)):.5%}"
            share = np.nanmax(moved / mass)
        for name, compressor in COMPRESSORS.items():
            with tempfile.TemporaryDirectory() as folder:
                size, write, read = stored(Path(folder) / "a.zarr", values, compressor)
            print(
                f"{kept:<19}{name:<26}{size:>10,.0f}{size / raw:>8.1%}{loss:>10.4%}{share:>13.5%}{gap:>11}{write:>7.1f}{read:>8.1f}"
            )


def openings(workspace, explain_id: str, repeats: int) -> None:
    """Prints how long one image's complete explanation takes, opening included; libraries are
    loaded already.
    """
    path = workspace.files.path(attributions_path(explain_id))
    ids = workspace.attributions(explain_id)["image_id"].values

    def whole(image_id: str) -> int:
        tree, row = workspace.attributions(explain_id), int(np.flatnonzero(ids == image_id)[0])
        return sum(
            tree[group]
            .to_dataset(inherit=False)
            .isel(image=row, missing_dims="ignore")
            .load()
            .nbytes
            for group in tree.groups
        )

    def maps_only(image_id: str) -> int:
        data = (
            xr.open_zarr(path, group="pixels", chunks=None)
            .set_xindex("image_id")
            .sel(image_id=image_id)
        )
        return data.load().nbytes

    for name, read in (
        ("every group, open_workspace(…).attributions()", whole),
        ("group pixels, xarray.open_zarr", maps_only),
    ):
        times, size = [], 0
        for number in range(repeats):
            started = time.perf_counter()
            size = read(str(ids[number % len(ids)]))
            times.append(1e3 * (time.perf_counter() - started))
        print(
            f"{name}: {size / 2**20:.2f} MiB in {statistics.median(times):.0f} ms (first"
            f" {times[0]:.0f}, worst {max(times):.0f})"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--full", type=Path, help="an .npy of maps that were never rounded")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args(arguments)
    workspace = open_workspace(options.workspace)
    explain_id = workspace.latest_explanation()
    pixels = workspace.attributions(explain_id)["pixels"].to_dataset()
    rows = np.flatnonzero(pixels["status"].values == DONE)[: options.images]
    if options.full:
        print("maps that were never rounded")
        table(np.load(options.full)[: options.images], None, 7, 11)
    else:
        print(
            f"maps of {explain_id}, which are rounded to"
            f" {pixels['attribution'].attrs.get('mantissa_bits')} bits"
        )
        found = pixels.isel(image=rows)
        change = np.abs(found["outcome"].values - found["baseline_outcome"].values)
        table(found["attribution"].values, change, 6, 9)
    openings(workspace, explain_id, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
