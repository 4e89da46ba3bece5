"""The whole run against the bare engine: `python -m tests.benchmarks.throughput CONFIG.toml
[--images 24] [--repeats 3] [--without-threads] [--set …]`.

CONFIG.toml names a workspace with fundi and a trained model; it is read, and copied to a temporary
folder without its explanations. Of the same images, with the same model and settings, in turn:
- `dr attribute` with one worker a core: Prefect, Dask, reading, writing, ledger;
- as many bare processes, one thread each, that hold their share of the fundi in memory, explain it
and drop the result. Both are timed from the start of the processes (imports and compiling included)
and, apart from that, at their pace: from the end of each worker's first shard, which pays for
compiling, to the end of its last; for the run that is when its marks were written, so that reading,
writing and waiting for work count.

Then one bare process with a thread for every core, for whom it pays to choose between workers and
threads.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

import numpy as np


def environment(threads: int, folder: pathlib.Path) -> dict[str, str]:
    from tasks.execution.pool import ONE_THREAD

    mine = {
        **ONE_THREAD,
        **{name: str(threads) for name in ONE_THREAD if name.endswith("NUM_THREADS")},
    }
    return {
        **os.environ,
        **mine,
        "PREFECT_HOME": str(folder / "prefect"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def bare(folder: pathlib.Path, processes: int, threads: int) -> dict[str, float]:
    """Seconds of `processes` engines side by side from their start, and their images a minute
    once they run.
    """
    started = time.monotonic()
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.throughput",
                "--bare",
                str(folder),
                str(number),
                str(processes),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(threads, folder),
        )
        for number in range(processes)
    ]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return {"whole": time.monotonic() - started, "pace": pace(answer["ends"] for answer in answers)}


def pace(workers: Iterable[list[tuple[float, int]]]) -> float:
    """Images a minute of workers side by side, each given as (end, images) of its shards; the
    first shards don't count.
    """
    total = 0.0
    for shards in map(sorted, workers):
        if len(shards) > 1:
            total += 60 * sum(images for _, images in shards[1:]) / (shards[-1][0] - shards[0][0])
    return total


def be_bare(folder: pathlib.Path, number: int, processes: int) -> None:
    """In a process of its own: every `processes`-th shard of the images, explained and dropped."""
    from dr_lib.attribution.explain import Explainer
    from tasks.execution.worker import loaded_model

    job = json.loads((folder / "job.json").read_text())
    config = configured(folder, job)
    pixels = np.load(folder / "pixels.npy")
    engine = Explainer(loaded_model(config.workspace, job["model_id"]), config.recipe.attribution)
    size = job["shard_images"]
    shards = [pixels[start : start + size] for start in range(0, len(pixels), size)][
        number::processes
    ]
    ends = []
    for shard in shards:
        engine.explain(shard)
        ends.append((time.monotonic(), len(shard)))
    print(json.dumps({"ends": ends}))


def whole(folder: pathlib.Path) -> dict[str, float]:
    """Seconds of `dr attribute` for the same images, of the stage within it, and its pace by its
    marks.
    """
    job = json.loads((folder / "job.json").read_text())
    for name in ("explanations", "tables/attributions"):
        shutil.rmtree(folder / "workspace" / name, ignore_errors=True)
    command = [sys.executable, "-m", "flows.cli.main", "attribute", job["config"]]
    for setting in job["settings"]:
        command += ["--set", setting]
    started = time.monotonic()
    done = subprocess.run(
        command,
        env=environment(1, folder) | {"OMP_NUM_THREADS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    by_worker: dict[str, list[tuple[float, int]]] = {}
    for path in (folder / "workspace").glob("explanations/*/ledger/*.json"):
        record = json.loads(path.read_text())["record"]
        by_worker.setdefault(record["worker"], []).append((path.stat().st_mtime, record["images"]))
    (run,) = [
        json.loads(path.read_text())
        for path in (folder / "workspace").glob("explanations/*/runs/*.json")
    ]
    return {"whole": seconds, "stage": run["actual"]["seconds"], "pace": pace(by_worker.values())}


def configured(folder: pathlib.Path, job: dict):
    from flows.config import load_config

    return load_config(job["config"], job["settings"])


def prepare(folder: pathlib.Path, options: argparse.Namespace, workers: int) -> dict:
    """Copies the workspace without its explanations, and the fundi of the images that will be
    explained.
    """
    from flows.config import load_config
    from storage import open_workspace
    from tasks.access.images import chosen_images, usable_rows
    from tasks.access.stores import fundus_store

    given = load_config(options.config, options.settings)
    copied = folder / "workspace"
    shutil.copytree(
        given.workspace,
        copied,
        ignore=shutil.ignore_patterns(
            "explanations", "report", ".scratch", ".locks", "catalog.duckdb"
        ),
    )
    shard_images = max(1, min(given.storage.shard_images, options.images // (2 * workers)))
    settings = [
        *options.settings,
        f"workspace={copied}",
        f"attribution.limit={options.images}",
        f"storage.shard_images={shard_images}",
        f"dask.workers={workers}",
        "attribution.split=all",
    ]
    config, workspace = load_config(options.config, settings), open_workspace(copied)
    photos = workspace.photos()
    here = photos.iloc[
        usable_rows(workspace, config.recipe.preprocess_id, config.recipe.least_quality)
    ]
    chosen = chosen_images(here[here["present"]], config.recipe.selection)
    store = fundus_store(workspace, config.recipe.preprocess_id)
    np.save(
        folder / "pixels.npy", store.read_rows(chosen["position"].to_numpy(), ["pixels"])["pixels"]
    )
    job = {
        "config": str(options.config.resolve()),
        "settings": settings,
        "shard_images": shard_images,
    }
    job |= {"model_id": config.recipe.model_id(workspace), "images": len(chosen)}
    (folder / "job.json").write_text(json.dumps(job))
    return job


def compare(options: argparse.Namespace) -> int:
    workers = options.workers or os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix="throughput-") as name,
        contextlib.suppress(KeyboardInterrupt),
    ):
        folder = pathlib.Path(name)
        job = prepare(folder, options, workers)
        images = job["images"]
        print(
            f"{images} images in shards of {job['shard_images']}, {workers} workers; seconds,"
            f" medians of {options.repeats}"
        )
        found: dict[str, list[dict[str, float]]] = {"run": [], "bare": [], "threads": []}
        for _ in range(options.repeats):  # in turn, so that what else the machine does falls on all
            found["run"].append(whole(folder))
            found["bare"].append(bare(folder, workers, 1))
            if not options.without_threads:
                found["threads"].append(bare(folder, 1, workers))
        median = {
            what: {key: statistics.median(one[key] for one in several) for key in several[0]}
            for what, several in found.items()
            if several
        }
        print(f"{'':<34}{'from start':>11}{'stage':>9}{'images/min':>12}")
        for what, title in (
            ("run", "dr attribute"),
            ("bare", f"{workers} bare processes"),
            ("threads", f"one, {workers} threads"),
        ):
            if what not in median:
                continue
            one = median[what]
            stage = f"{one['stage']:.1f}" if "stage" in one else ""
            print(f"{title:<34}{one['whole']:>11.1f}{stage:>9}{one['pace']:>12.1f}")
        run, engines = median["run"], median["bare"]
        print(f"run / bare, at their pace         {run['pace'] / engines['pace']:>11.1%}")
        print(
            f"bare from start / the run's stage {engines['whole'] / run['stage']:>11.1%}   (both"
            " import, load and compile)"
        )
        print(
            f"bare / run, from start            {engines['whole'] / run['whole']:>11.1%}   (the run"
            " starts a Prefect server too)"
        )
        if "threads" in median:
            print(
                "one a core / one with all threads"
                f" {engines['pace'] / median['threads']['pace']:>11.2f} times as fast"
            )
    return 0


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--bare"]:
        be_bare(pathlib.Path(arguments[1]), int(arguments[2]), int(arguments[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--without-threads", action="store_true", help="only workers against bare processes"
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE"
    )
    return compare(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
