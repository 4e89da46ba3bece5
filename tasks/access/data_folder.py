"""The data folders as the steps take them: with labels that can be used."""

from collections.abc import Sequence

from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.run.errors import UserError
from tasks.run.session import photo_sources


def labelled_sources(sources: Sequence[Source], labels_needed: bool) -> PhotoSources:
    """The photographs and labels at these places. Raises UserError if the labels cannot be used;
    `labels_needed`: also if there are none.
    """
    found = photo_sources(sources)
    if fault := found.label_fault(labels_needed):
        raise UserError(fault)
    return found
