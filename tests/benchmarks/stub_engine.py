"""An engine that writes without computing: a preload module of Dask's workers, so that no product
code knows of it.

`DASK_DISTRIBUTED__WORKER__PRELOAD='["tests.benchmarks.stub_engine"]'` makes every worker import it;
the workers' own `explain_shard` then asks this engine. The first `REHEARSAL_REAL` images of a
process get maps of noise, which take their real room on disk; the others get maps of zeros, which
take the same way through rounding, compression and ledger and leave little. Seconds spent here and
in `write_shard` go to a file a process, so that they can be told from all else.
"""

import json
import os
import pathlib
import time
from typing import Any

import numpy as np


def dask_setup(worker: Any) -> None:
    """Called by Dask in every worker as it starts."""
    import tasks.attribute.shard
    from storage.arrays.store import ShardedStore

    notes = pathlib.Path(os.environ["REHEARSAL_NOTES"]) / f"{os.getpid()}.jsonl"
    engines: dict[tuple, StubEngine] = {}

    def explainer(location: str, model_id: str, params: Any) -> StubEngine:
        return engines.setdefault(
            (location, model_id), StubEngine(location, int(os.environ["REHEARSAL_REAL"]), notes)
        )

    write = ShardedStore.write_shard

    def write_shard(self, *args, **options):
        started = time.perf_counter()
        try:
            return write(self, *args, **options)
        finally:
            _note(notes, write=time.perf_counter() - started)

    tasks.attribute.shard.explainer = explainer
    ShardedStore.write_shard = write_shard


class StubEngine:
    """Has `explain`, as `dr_lib.attribution.explain.Explainer` has it."""

    def __init__(self, location: str, real: int, notes: pathlib.Path):
        from storage import open_workspace
        from storage.arrays.store import ShardedStore
        from storage.layout import attributions_path

        workspace = open_workspace(location)
        self.specs = ShardedStore.open(
            workspace.files, attributions_path(workspace.latest_explanation())
        ).specs
        self.real, self.notes, self.random = real, notes, np.random.default_rng(os.getpid())

    def explain(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        n = len(pixels)
        arrays = {
            spec.path: np.zeros((n, *spec.shape), spec.dtype)
            for spec in self.specs
            if spec.path != "pixels/status"
        }
        noisy = min(self.real, n)
        self.real -= noisy
        for path, values in arrays.items():
            if values[0].size > 4096 and values.dtype == np.float32:
                values[:noisy] = 1e-6 * self.random.standard_normal(
                    values[:noisy].shape, dtype=np.float32
                )
            elif path.endswith(("/points", "pixels/converged")):
                values[:] = 1
        # So that `dr verify` finds maps and gaps in agreement.
        arrays["pixels/gap"][:] = arrays["pixels/attribution"].sum(axis=(2, 3), dtype=np.float64)
        arrays["pixels/failed"] = np.zeros(n, bool)
        _note(self.notes, stub=time.perf_counter() - started)
        return arrays


def _note(path: pathlib.Path, **seconds: float) -> None:
    with path.open("a") as file:
        file.write(json.dumps(seconds) + "\n")
