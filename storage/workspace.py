"""The workspace's layout, and the doors to what lies in it. Opening one creates nothing."""

import contextlib
import functools
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import dataset, parquet

from storage import layout
from storage.contents import explanations, fundus, models
from storage.contents.records import LATEST
from storage.errors import NotThere, Refused, one_line
from storage.files.files import Files, is_url
from storage.files.formats import check_format
from storage.files.lock import lock
from storage.files.proxies import ask_directly
from storage.tables import parts as tables
from storage.tables import schemas

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# Version of the layout.
FORMAT = 1
# In an object store's URL: what fsspec expands, also in what it removes, and its sign for chained
# URLs.
URL_PATTERN = re.compile(r"[*?\[\]]|::")
# DuckDB takes a backslash for a slash and a folder named like a partition for one.
# What is not UTF-8 stands in no table.
UNREADABLE_PATH = re.compile(r"\\|[\ud800-\udfff]|/(?:preprocess|model|explain)_id=[^/]*")


def open_workspace(location: str | Path, *, must_exist: bool = False) -> "Workspace":
    """The workspace at a folder or an fsspec URL (`s3://bucket/prefix`), which need not exist yet.

    must_exist: for whoever only reads. Without it the place is not looked at, and a workspace that
    nobody has made reads as an empty one. Raises ValueError for an empty location, a file where the
    folder should be, or a name that a library would misread; with `must_exist`, FileNotFoundError
    where no workspace is and OtherFormat for one of a newer version.
    """
    text = str(location).removeprefix("file://")
    if not text.strip():
        raise Refused("the workspace needs a folder or a URL such as s3://bucket/prefix")
    if is_url(text):
        ask_directly()  # an object store may be on this machine
        _refuse(text, URL_PATTERN, "fsspec would take that for a pattern or a chain of URLs")
        text = text.rstrip("/")
    else:
        text = str(Path(text).expanduser().resolve())
        _refuse(text, UNREADABLE_PATH, "DuckDB or Parquet would misread it")
        if os.path.exists(text) and not os.path.isdir(text):
            raise Refused(f"{text} is a file; a workspace is a folder")
    workspace = Workspace(text)
    if must_exist:
        try:
            there = workspace.files.names("")
        except Exception as error:  # a client of an object store raises what it likes
            advice = "check the place, and that you may read it"
            raise Refused(f"{text} cannot be read: {one_line(error)}; {advice}") from error
        if layout.FOLDERS.isdisjoint(there):
            advice = "check the place, or make one with dr run CONFIG.toml"
            raise NotThere(f"there is no workspace at {text}: {advice}")
        workspace.check_format()
    return workspace


def _refuse(location: str, pattern: re.Pattern, reason: str) -> None:
    if found := pattern.search(location):
        shown, odd = (
            os.fsencode(text).decode(errors="backslashreplace")
            for text in (location, found[0].strip("/"))
        )
        raise Refused(
            f"{shown} cannot be a workspace: {reason} ({odd} in its name); choose another name"
        )


@dataclass(frozen=True)
class Workspace:
    """One workspace. Holds only its location, so it travels to workers as it is."""

    location: str

    @functools.cached_property
    def files(self) -> Files:
        """Small files, whole or not at all."""
        return Files(self.location)

    @property
    def is_local(self) -> bool:
        return self.files.is_local

    def check_format(self) -> bool:
        """Whether the workspace says of which version its layout is. Raises OtherFormat."""
        found = self.files.read_json(layout.FORMAT)
        check_format(found or {}, FORMAT, self.location)
        return bool(found)

    @contextlib.contextmanager
    def lock(self, name: str = "run") -> Generator[None]:
        """Holds the lock `name` inside the `with` block, so that no other process can hold it.

        Whoever is to write holds one, so here the version of the layout is written down. Raises
        WorkspaceLocked, and OtherFormat for a workspace of a newer version.
        """
        with lock(self.files, name):
            if not self.check_format():
                self.files.write_json(layout.FORMAT, {"format": FORMAT})
            yield

    # The catalogue's files

    def photos(self) -> "pd.DataFrame":
        """The manifest, one row per photograph; no rows before the first ingest."""
        return self.part("photos")

    def rejects(self) -> "pd.DataFrame":
        """Photographs and label rows set aside, with the reason."""
        return self.part("rejects")

    def _check_positions(self, frame) -> None:
        new = schemas.to_table("photos", frame).select(["image_id", "position"]).to_pandas()
        if sorted(new["position"]) != list(range(new["image_id"].nunique())):
            raise ValueError(
                "photos: positions must be 0, 1, 2, … each once, and every image_id once"
            )
        old = self.photos().set_index("image_id")["position"]
        if moved := old.index[
            old != new.set_index("image_id")["position"].reindex(old.index)
        ].tolist():
            raise ValueError(
                f"photos: {moved[0]} and {len(moved) - 1} more would move or vanish; positions only"
                " grow"
            )

    # Tables

    def table(self, name: str) -> dataset.Dataset:
        """A table's parts as one dataset, with the partition's id as a column; empty where
        nothing is there yet.
        """
        if name in layout.CATALOGUE_TABLES:
            return dataset.dataset(schemas.to_table(name, self.part(name)))
        return tables.dataset(self.files, name)

    def frame(self, name: str, **equals) -> "pd.DataFrame":
        """A table as a DataFrame, only the rows where each named column has the given value, or one
        of a list of them.

        `preprocess_id="latest"`, `model_id="latest"` and `explain_id="latest"` stand for the latest
        one.
        """
        return schemas.to_frame(self.table(name).to_table(filter=self._filter(equals)))

    def _filter(self, equals: dict):
        latest = {
            "preprocess_id": lambda: fundus.pick_fundus(self.files),
            "model_id": self.latest_model,
            "explain_id": self.latest_explanation,
        }
        tests = []
        for column, value in equals.items():
            if value == LATEST and column in latest:
                value = latest[column]()
            values = [None] if value is None else value
            # Only an equation skips a part's row groups by their statistics.
            tests.append((column, "in" if isinstance(values, list) else "=", values))
        return parquet.filters_to_expression(tests) if tests else None

    def count(self, name: str, **equals) -> int:
        """How many rows `frame` would give."""
        return self.table(name).count_rows(filter=self._filter(equals))

    def write_table(
        self,
        name: str,
        frame,
        *,
        partition: str | None = None,
        part: str = "part",
        digest: str | None = None,
    ) -> str:
        """Writes one part of a table, replacing an older one of that name; returns where it lies.
        A catalogue's table is one file, and is left alone where it says so already.

        digest: of what the rows were made from, kept in the file for `has_part`. Raises ValueError
        where a photograph of the manifest would change its position or vanish.
        """
        if name == "photos":
            self._check_positions(frame)
        path, data = tables.part_path(name, partition, part), tables.encode(name, frame, digest)
        write = self.files.update if name in layout.CATALOGUE_TABLES else self.files.write
        write(path, data)
        return path

    def has_part(self, name: str, partition: str | None, part: str, digest: str) -> bool:
        """Whether a part of a table has been written, from what has this digest."""
        return tables.part_digest(self.files, tables.part_path(name, partition, part)) == digest

    def part_digests(self, name: str, partition: str | None) -> dict[str, str | None]:
        """The digest of every part of a partition, by the part's name; empty text where it was
        written without one.
        """
        return {
            part: tables.part_digest(self.files, tables.part_path(name, partition, part))
            for part in self.parts(name, partition)
        }

    def parts(self, name: str, partition: str | None) -> list[str]:
        """The names of a partition's parts."""
        return tables.parts(self.files, name, partition)

    def part(self, name: str, partition: str | None = None, part: str = "part") -> "pd.DataFrame":
        """One part of a table as a DataFrame; empty where it is not there. Of hundreds of parts
        no other is looked at.
        """
        return tables.read_file(self.files, tables.part_path(name, partition, part), name)

    def remove_part(self, name: str, partition: str, part: str) -> None:
        """Removes one part of a table, if it is there."""
        self.files.remove(tables.part_path(name, partition, part))

    # Arrays

    def preprocess_ids(self) -> list[str]:
        """The preprocessings that have a store, oldest first."""
        return fundus.preprocess_ids(self.files)

    def fundus(self, preprocess_id: str = LATEST, *, chunks=None) -> "xr.Dataset":
        """The normalised fundus images and their geometry, read when used; with `chunks` ({"image":
        64}) as Dask arrays.

        `image_id` indexes the images: `ws.fundus().sel(image_id="10_left")`. Rows with status 0 are
        still to be done.
        """
        return fundus.open_fundus(self.files, preprocess_id, chunks=chunks)

    def attributions(self, explain_id: str = LATEST, *, chunks=None) -> "xr.DataTree":
        """Everything attributed, read when used: the groups `pixels` and `layers/<layer>`,
        indexed by `image_id`.
        """
        return explanations.open_attributions(self.files, explain_id, chunks=chunks)

    def explanations(self) -> list[explanations.ExplanationRecord]:
        """The record of every explanation, oldest first."""
        return explanations.load_records(self.files)

    def latest_explanation(self) -> str:
        """The id of the explanation made last. Raises FileNotFoundError before the first."""
        return explanations.load_record(self.files).explain_id

    def models(self) -> list[models.ModelRecord]:
        """The record of every model, oldest first."""
        return models.load_records(self.files)

    def latest_model(self) -> str:
        """The id of the model made last. Raises FileNotFoundError before the first."""
        return models.load_record(self.files).model_id
