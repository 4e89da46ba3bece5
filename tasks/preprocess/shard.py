"""What a worker does with one shard of photographs: decode, normalise, write it, mark it. Knows no
Prefect.

A photograph is set aside for what is its own alone: it cannot be read, decoded or graded, or it
killed its worker though nothing else ran there. Whatever else is raised leaves the shard unmarked.
"""

import contextlib
import dataclasses
import errno
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dr_lib.fundus import PreprocessParams, normalise
from dr_lib.fundus.photo import UnreadablePhoto, UnusablePhoto
from dr_lib.fundus.quality import MEASURES as QUALITY_MEASURES
from storage import open_workspace
from storage.arrays.ledger import ShardRecord
from storage.arrays.store import ShardedStore, Span
from storage.contents.fundus import DONE, REJECTED
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.access.stores import blank_but, shard_record

# Arrays of their own; the score is the array `quality`, and confidence belongs to the geometry.
MEASURES = [name for name in QUALITY_MEASURES if name not in ("score", "confidence")]
GEOMETRY = ("diameter", "centre_y", "centre_x", "aspect", "confidence", "reduction")
# What reading a file may say of the machine instead of the file.
SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class ShardPhotograph(NamedTuple):
    """A photograph of a shard. path: in its source. sha256: empty if there is nothing to make."""

    image_id: str
    path: str
    sha256: str
    kept: bool

    @property
    def pending(self) -> bool:
        """Whether it has to be worked on."""
        return bool(self.sha256) and not self.kept


@dataclasses.dataclass(frozen=True)
class PreprocessJob:
    """One shard to make, as `preprocess_shard` takes it.

    location: the workspace. path: the store in it. sources: of the photographs. fatal:
    photographs that killed their worker, by path, with the reason.
    """

    location: str
    path: str
    sources: tuple[Source, ...]
    params: PreprocessParams
    span: Span
    photographs: Sequence[ShardPhotograph]
    fatal: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def new_images(self) -> int:
        return sum(photograph.pending for photograph in self.photographs)


def try_photographs(
    names: Sequence[str], sources: tuple[Source, ...], params: PreprocessParams
) -> None:
    """The work of a shard without its result: run on a worker to find what kills it. Without names:
    of a drawn disc.
    """
    photos = PhotoSources(sources)
    for name in names:
        try:
            normalise(photos.read(name), params)
        except (UnusablePhoto, OSError):
            continue
    if not names:
        disc = cv2.circle(
            np.zeros((512, 512, 3), np.uint8), (256, 256), 240, (40, 80, 160), cv2.FILLED
        )
        with contextlib.suppress(UnusablePhoto):
            normalise(cv2.imencode(".jpg", disc)[1].tobytes(), params)


def preprocess_shard(job: PreprocessJob) -> int:
    """Runs on a worker: makes, writes and marks one shard; rows to keep are copied from the old
    one. Returns new rows.
    """
    cv2.setNumThreads(1)
    store = ShardedStore.open(open_workspace(job.location).files, job.path)
    span, photos = job.span, PhotoSources(job.sources)
    digests = [photograph.sha256 for photograph in job.photographs]
    kept = {photograph.image_id for photograph in job.photographs if photograph.kept}
    arrays = blank_but(store, span, np.array([one.kept for one in job.photographs], bool))
    # What an earlier call set aside in this shard and is not looked at again keeps its reason.
    earlier = shard_record(store, span).rejects
    rejects = {image_id: reject for image_id, reject in earlier.items() if image_id in kept}
    for row, photograph in enumerate(job.photographs):
        if not photograph.pending:
            continue  # kept, or gone before anything was made of it
        name = photograph.path
        try:
            if name in job.fatal:
                raise UnreadablePhoto("kills_worker", job.fatal[name])
            fundus = normalise(photos.read(name), job.params)
        except UnusablePhoto as error:
            reject = {"source": name, "reason": error.reason, "detail": error.detail}
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            reject = {"source": name, "reason": "unreadable", "detail": str(error)}
            digests[row] = ""  # it could be read when it was catalogued: the next run tries again
        else:
            measures = dataclasses.asdict(fundus.disc) | {"reduction": fundus.reduction}
            measures = {name: measures[name] for name in GEOMETRY}
            measures |= {name: fundus.quality[name] for name in MEASURES}
            measures |= {
                "quality": fundus.quality["score"],
                "pixels": fundus.pixels,
                "status": DONE,
            }
            for path, value in measures.items():
                arrays[path][row] = value
            continue
        rejects[photograph.image_id] = reject
        arrays["status"][row] = REJECTED
    store.write_shard(span, arrays, digests=digests, record=ShardRecord(rejects=rejects))
    return job.new_images
