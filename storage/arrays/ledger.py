"""Which shards exist: one small JSON file per finished shard, beside the store and never in it.

The arrays cannot tell: a shard that was torn, or written for other inputs, looks like any other. So
the entry is written after the shard's last byte is on the disk, and removed before its first is
touched again. Between the two there is no entry, and the shard counts as absent. An entry that
cannot be read counts as absent too.
"""

import hashlib
import json
from dataclasses import dataclass

from storage.files.files import Files


def ledger_folder(path: str) -> str:
    """Where the ledger of a store lies: beside it.

    >>> (
    ...     ledger_folder("fundus/0123456789ab.zarr"),
    ...     ledger_folder("explanations/0123456789ab/attributions.zarr"),
    ... )
    ('fundus/0123456789ab.ledger', 'explanations/0123456789ab/ledger')
    """
    folder, _, name = path.rpartition("/")
    return (
        f"{folder}/ledger"
        if name == "attributions.zarr"
        else f"{path.removesuffix('.zarr')}.ledger"
    )


@dataclass(frozen=True)
class Ledger:
    """The entries of one store: `folder/<shard>.json`."""

    files: Files
    folder: str

    def name(self, shard: int) -> str:
        return f"{self.folder}/{shard:06d}.json"

    def entry(self, shard: int) -> dict | None:
        """What is recorded of a shard, or None where it is not finished."""
        return _whole(self.files.read_json(self.name(shard)))

    def entries(self) -> dict[int, dict]:
        """All finished shards, by number."""
        names = [
            f"{self.folder}/{name}"
            for name in self.files.names(self.folder)
            if name.endswith(".json")
        ]
        found = {}
        for data in self.files.read_many(names):
            try:
                entry = _whole(json.loads(data)) if data else None
            except ValueError:
                entry = None
            if entry is not None:
                found[entry["shard"]] = entry
        return dict(sorted(found.items()))

    def mark(self, entry: dict) -> None:
        """Records a finished shard. The last step of writing it."""
        if _whole(entry) is None:
            raise ValueError("a ledger entry needs shard, start, stop, digests and image_ids")
        self.files.write_json(self.name(entry["shard"]), entry)

    def drop(self, shard: int) -> None:
        """Forgets a shard, so that it is computed again. The first step of rewriting it."""
        self.files.remove(self.name(shard))

    def modified(self) -> float:
        """When a shard was last marked, in seconds since 1970; 0 for an empty ledger."""
        return self.files.newest(self.folder)


def _whole(entry) -> dict | None:
    """`entry` if it says all that an entry must."""
    needed = {"shard", "start", "stop", "digests", "image_ids"}
    if not isinstance(entry, dict) or not needed <= entry.keys():
        return None
    images = entry["stop"] - entry["start"]
    return entry if len(entry["digests"]) == len(entry["image_ids"]) == images else None


def recording(store):
    """`store`, remembering the size and sha256 of every file written through it: `.written[key]
    = [bytes, sha256]`.
    """
    from zarr.storage import WrapperStore

    class Recording(WrapperStore):
        written: dict

        async def set(self, key, value, *rest):
            self.written[key] = [len(value), hashlib.sha256(value.as_buffer_like()).hexdigest()]
            return await self._store.set(key, value, *rest)

        def _with_store(self, store):
            other = type(self)(store)
            other.written = self.written
            return other

    recording = Recording(store)
    recording.written = {}
    return recording
