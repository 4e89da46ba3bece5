"""Mini-batches prepared in the background, so that the training step never waits for pixels."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Feed:
    """Items `make(start)` … `make(stop − 1)` in order, up to `ahead` of them prepared in one background thread.

    `make` must be a pure function of its step: then preparing early, or again after a restart, changes nothing.
    One thread, because `make` reads and warps images in libraries that release Python's lock, and a second would take
    a core from the step itself. An exception in `make` is raised where the item is taken.
    `waited_s` is the time that the taker spent waiting, all items together.
    """

    def __init__(self, make: Callable[[int], Any], start: int, stop: int, ahead: int) -> None:
        self._make, self._stop, self._ahead = make, stop, ahead
        self._next = start
        self._pending: deque[Future] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self.waited_s = 0.0

    def __enter__(self) -> "Feed":
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Any]:
        while self._pending:
            begin = time.perf_counter()
            item = self._pending.popleft().result()
            self.waited_s += time.perf_counter() - begin
            self._fill()
            yield item

    def _fill(self) -> None:
        while self._next < self._stop and len(self._pending) < self._ahead:
            self._pending.append(self._pool.submit(self._make, self._next))
            self._next += 1
