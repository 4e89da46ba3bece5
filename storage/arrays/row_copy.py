"""Rows of one array in any order, again and again, as training asks for them: each shard is read
from Zarr once, whole.

A balanced mini-batch takes its eyes from as many shards as it has eyes, and a rare stage's eyes
come back every few mini-batches. Read one by one from Zarr each costs an opening and a
decompression every time (35 ms of a core for 16 fundi of 256 px), and on an object store two
requests; from the copy 0.2 ms.
"""

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np

from storage.arrays.store import ShardedStore
from storage.errors import writing

SPARE_BYTES = 1 << 30  # of the disk, for checkpoints and the model


class RowCopy(contextlib.AbstractContextManager):
    """The rows of the array `path` of a store; a shard is copied, uncompressed, when a row of it is
    first asked for.

    The copy is a file without a name in `folder`: it is gone when this process ends, however that
    ends. Memory stays flat in the number of images: what the operating system keeps of the file it
    can drop at any time. Where the disk has no room for the whole array, rows are read from Zarr
    one by one. For several threads at once; one for each shard copies.
    """

    def __init__(self, store: ShardedStore, path: str, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._spec = next(spec for spec in store.specs if spec.path == path)
        self._locks = [threading.Lock() for _ in store.spans()]
        self._copied: set[int] = set()
        needed = store.images * self._spec.row_bytes + SPARE_BYTES
        self._file = None
        if shutil.disk_usage(folder).free > needed:
            # Closed in `__exit__`.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The values of these rows in this order, (len(rows), …). Raises ValueError for a row
        that is not on the axis.
        """
        file, store, spec = self._file, self._store, self._spec
        if file is None:
            return store.read_rows(rows, [spec.path])[spec.path]
        found, row_bytes = np.empty((len(rows), *spec.shape), spec.dtype), spec.row_bytes
        for place, row in enumerate(map(int, rows)):
            if not 0 <= row < store.images:
                raise ValueError(
                    f"{store.path}: row {row} is not on an axis of {store.images} images"
                )
            self._copy(row // store.shard_images, file.fileno())
            count = os.preadv(file.fileno(), [found[place : place + 1].data], row * row_bytes)
            if count != row_bytes:
                raise OSError(
                    f"the copy of {spec.path} in {self._folder} gave {count} of {row_bytes} bytes"
                )
        return found

    def _copy(self, shard: int, file: int) -> None:
        with self._locks[shard]:
            if shard in self._copied:
                return
            span, path = self._store.spans()[shard], self._spec.path
            values = np.ascontiguousarray(self._store.read(span, [path])[path])
            with writing(self._folder):
                view, start = values.data.cast("B"), span.start * self._spec.row_bytes
                while view:  # one call writes 2 GiB at most
                    written = os.pwrite(file, view, start)
                    view, start = view[written:], start + written
            self._copied.add(shard)

    def __exit__(self, *_: object) -> None:
        """Gives the disk's room back."""
        if self._file is not None:
            self._file.close()
