"""All sources of a configuration as one: ids and paths carry the source's name where there are
several, so that equal names in two sources stay two photographs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.errors import Refused
from storage.photos.source import PhotoSource
from storage.photos.types import Photograph, Problem, Source

if TYPE_CHECKING:
    import pandas as pd


class PhotoSources:
    """The photographs and labels of one source or several. Safe to send to a worker.

    Raises FileNotFoundError or ValueError for a source that is not there or is neither folder nor
    zip.
    """

    def __init__(self, sources: Sequence[Source]):
        several = len(sources) > 1
        self.parts = [
            PhotoSource(source, f"{source.name}/" if several else "") for source in sources
        ]

    def __reduce__(self):
        return PhotoSources, (tuple(part.given for part in self.parts),)

    @property
    def needs_copies(self) -> bool:
        """Whether copies of one photograph have to be looked for: where there are several sources,
        or where names do not say whose eye a photograph shows.
        """
        return len(self.parts) > 1 or any(photo.patient is None for photo in self.photographs())

    def photographs(self) -> list[Photograph]:
        """The usable photographs, source by source, each ordered by id."""
        return [photo for part in self.parts for photo in part.photographs()]

    def labels(self) -> "pd.DataFrame":
        """The valid labels, as `PhotoSource.labels` gives them."""
        import pandas as pd

        return pd.concat([part.labels() for part in self.parts], ignore_index=True)

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return [problem for part in self.parts for problem in part.problems()]

    def label_fault(self, required: bool = True) -> str | None:
        """Why the labels cannot be used, then what to do, in one line; None where they can.

        Without `required`, photographs that nobody labelled are no fault; of several sources to
        learn from one has to be labelled.
        """
        for part in self.parts:
            if fault := part.label_fault(required=False):
                return fault
        faults = [part.label_fault(required) for part in self.parts if part.given.use == "train"]
        return faults[0] if faults and all(faults) else None

    def name_of(self, path: str | None) -> str | None:
        """The name of the source that a path lies in; None for the one without a name."""
        part = self._part_of(path or "")
        return (part.given.name or None) if part else None

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside or into no source.
        """
        if (part := self._part_of(path)) is None:
            raise Refused(f"{path} lies in none of the sources of this configuration")
        return part.read(path)

    def _part_of(self, path: str) -> PhotoSource | None:
        return next((part for part in self.parts if path.startswith(part.prefix)), None)
