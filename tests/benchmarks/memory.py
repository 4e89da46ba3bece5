"""Memory in the number of photographs: peak resident memory of the flow and of a worker, ingest to
fundi, for several counts.

    python tests/benchmarks/memory.py [COUNT …]        (default: 100 800)

Each count is a process of its own on small drawn photographs, in shards of 64 with one worker. The
worker's peak must not depend on the count; the flow's grows by the manifest's rows (some 2 kB a
photograph), never by pixels.
"""

import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile

SIZE = 96
SHARD = 64


def peak_mib() -> float:
    """This process's largest resident memory so far, MiB. Linux's own count: getrusage begins
    with the parent's.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure(count: int) -> None:
    """Runs the two stages on `count` photographs and prints a line of the table."""
    from flows.config import parse_config
    from flows.service.server import prefect_server
    from storage import open_workspace
    from tests.flows.test_preprocess_faults import draw

    with tempfile.TemporaryDirectory() as folder, prefect_server():
        from tasks.execution.pool import Pool
        from tasks.ingest.step import ingest
        from tasks.preprocess.step import preprocess
        from tasks.run.session import Session

        root = pathlib.Path(folder)
        draw(root / "photos", count)
        started = peak_mib()
        config = parse_config(
            {
                "workspace": str(root / "workspace"),
                "data": {"photos": str(root / "photos")},
                "preprocess": {"size": SIZE},
                "storage": {"shard_images": SHARD},
                "dask": {"workers": 1},
            }
        )
        with contextlib.closing(Pool(config.dask)) as pool:
            session = Session(open_workspace(root / "workspace"), pool)
            ingest(session, config.data)
            ingested = peak_mib()
            preprocess(session, config.recipe, config.data, config.storage)
            (worker,) = pool.connect().run(peak_mib).values()
        print(
            f"{count:8,} {started:12.0f} {ingested:12.0f} {peak_mib():12.0f} {worker:12.0f}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        print(
            f"{'count':>8} {'started':>12} {'ingested':>12} {'preprocessed':>12} {'worker':>12} "
            "  MiB",
            flush=True,
        )
        for count in sys.argv[1:] or ["100", "800"]:
            subprocess.run(
                [sys.executable, __file__, "--one", count],
                check=True,
                cwd=pathlib.Path(__file__).parents[2],
            )
