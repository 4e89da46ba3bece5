"""All sources of a configuration as one: ids and paths carry the source's name where there are
several, so that equal names in two sources stay two photographs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.errors import Refused
from storage.photos.source import PhotoSource, label_frame
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
        self.parts = {
            f"{source.name}/" if several else "": PhotoSource(source) for source in sources
        }

    def __reduce__(self):
        return PhotoSources, (tuple(part.given for part in self.parts.values()),)

    @property
    def needs_copies(self) -> bool:
        """Whether copies of one photograph have to be looked for: where there are several sources,
        or where names do not say whose eye a photograph shows.
        """
        return len(self.parts) > 1 or any(
            photo.patient is None for part in self.parts.values() for photo in part.photographs()
        )

    def photographs(self) -> list[Photograph]:
        """The usable photographs, source by source, each ordered by id."""
        if (alone := self.parts.get("")) and alone.given.name == "":
            return alone.photographs()
        return [
            photo._replace(
                image_id=prefix + photo.image_id,
                path=prefix + photo.path,
                patient=None if photo.patient is None else prefix + photo.patient,
                source=part.given.name,
                use=part.given.use,
            )
            for prefix, part in self.parts.items()
            for photo in part.photographs()
        ]

    def labels(self) -> "pd.DataFrame":
        """The valid labels: image_id, stage (int8), split_hint, usage (None where not given),
        source (file:line).
        """
        return label_frame(
            [
                label._replace(image_id=prefix + label.image_id, source=prefix + label.source)
                for prefix, part in self.parts.items()
                for label in part.valid_labels()
            ]
        )

    def problems(self) -> list[Problem]:
        """Everything set aside, with its reason."""
        return [
            problem._replace(
                path=None if problem.path is None else prefix + problem.path,
                image_id=None if problem.image_id is None else prefix + problem.image_id,
            )
            for prefix, part in self.parts.items()
            for problem in part.problems()
        ]

    def label_fault(self, required: bool = True) -> str | None:
        """Why the labels cannot be used, then what to do, in one line; None where they can.

        Without `required`, photographs that nobody labelled are no fault; of several sources to
        learn from one has to be labelled.
        """
        for part in self.parts.values():
            if fault := part.label_fault(required=False):
                return fault
        taught = [part for part in self.parts.values() if part.given.use == "train"]
        faults = [part.label_fault(required) for part in taught]
        return faults[0] if faults and all(faults) else None

    def name_of(self, path: str | None) -> str | None:
        """The name of the source that a path lies in; None for the one without a name."""
        if "" in self.parts:
            return self.parts[""].given.name or None
        return None if path is None else path.partition("/")[0]

    def read(self, path: str) -> bytes:
        """The bytes of a photograph. Raises OSError where it cannot be read, ValueError for a
        path that leads outside or into no source.
        """
        if "" in self.parts:
            return self.parts[""].read(path)
        name, _, inner = path.partition("/")
        if (part := self.parts.get(f"{name}/")) is None:
            raise Refused(f"{path} lies in none of the sources of this configuration")
        return part.read(inner)
