"""What is in each photograph's file. One that was read before and has kept path, size and stamp is
not opened again.

Remembered is what a file's bytes say: what it is, or why it is none. That a file could not be read
is not, since a permission or a cable mends without the file changing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pandas as pd

from dr_lib.fundus.fingerprint import look_at
from dr_lib.fundus.photo import UnreadablePhoto, inspect
from storage.ids import digest_bytes
from storage.photos.fingerprints import wait_until_settled
from storage.photos.sources import PhotoSources
from storage.photos.types import Photograph
from tasks.run.progress import progress

BATCH = (
    512  # photographs on their way at once, so that a data set of any size takes the same memory
)


class Finding(NamedTuple):
    """What a file's bytes are: an image of some size, or none for a reason. `lasting`: as long
    as the file stays as it is. fingerprint, side: of its retina, where these were asked for.
    """

    sha256: str = ""
    width_px: int = 0
    height_px: int = 0
    reason: str | None = None
    detail: str = ""
    lasting: bool = True
    fingerprint: str | None = None
    side: str | None = None


Look = tuple[str, int, str]  # how a file looks from outside: path, bytes, stamp


def remembered(photos: pd.DataFrame, rejects: pd.DataFrame, looked_at: bool) -> dict[Look, Finding]:
    """The lasting findings of earlier ingests, by how the files looked then. looked_at: only those
    with a fingerprint.
    """
    known, sizes = {}, {}
    for row in rows_of(photos):
        if row.fingerprint or not looked_at:
            size = row.sha256, row.width_px, row.height_px
            sizes[row.sha256] = Finding(*size, fingerprint=row.fingerprint, side=row.eye)
            known[row.path, row.bytes, row.stamp] = sizes[row.sha256]
    for row in rows_of(rejects):
        look = row.path, row.bytes, row.stamp
        if not row.sha256:
            known[look] = Finding(reason=row.reason, detail=row.detail)
        elif row.sha256 in sizes:  # a second copy is as large as the first, and may now be alone
            known[look] = sizes[row.sha256]
    return {look: finding for look, finding in known.items() if look[2]}


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """A frame's rows by their columns' names, None for what is missing."""
    return frame.astype(object).where(frame.notna(), None).itertuples(index=False)


class Inspected(NamedTuple):
    """By id the photographs that can be used; rejects for those empty, unreadable, no image, or the
    copy of another; and those copies, each with the id of the first.
    """

    usable: dict[str, tuple[Photograph, Finding]]
    rejects: list[dict[str, Any]]
    second_copies: list[tuple[Photograph, str]]


def inspected(
    sources: PhotoSources,
    photographs: Sequence[Photograph],
    known: Mapping[Look, Finding],
    look: bool,
) -> Inspected:
    """What is in each photograph's file. look: decode it too, for its fingerprint and its side."""
    usable, rejects, copies, first_with = {}, [], [], {}
    for photo, finding in _findings(sources, photographs, known, look):
        reason, detail = finding.reason, finding.detail
        if reason is None:
            first = first_with.setdefault(finding.sha256, photo.image_id)
            if first == photo.image_id:
                usable[photo.image_id] = photo, finding
                continue
            reason, detail = "duplicate_content", f"the same file as {first}"
            copies.append((photo, first))
        names = {"image_id": photo.image_id, "path": photo.path, "reason": reason, "detail": detail}
        file = {"bytes": photo.bytes, "stamp": photo.stamp, "sha256": finding.sha256 or None}
        rejects.append(names | file if finding.lasting else names)
    return Inspected(usable, rejects, copies)


def _findings(
    sources: PhotoSources,
    photographs: Sequence[Photograph],
    known: Mapping[Look, Finding],
    look: bool,
) -> Iterator[tuple[Photograph, Finding]]:
    # Reading and hashing leave the interpreter's lock, so threads serve; a process each would only
    # copy the bytes.
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        progress("ingest", len(photographs), "photographs") as advance,
    ):
        for start in range(0, len(photographs), BATCH):
            batch = photographs[start : start + BATCH]
            unknown = [photo for photo in batch if photo.look not in known]
            wait_until_settled(photo.stamp for photo in unknown)
            read = dict(
                zip(
                    unknown,
                    threads.map(lambda photo: _finding(sources, photo.path, look), unknown),
                    strict=True,
                )
            )
            yield from ((photo, read.get(photo) or known[photo.look]) for photo in batch)
            advance(len(batch))


def _finding(sources: PhotoSources, path: str, look: bool) -> Finding:
    try:
        content = sources.read(path)
        header = inspect(content)
    except UnreadablePhoto as error:
        return Finding(reason=error.reason, detail=error.detail)
    except OSError as error:
        return Finding(reason="unreadable", detail=error.strerror or str(error), lasting=False)
    finding = Finding(digest_bytes(content), header.width_px, header.height_px)
    if not look:
        return finding
    seen = look_at(content)
    return finding._replace(fingerprint=seen.fingerprint, side=seen.side)
