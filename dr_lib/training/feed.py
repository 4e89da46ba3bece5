"""Mini-batches prepared in the background, so that the training step never waits for pixels.

Why not Keras' own feeding: its parallel part (`PyDataset` with workers) runs inside `fit` only,
which on TensorFlow takes each mini-batch through a `tf.data` generator, so that waiting for pixels
cannot be told from computing; and `fit` knows epochs where a resumed run wants "from step s on".
`tests/benchmarks/training.py` measures both, and `tf.data`, beside this.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from dr_lib.network import backend

MOST_WORKERS = 8


def feed_workers() -> int:
    """How many threads prepare mini-batches: one on a CPU, up to eight where an accelerator
    computes.

    On a CPU every further thread would take a core from the step itself, which takes ten to a
    hundred times as long as preparing its mini-batch. An accelerator may be done sooner than one
    thread has the next mini-batch.
    """
    return 1 if backend.device() == "CPU" else max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - 1))


class Feed:
    """Items `make(start)` … `make(stop − 1)` in order, up to `ahead` (or `workers`) prepared by
    background threads.

    `make` must be a pure function of its step, and safe to call from several threads: then
    preparing early, in any order, or again after a restart, changes nothing. Threads, because
    `make` reads and warps images in libraries that release Python's lock. An exception in `make` is
    raised where the item is taken. `waited_s` is the time that the taker spent waiting, all items
    together.
    """

    def __init__(
        self, make: Callable[[int], Any], start: int, stop: int, ahead: int, workers: int = 1
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="feed")
        self._starting = (self._pool.submit(make, step) for step in range(start, stop))
        self._pending = deque(islice(self._starting, max(ahead, workers)))
        self.waited_s = 0.0

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Any]:
        while self._pending:
            begin = time.perf_counter()
            item = self._pending.popleft().result()
            self.waited_s += time.perf_counter() - begin
            self._pending.extend(islice(self._starting, 1))
            yield item
