"""What is in each photograph's file. One that was read before and has kept path, size and stamp is
not opened again.

Remembered is what a file's bytes say: what it is, or why it is none. That a file could not be read
is not, since a permission or a cable mends without the file changing.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pandas as pd

from dr_lib.fundus.photo import UnreadablePhoto, inspect
from storage.photos.fingerprints import wait_until_settled
from storage.photos.source import PhotoSource
from storage.photos.types import Photograph
from tasks.run.progress import progress

BATCH = (
    512  # photographs on their way at once, so that a data set of any size takes the same memory
)


class Finding(NamedTuple):
    """What a file's bytes are: an image of some size, or none for a reason. `lasting`: as long
    as the file stays as it is.
    """

    sha256: str = ""
    width_px: int = 0
    height_px: int = 0
    reason: str | None = None
    detail: str = ""
    lasting: bool = True


Look = tuple[str, int, str]  # how a file looks from outside: path, bytes, stamp


def remembered(photos: pd.DataFrame, rejects: pd.DataFrame) -> dict[Look, Finding]:
    """The lasting findings of earlier ingests, by how the files looked then."""
    known, sizes = {}, {}
    for row in photos.itertuples(index=False):
        sizes[row.sha256] = row.width_px, row.height_px
        if isinstance(row.stamp, str):
            known[row.source, row.bytes, row.stamp] = Finding(
                row.sha256, row.width_px, row.height_px
            )
    for row in rejects[rejects["stamp"].notna()].itertuples(index=False):
        if not isinstance(row.sha256, str):
            known[row.source, row.bytes, row.stamp] = Finding(reason=row.reason, detail=row.detail)
        elif (
            row.sha256 in sizes
        ):  # a second copy is as large as the first, and may be the only one by now
            known[row.source, row.bytes, row.stamp] = Finding(row.sha256, *sizes[row.sha256])
    return known


def inspected(
    source: PhotoSource,
    photographs: Sequence[Photograph],
    known: Mapping[Look, Finding],
    stage: str,
) -> tuple[dict[str, tuple[Photograph, Finding]], list[dict[str, Any]]]:
    """By id the photographs that can be used, and rejects for those empty, unreadable, no image,
    or the copy of another.
    """
    usable, rejects, first_with = {}, [], {}
    for photo, finding in _findings(source, photographs, known, stage):
        if (
            finding.reason is None
            and (first := first_with.setdefault(finding.sha256, photo.image_id)) != photo.image_id
        ):
            finding = finding._replace(
                reason="duplicate_content", detail=f"the same file as {first}"
            )
        if finding.reason is None:
            usable[photo.image_id] = photo, finding
            continue
        reject: dict[str, Any] = {
            "image_id": photo.image_id,
            "source": photo.path,
            "reason": finding.reason,
            "detail": finding.detail,
        }
        if finding.lasting:
            reject |= {"bytes": photo.bytes, "stamp": photo.stamp, "sha256": finding.sha256 or None}
        rejects.append(reject)
    return usable, rejects


def _findings(
    source: PhotoSource,
    photographs: Sequence[Photograph],
    known: Mapping[Look, Finding],
    stage: str,
) -> Iterator[tuple[Photograph, Finding]]:
    # Reading and hashing leave the interpreter's lock, so threads serve; a process each would only
    # copy the bytes.
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        progress(stage, len(photographs), "photographs") as advance,
    ):
        for start in range(0, len(photographs), BATCH):
            batch = photographs[start : start + BATCH]
            unknown = [photo for photo in batch if photo[2:] not in known]
            wait_until_settled(photo.stamp for photo in unknown)
            read = dict(
                zip(
                    unknown,
                    threads.map(lambda photo: _finding(source, photo.path), unknown),
                    strict=True,
                )
            )
            yield from ((photo, read.get(photo) or known[photo[2:]]) for photo in batch)
            advance(len(batch))


def _finding(source: PhotoSource, path: str) -> Finding:
    try:
        content = source.read(path)
        _, width_px, height_px = inspect(content)
    except UnreadablePhoto as error:
        return Finding(reason=error.reason, detail=error.detail)
    except OSError as error:
        return Finding(reason="unreadable", detail=error.strerror or str(error), lasting=False)
    return Finding(hashlib.sha256(content).hexdigest(), width_px, height_px)
