"""A run of the whole test set without its weeks: `python -m tests.benchmarks.rehearsal
[SOLUTION.csv] [--images N] [--tables]`.

Everything is the product's own — flow, waves, Dask workers, stores, ledger, tables, a Prefect
server — but the engine, which a preload puts in the workers (tests/benchmarks/stub_engine.py).
SOLUTION.csv is Kaggle's retinopathy_solution.csv; without it as many ids are made up. Prints what
the run took beyond the writing itself, how much memory flow and scheduler (one process) held over
time, how many task runs Prefect was told of, and how fast its page's queries are answered.
"""

import argparse
import csv
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
import urllib.request

import psutil

IMAGES = 53_576
SECONDS_BETWEEN_LOOKS = 2


class Memory(threading.Thread):
    """Notes this process' resident memory every few seconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found: list[tuple[float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        process, started = psutil.Process(), time.monotonic()
        while not self.over.is_set():
            self.found.append((time.monotonic() - started, process.memory_info().rss))
            self.over.wait(SECONDS_BETWEEN_LOOKS)

    def text(self) -> str:
        """The memory at every tenth of the run, and its peak."""
        self.over.set()
        sizes = [size / 2**20 for _, size in self.found]
        tenths = [sizes[min(len(sizes) * part // 10, len(sizes) - 1)] for part in range(11)]
        return (
            f"{', '.join(f'{size:,.0f}' for size in tenths)} MiB at every tenth of it, peak"
            f" {max(sizes):,.0f}"
        )


def ids_of(solution: pathlib.Path | None, images: int) -> list[str]:
    if solution is None:
        return [
            f"{number // 2 + 1}_{'left' if number % 2 == 0 else 'right'}"
            for number in range(images)
        ]
    with solution.open() as file:
        return [row["image"] for row in csv.DictReader(file)][:images]


def query(api: str, path: str, body: dict) -> tuple[object, float]:
    """The answer of Prefect's server and how many ms it took."""
    request = urllib.request.Request(
        f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    return found, 1e3 * (time.perf_counter() - started)


def spent(notes: pathlib.Path) -> dict[str, float]:
    """Seconds of all workers together, in the stub and in writing."""
    lines = [
        json.loads(line) for path in notes.glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return {name: sum(line.get(name, 0.0) for line in lines) for name in ("stub", "write")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("solution", nargs="?", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--size", type=int, default=256, help="side of the maps in px")
    parser.add_argument(
        "--real",
        type=int,
        default=256,
        help="images of each worker whose maps are noise, at their real size",
    )
    parser.add_argument("--shard-images", type=int, default=64)
    parser.add_argument("--tables", action="store_true", help="make the tables too")
    parser.add_argument(
        "--folder", type=pathlib.Path, help="where the workspace goes (default: a temporary folder)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=options.folder) as folder:
        return rehearse(pathlib.Path(folder), options)


def rehearse(folder: pathlib.Path, options: argparse.Namespace) -> int:
    notes = folder / "notes"
    notes.mkdir()
    os.environ.update(
        REHEARSAL_NOTES=str(notes),
        REHEARSAL_REAL=str(options.real),
        DASK_DISTRIBUTED__WORKER__PRELOAD='["tests.benchmarks.stub_engine"]',
        PREFECT_HOME=str(folder / "prefect"),
        XDG_CACHE_HOME=str(folder / "cache"),
        CUDA_VISIBLE_DEVICES="",
    )
    os.environ.pop("PREFECT_API_URL", None)
    from flows.service.server import prefect_server
    from tests.flows.explainable import prepare, write_config

    started = time.monotonic()
    config_file = write_config(folder, size=options.size, shard_images=options.shard_images)
    ids = ids_of(options.solution, options.images)
    _, workspace = prepare(config_file, ids, blank_fundi=True)
    print(f"prepared {len(ids):,} images in {time.monotonic() - started:.0f} s", flush=True)
    with prefect_server() as api:
        from flows.pipeline import FLOWS

        for name in ("attribute", "aggregate") if options.tables else ("attribute",):
            stage(name, FLOWS[name], config_file, workspace, notes, api)
        started = time.monotonic()
        (again,) = FLOWS["attribute"](str(config_file))
        print(f"once more: {again.new_images} new images in {time.monotonic() - started:.1f} s")
    return 0


def stage(
    name: str, flow, config_file: pathlib.Path, workspace, notes: pathlib.Path, api: str
) -> None:
    """Runs one stage and prints what it took."""
    from flows.config import load_config
    from tasks.access.stores import explanation_store

    before = spent(notes)
    memory, started = Memory(), time.monotonic()
    memory.start()
    (result,) = flow(str(config_file))
    seconds = time.monotonic() - started
    print(f"\n{name}: {result.message}")
    (record,) = workspace.explanations()
    entries = explanation_store(workspace, record.explain_id).records()
    workers = load_config(config_file).dask.workers
    print(
        f"shards          {len(entries)} done, {sum(entry.bytes for entry in entries) / 1e9:.2f} GB"
    )
    print(f"the whole stage {seconds:.1f} s")
    if name == "attribute":
        used = {key: value - before[key] for key, value in spent(notes).items()}
        itself = (used["stub"] + used["write"]) / workers
        print(
            f"writing itself  {used['write'] / workers:.1f} s, the stub"
            f" {used['stub'] / workers:.1f} s a worker of {workers}"
        )
        print(
            f"beyond it       {seconds - itself:.1f} s,"
            f" {1e3 * (seconds - itself) / len(entries):.0f} ms a shard"
        )
    print(f"flow, scheduler {memory.text()}")
    runs, _ = query(api, "task_runs/count", {})
    page, ms = query(api, "task_runs/filter", {"limit": 200, "sort": "EXPECTED_START_TIME_DESC"})
    print(f"Prefect         {runs} task runs; a page of {len(page)} in {ms:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
