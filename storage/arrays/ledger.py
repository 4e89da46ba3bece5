"""Which shards exist: one small JSON file per finished shard, beside the store and never in it.

The arrays cannot tell: a shard that was torn, or written for other inputs, looks like any other. So
the entry is written after the shard's last byte is on the disk, and removed before its first is
touched again. Between the two there is no entry, and the shard counts as absent. An entry that
cannot be read counts as absent too; one of a newer version is refused, and so is its store.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from storage.arrays.specs import Span
from storage.files.files import Files
from storage.files.formats import Part, Record
from storage.ids import digest_bytes


@dataclass(frozen=True)
class ShardRecord(Part):
    """What the work on a shard left to remember.

    failed, rejects: by image id, why it has no result. images: computed in this work; seconds and
    passes (points at which gradients were taken) are theirs. gap_median, unconverged: of all.
    """

    images: int = 0
    seconds: float = 0.0
    passes: int = 0
    peak_memory_bytes: int = 0
    gap_median: float | None = None
    unconverged: int = 0
    worker: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    rejects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerEntry(Record):
    """A finished shard: its rows of the image axis, the ids and digests of its images, its files.

    digests: one for each image, of everything that its values depend on. files: [bytes, sha256] by
    the file's name inside the store. FORMAT is that of the entry and of the shard's files.
    """

    PARTS: ClassVar[Mapping[str, type[Part]]] = {"record": ShardRecord}
    shard: int
    start: int
    stop: int
    image_ids: Sequence[str]
    digests: Sequence[str]
    files: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    record: ShardRecord = field(default_factory=ShardRecord)
    written: str = ""

    @property
    def span(self) -> Span:
        return Span(self.shard, self.start, self.stop)

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True)
class Ledger:
    """The entries of one store: `folder/<shard>.json`."""

    files: Files
    folder: str

    def name(self, shard: int) -> str:
        return f"{self.folder}/{shard:06d}.json"

    def entry(self, shard: int) -> LedgerEntry | None:
        """What is recorded of a shard, or None where it is not finished. Raises OtherFormat."""
        return self._read([self.name(shard)]).get(shard)

    def entries(self) -> dict[int, LedgerEntry]:
        """All finished shards, by number. Raises OtherFormat."""
        names = [name for name in self.files.names(self.folder) if name.endswith(".json")]
        return self._read([f"{self.folder}/{name}" for name in names])

    def mark(self, entry: LedgerEntry) -> None:
        """Records a finished shard. The last step of writing it."""
        self.files.write_json(self.name(entry.shard), entry.as_json())

    def drop(self, shard: int) -> None:
        """Forgets a shard, so that it is computed again. The first step of rewriting it."""
        self.files.remove(self.name(shard))

    def _read(self, names: Sequence[str]) -> dict[int, LedgerEntry]:
        """The entries in those files that say all that an entry must."""
        entries = {}
        for name, data in zip(names, self.files.read_many(list(names)), strict=True):
            try:
                entry = LedgerEntry.parse(json.loads(data or b""), self.files.url(name))
            except (ValueError, AttributeError, TypeError):  # torn, no table, a field is missing
                continue
            if len(entry.digests) == len(entry.image_ids) == entry.span.images:
                entries[entry.shard] = entry
        return dict(sorted(entries.items()))


def recording(store, written: dict[str, list]):
    """`store`, noting the size and sha256 of every file written through it: `written[key] =
    [bytes, sha256]`.
    """
    from zarr.storage import WrapperStore

    class Recording(WrapperStore):
        async def set(self, key, value, *rest):
            written[key] = [len(value), digest_bytes(value.as_buffer_like())]
            return await self._store.set(key, value, *rest)

    return Recording(store)
