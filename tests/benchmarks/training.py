"""How near a training step is to a bare step, by the way its pixels come: `training.py WORKSPACE
[--backbone small] [--steps 60]`.

WORKSPACE holds fundi and their labels (`dr preprocess`); it is only read. Side by side in one
process on one compiled model, in blocks by turns so that a change of the machine's pace meets all
alike, medians over steps:
- bare: `train_on_batch` on the same mini-batch again and again; nothing is read, turned or toned;
- loop: `dr_lib.training.train` as `dr train` runs it, its feed on the local copy of the fundi;
- rows: the same feed, every fundus read from Zarr each time;
- pydataset 1, 2: `keras.utils.PyDataset` in `fit`, with one and two workers;
- tf.data: a `tf.data` pipeline with prefetching.
The first steps of a block are left out: their mini-batches were prepared while others computed.
`waiting` is the share of a step in which the loop had no mini-batch; `fit` does not tell.
`processor` is user and system time a step, all threads together.
"""

import argparse
import functools
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build, scaled
from dr_lib.training import BalancedBatches, TrainingParams, train
from dr_lib.training.augment import augmented
from dr_lib.training.feed import Feed
from storage import open_workspace
from storage.arrays.row_copy import RowCopy
from storage.arrays.store import ShardedStore
from storage.contents.fundus import DONE
from storage.layout import fundus_path

BLOCK = 15
LEFT_OUT = 5  # the batches a feed has ready, and one
AHEAD = 4


class Timer:
    """Step times of one contender: seconds, seconds waited (or None), processor seconds."""

    def __init__(self):
        self.steps: list[tuple[float, float | None, float]] = []

    def begin(self):
        self.count, self.mark, self.used = 0, time.perf_counter(), time.process_time()

    def step(self, waited: float | None):
        now, used = time.perf_counter(), time.process_time()
        self.count += 1
        if self.count > LEFT_OUT:
            self.steps.append((now - self.mark, waited, used - self.used))
        self.mark, self.used = now, used


def contenders(model, make, make_from_rows, constant):
    """Name → a function (first step, Timer) that trains one block."""

    def bare(first, timer):
        for _ in range(BLOCK):
            model.train_on_batch(*constant, return_dict=True)
            timer.step(0.0)

    def rows(first, timer):
        with Feed(make_from_rows, first, first + BLOCK, AHEAD) as feed:
            waited = 0.0
            for batch in feed:
                model.train_on_batch(*batch, return_dict=True)
                timer.step(feed.waited_s - waited)
                waited = feed.waited_s

    def pydataset(workers, first, timer):
        import keras

        class Dataset(keras.utils.PyDataset):
            def __len__(self):
                return BLOCK

            def __getitem__(self, index):
                return make(first + index)

        stopwatch = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: timer.begin() if not batch else None,
            on_train_batch_end=lambda batch, logs: timer.step(None),
        )
        dataset = Dataset(workers=workers, max_queue_size=AHEAD)
        model.fit(dataset, epochs=1, shuffle=False, verbose=0, callbacks=[stopwatch])

    def tf_data(first, timer):
        import tensorflow as tf

        def prepared(step):
            inputs, targets = tf.numpy_function(
                lambda s: make(int(s)), [step], [tf.float32, tf.float32]
            )
            return tf.ensure_shape(inputs, constant[0].shape), tf.ensure_shape(
                targets, constant[1].shape
            )

        dataset = tf.data.Dataset.range(first, first + BLOCK).map(
            prepared, num_parallel_calls=1, deterministic=True
        )
        before = time.perf_counter()
        for batch in dataset.prefetch(AHEAD):
            waited = time.perf_counter() - before
            model.train_on_batch(*batch, return_dict=True)
            timer.step(waited)
            before = time.perf_counter()

    found = {"bare": bare, "rows": rows}
    found |= {f"pydataset {workers}": functools.partial(pydataset, workers) for workers in (1, 2)}
    return found | ({"tf.data": tf_data} if backend.name() == "tensorflow" else {})


def labelled(location: str):
    """The store of fundi last written, and the rows and stages of its labelled eyes."""
    path = Path(location)
    workspace = open_workspace(path.parent if path.name == "fundus" else path)
    store = ShardedStore.open(workspace.files, fundus_path(workspace.preprocess_ids()[-1]))
    photos = workspace.photos()
    status = np.concatenate([store.read(span, ["status"])["status"] for span in store.spans()])
    photos = photos[photos["stage"].notna() & (photos["position"] < len(status))]
    photos = photos[status[photos["position"]] == DONE]
    return store, photos["position"].to_numpy(), photos["stage"].to_numpy(np.int64)


def alone(name, work, repeats=7):
    """Prints the median processor and wall time of a part of the feed by itself."""
    times = []
    for _ in range(repeats):
        wall, used = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - used))
    wall, used = np.median(times, axis=0) * 1e3
    print(f"  {name:<44}{wall:>8.1f} ms{used:>8.1f} ms of a core")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace")
    parser.add_argument("--backbone", choices=("inception_v3", "small"), default="inception_v3")
    parser.add_argument(
        "--steps",
        type=int,
        default=4 * BLOCK,
        help=f"mini-batches each, in blocks of {BLOCK} (default {4 * BLOCK})",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=None,
        metavar="NAME",
        help="compare just these with bare and loop",
    )
    options = parser.parse_args(arguments)
    blocks = max(1, options.steps // BLOCK)
    backend.configure(deterministic=True)
    store, positions, stages = labelled(options.workspace)
    size = store.read_rows([0], ["pixels"])["pixels"].shape[1]
    params = TrainingParams(
        schedule=((blocks * BLOCK, 1e-3),),
        validate_every=10**9,
        checkpoint_every=10**9,
        prefetch=AHEAD,
    )
    batches = BalancedBatches(stages, params)
    labels = np.eye(5, dtype=np.float32)

    def make_with(read, step):
        indices = batches.batch(step)
        return scaled(augmented(read(positions[indices]), (0, 7, step))), labels[stages[indices]]

    def from_rows(rows):
        return store.read_rows(rows, ["pixels"])["pixels"]

    with tempfile.TemporaryDirectory() as folder, RowCopy(store, "pixels", Path(folder)) as copy:
        print(
            f"{len(stages)} labelled fundi of {size} px in shards of {store.shard_images};"
            f" {backend.device()}; one mini-batch of 16:"
        )
        sample = positions[batches.batch(0)]
        alone("reading its rows from Zarr", lambda: from_rows(sample))
        alone("reading one whole shard from Zarr", lambda: store.read(store.spans()[0], ["pixels"]))
        begin = time.perf_counter()
        copy.read(positions)
        print(
            f"  copying all {len(store.spans())} shards,"
            f" once{'':<20}{time.perf_counter() - begin:>9.1f} s"
        )
        alone("reading its rows from the copy", lambda: copy.read(sample))
        pixels = copy.read(sample)
        alone("turning, mirroring, toning", lambda: augmented(pixels, (1,)))
        alone("scaling to float32", lambda: scaled(pixels))

        model = build(
            ModelParams(backbone=options.backbone, backbone_weights="none", input_size=size)
        )
        make = functools.partial(make_with, copy.read)
        others = contenders(model, make, functools.partial(make_with, from_rows), make(0))
        if options.only is not None:
            others = {
                name: block
                for name, block in others.items()
                if name == "bare" or name in options.only
            }
        timers = {name: Timer() for name in ("loop", *others)}

        def on_step(report):
            timers["loop"].step(report.waited_s)
            if report.step % BLOCK == 0:
                for name, block in others.items():
                    timers[name].begin()
                    block(report.step - BLOCK, timers[name])
                timers["loop"].begin()

        timers["loop"].begin()
        train(model, lambda indices: copy.read(positions[indices]), stages, params, on_step=on_step)

    print(
        f"\n{options.backbone}, {blocks} blocks of {BLOCK} mini-batches each, the first {LEFT_OUT}"
        " of a block left out; medians"
    )
    print(f"{'':<14}{'step':>10}{'to bare':>9}{'waiting':>9}{'processor':>12}")
    bare = statistics.median(step for step, *_ in timers["bare"].steps)
    for name in ("bare", "loop", *(name for name in others if name != "bare")):
        steps, waits, used = zip(*timers[name].steps, strict=True)
        waiting = "" if None in waits else f"{sum(waits) / sum(steps):.1%}"
        step, processor = statistics.median(steps), statistics.median(used)
        print(
            f"{name:<14}{1e3 * step:>7.1f}"
            f" ms{step / bare:>9.3f}{waiting:>9}{1e3 * processor:>9.1f} ms"
        )
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
