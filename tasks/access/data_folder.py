"""The data folder as every step that reads it sees it: refused where its labels cannot be used."""

from storage.photos.source import PhotoSource
from tasks.run.errors import UserError
from tasks.run.session import photo_source


def labelled_source(photos: str, labels_needed: bool) -> PhotoSource:
    """The photographs and labels at a place. Raises UserError if the labels cannot be used; if
    needed, also if there are none.
    """
    source = photo_source(photos)
    if fault := source.label_fault(labels_needed):
        raise UserError(fault)
    return source
