"""Arrays over images, written a shard at a time: the unit of writing, of resuming and of one
worker's task.

Contract (`ShardedStore.write_shard`): a shard's files hold exactly its images, in every array; no
two shards share a file, so processes may write different shards at once; the ledger entry comes
last. An interruption at any line leaves the shard unmarked and therefore to be done again, from the
start.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from storage.arrays import metadata
from storage.arrays.ledger import Ledger, LedgerEntry, ShardRecord, recording
from storage.arrays.specs import ArraySpec, Span, round_mantissa, spans
from storage.errors import NotThere, Refused, writing
from storage.files.files import Files
from storage.files.formats import check_format
from storage.ids import digest_bytes
from storage.layout import ledger_folder

__all__ = ["ArraySpec", "ShardedStore", "Span", "spans"]

SHARD_IMAGES = 64
# Version of what lies in a store. A later one is written into the root's attributes, as `format`.
FORMAT = 1


@dataclass(frozen=True)
class ShardedStore:
    """A Zarr store whose arrays share one growing image axis, and the ledger beside it. Safe to
    send to a worker.
    """

    files: Files
    path: str
    shard_images: int
    nodes: Mapping[str, dict]

    @classmethod
    def create_or_open(
        cls,
        files: Files,
        path: str,
        specs: Sequence[ArraySpec],
        shard_images: int = SHARD_IMAGES,
        attrs: Mapping[str, Any] | None = None,
    ) -> "ShardedStore":
        """The store at `path`, created without images where it is absent.

        Raises ValueError where a store with other arrays is there already: settings that change
        arrays must change the id. Of arrays that are marked `later` it may lack some: they are
        added, and its rows read as filled.
        """
        nodes = metadata.committed(files, path)
        if nodes is None:
            ledger = Ledger(files, ledger_folder(path))
            # Marks of a store whose root is gone would speak of shards that are not there.
            for shard in ledger.entries():
                ledger.drop(shard)
            metadata.create(files, path, list(specs), shard_images, dict(attrs or {}))
        elif younger := [spec for spec in specs if spec.later and spec.path not in nodes]:
            metadata.add(files, path, nodes, younger)
        store = cls.open(files, path)
        there = metadata.layout(store.specs, store.shard_images)
        wanted = metadata.layout(specs, shard_images)
        for name in sorted({*there, *wanted}):
            if there.get(name) != wanted.get(name):
                raise Refused(
                    f"{files.url(path)}: array {name} is {there.get(name, 'absent')} there but"
                    f" {wanted.get(name, 'absent')} in this version; remove the store or change a"
                    " setting"
                )
        return store

    @classmethod
    def open(cls, files: Files, path: str) -> "ShardedStore":
        """The store at `path`. Raises NotThere, and OtherFormat for one of a newer version."""
        nodes = metadata.committed(files, path)
        if nodes is None:
            raise NotThere(f"{files.url(path)} is not there: run the step that makes it")
        attrs = nodes[""]["attributes"]
        check_format(attrs, FORMAT, files.url(path))
        return cls(files, path, attrs["shard_images"], nodes)

    @staticmethod
    def exists(files: Files, path: str) -> bool:
        """Whether the store at `path` has been created."""
        return metadata.committed(files, path) is not None

    @property
    def specs(self) -> list[ArraySpec]:
        """The arrays, as they were created."""
        return [
            metadata.spec_of(name, node)
            for name, node in sorted(self.nodes.items())
            if metadata.is_data(name, node)
        ]

    @property
    def attrs(self) -> dict:
        """The root's attributes."""
        return self.nodes[""]["attributes"]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.files, ledger_folder(self.path))

    @property
    def images(self) -> int:
        """Length of the image axis."""
        return self.nodes["image_id"]["shape"][0]

    @property
    def image_ids(self) -> list[str]:
        """The id of every row of the image axis."""
        return self._ids(slice(0, self.images))

    def _ids(self, rows: slice) -> list[str]:
        """The ids of some rows. Reads no others: 50,000 would take longer than a shard's
        writing.
        """
        return [str(name) for name in self._array("image_id")[rows]]

    def extend(self, image_ids: Sequence[str]) -> int:
        """Appends images and returns how many were new. Give the new ids, or all ids with those
        present in front.

        Raises ValueError for ids in another order than the store's, and for an id given twice. Not
        for two processes at once: hold the workspace's lock.
        """
        old, new = self.image_ids, list(image_ids)
        if new[: len(old)] == old:
            new = new[len(old) :]
        if len({*old, *new}) != len(old) + len(new):
            raise ValueError(
                f"{self.path}: the image axis only grows: give new ids, or all ids with the"
                f" {len(old)} present first and in order"
            )
        if new:
            nodes = metadata.extend(self.files, self.path, self.nodes, old, new)
            object.__setattr__(self, "nodes", nodes)
        return len(new)

    def spans(self) -> list[Span]:
        """All shards of the image axis."""
        return spans(self.images, self.shard_images)

    def pending(self, digests: Sequence[str]) -> list[Span]:
        """The shards still to be written: those whose ledger entry does not hold exactly these
        digests.

        digests: one for each row of the image axis, of everything that the row's values depend on.
        """
        self._check_digests(digests, self.images)
        entries, ids = self.ledger.entries(), self.image_ids
        return [
            span
            for span in self.spans()
            if not (
                (entry := entries.get(span.index))
                and entry.span == span
                and entry.digests == list(digests[span.rows])
                and entry.image_ids == ids[span.rows]
            )
        ]

    def done_rows(self, span: Span, digests: Sequence[str]) -> np.ndarray:
        """Which of a shard's rows are stored already with these digests (one per row of the span),
        (images,) bool.

        Their values can be read and written back instead of computed again.
        """
        self._check_digests(digests, span.images)
        entry = self.ledger.entry(span.index)
        if entry is None or entry.start != span.start or self.damage(entry):
            return np.zeros(span.images, bool)
        stored = dict(enumerate(zip(entry.image_ids, entry.digests, strict=True)))
        wanted = zip(self._ids(span.rows), digests, strict=True)
        return np.array([stored.get(row) == each for row, each in enumerate(wanted)], bool)

    def forget(self, image_ids: Collection[str]) -> None:
        """Makes the rows of these images count as still to be written, as if they had been stored
        for another digest.

        Their values stay until their shard is written again. Interrupted, it has forgotten some and
        is to be called again.
        """
        for entry in self.records():
            pairs = zip(entry.image_ids, entry.digests, strict=True)
            digests = ["" if name in image_ids else digest for name, digest in pairs]
            if digests != entry.digests:
                self.ledger.mark(replace(entry, digests=digests))

    def write_shard(
        self,
        span: Span,
        arrays: Mapping[str, np.ndarray],
        *,
        digests: Sequence[str],
        record: ShardRecord | None = None,
    ) -> LedgerEntry:
        """Writes one whole shard of every array, then marks it; returns its ledger entry.

        arrays: for each array's path its values, (span images, …) of the array's own type. record:
        what to remember of the work. Raises ValueError, before anything is
        touched, for a span that is no shard, an array missing or unknown, a wrong shape or type.
        """
        self._check(span, arrays, digests)
        ids = self._ids(span.rows)
        # From here to `mark` the shard does not exist. The mark goes first: a process killed after
        # the next line has lost this shard's work, one killed before it in the other order would
        # have left a mark on a torn shard. All of it is flushed in this order: a power loss could
        # keep a mark and lose the shard written before it.
        with writing(self.files.url(self.path)):
            self.ledger.drop(span.index)
            written: dict[str, list] = {}
            store = recording(self.files.zarr(self.path, read_only=False), written)
            for spec in self.specs:
                # zarr reads the old shard before it writes the new one, and cannot if that was
                # torn. So it must be gone.
                self.files.remove(f"{self.path}/{spec.shard_file(span.index)}")
                values = np.ascontiguousarray(arrays[spec.path])
                if spec.mantissa_bits is not None:
                    values = round_mantissa(values, spec.mantissa_bits)
                self._array(spec.path, writable=store)[span.rows] = values
            self.files.flush(f"{self.path}/{spec.shard_file(span.index)}" for spec in self.specs)
        entry = LedgerEntry(
            span.index,
            span.start,
            span.stop,
            ids,
            list(digests),
            {(name := spec.shard_file(span.index)): written[name] for spec in self.specs},
            record or ShardRecord(),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.ledger.mark(entry)
        return entry

    def read(self, span: Span, paths: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The values of one shard's images: (span images, …) for each path (default: every
        array).
        """
        return {path: self._array(path)[span.rows] for path in self._paths(paths)}

    def read_rows(
        self, rows: Sequence[int] | np.ndarray, paths: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The values of any images, by their rows and in that order: (len(rows), …) for each
        path.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.images:
            raise ValueError(
                f"{self.path}: rows {rows.min()} … {rows.max()} are not all on an axis of"
                f" {self.images} images"
            )
        return {path: self._gather(self._array(path), rows) for path in self._paths(paths)}

    def _gather(self, array, rows: np.ndarray) -> np.ndarray:
        """`array[rows]`, shard by shard: zarr's own fancy indexing takes 20 ms an image of a
        shard, a slice 1–2.
        """
        values = np.empty((len(rows), *array.shape[1:]), array.dtype)
        shards = rows // self.shard_images
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            inside = rows[wanted]
            start, stop = int(inside.min()), int(inside.max()) + 1
            # Dense: what is read in vain costs less than reading one by one.
            if stop - start <= 2 * len(wanted):
                values[wanted] = array[start:stop][inside - start]
            else:
                values[wanted] = [array[int(row)] for row in inside]
        return values

    def records(self) -> list[LedgerEntry]:
        """The ledger's entries, by shard."""
        return list(self.ledger.entries().values())

    def damage(self, entry: LedgerEntry, *, contents: bool = False) -> list[str]:
        """What is wrong with a marked shard's files, one line each: absent, of another size, or
        (`contents`) altered.
        """
        problems = []
        names = [f"{self.path}/{name}" for name in entry.files]
        there: Any = (
            self.files.read_many(names) if contents else [self.files.size(name) for name in names]
        )
        for (name, (size, sha256)), found in zip(entry.files.items(), there, strict=True):
            if found is None:
                problems.append(f"{name} is absent")
            elif (length := len(found) if contents else found) != size:
                problems.append(f"{name} has {length} bytes of {size}")
            elif contents and digest_bytes(found) != sha256:
                problems.append(f"{name} has other contents than were written")
        return problems

    def _check_digests(self, digests: Sequence[str], images: int) -> None:
        if len(digests) != images:
            raise ValueError(f"{self.path}: {len(digests)} digests for {images} images")

    def _check(self, span: Span, arrays: Mapping[str, np.ndarray], digests: Sequence[str]) -> None:
        if span not in self.spans():
            raise ValueError(
                f"{self.path}: {span} is not a shard of {self.images} images in shards of"
                f" {self.shard_images}"
            )
        self._check_digests(digests, span.images)
        specs = {spec.path: spec for spec in self.specs}
        if wrong := sorted({*specs} ^ {*arrays}):
            state = "missing" if wrong[0] in specs else "unknown"
            raise ValueError(
                f"{self.path}: array {wrong[0]} is {state} ({len(wrong)} arrays differ)"
            )
        for path, values in arrays.items():
            wanted = ((span.images, *specs[path].shape), np.dtype(specs[path].dtype))
            if (np.shape(values), np.asarray(values).dtype) != wanted:
                raise ValueError(
                    f"{self.path}: {path} must be {wanted[1]} {wanted[0]}, got"
                    f" {np.asarray(values).dtype} {np.shape(values)}"
                )

    def _paths(self, paths: Sequence[str] | None) -> Sequence[str]:
        return [spec.path for spec in self.specs] if paths is None else paths

    def _array(self, path: str, writable=None):
        """The Zarr array at `path` as it was last committed; its metadata are known, so nothing
        is read to open it. writable: the Zarr store to write it through; only to be read without.
        """
        import zarr
        from zarr.core.metadata import ArrayV3Metadata
        from zarr.storage import StorePath

        place = StorePath(writable or self.files.zarr(self.path, read_only=True), path)
        metadata = ArrayV3Metadata.from_dict(self.nodes[path])
        array = zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=place))
        return array.with_config({"write_empty_chunks": True}) if writable else array
