"""The units' pictures of the report: which are out of date, and their drawing on workers, eye by
eye, so that each photograph is decoded once."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_lib.report.eyes import DRAWING_VERSION
from dr_lib.report.units import FOLDER, PHOTO_PX, as_fundus, crops, mosaic, mosaic_name
from storage.ids import content_id
from storage.layout import report_path
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.access.contact_sheets import Photos
from tasks.access.stores import as_text, discs, explanation_store, fundus_store, stored_digests
from tasks.run.resolved_ids import ResolvedIds

MADE = f"{FOLDER}/made.json"
EYES_PER_JOB = 32
WINDOW = [f"window_{name}_px" for name in ("top", "left", "height", "width")]
Crops = Mapping[tuple[str, str, int], bytes]  # by mosaic, kind and rank


def pictures_made(ids: ResolvedIds) -> dict[str, list]:
    """By its name, what each picture in the report was made from, and which of its windows show a
    photograph."""
    return ids.workspace.files.read_json(f"{report_path(ids.explain_id)}/{MADE}") or {}


@dataclass(frozen=True)
class CropJob:
    """Some eyes of which windows are cut out. examples: rows of `unit_examples`, with the name of
    the mosaic, each eye's position and its photograph's width_px."""

    ids: ResolvedIds
    sources: tuple[Source, ...]
    examples: pd.DataFrame


def cut_out(job: CropJob) -> Crops:
    """Runs on a worker: the windows of a job."""
    photos = Photos(job.ids.workspace, PhotoSources(job.sources), PHOTO_PX) if job.sources else None
    fundi, cut = fundus_store(job.ids.workspace, job.ids.preprocess_id), {}
    for position, rows in job.examples.groupby("position"):
        fundus = fundi.read_rows([position], ["pixels"])["pixels"][0]
        (disc,) = discs(fundi, [position])
        photo = photos.get(rows["image_id"].iloc[0]) if photos else None
        pictures = [fundus]
        if photo is not None:
            shrunk = photo.shape[1] / rows["width_px"].iloc[0]
            pictures.append(as_fundus(photo, disc.scaled(shrunk)))
        for row in rows.to_dict("records"):
            window = [row[name] for name in WINDOW]
            cut[row["name"], row["kind"], row["rank"]] = crops(pictures, window)
    return cut


class Atlas:
    """The pictures of one report, and what each was made from."""

    def __init__(self, ids: ResolvedIds, sources: tuple[Source, ...]) -> None:
        self.ids, self.sources, self.files = ids, sources, ids.workspace.files
        self.folder = report_path(ids.explain_id)
        examples = ids.workspace.frame("unit_examples", explain_id=ids.explain_id)
        names = map(mosaic_name, examples["layer"], examples["unit"])
        self.examples = examples.assign(name=list(names))
        eyes = stored_digests(explanation_store(ids.workspace, ids.explain_id))
        shown = examples[["kind", "rank", *WINDOW]].assign(eye=examples["image_id"].map(eyes))
        self.digests = {
            name: content_id([DRAWING_VERSION, as_text(rows)])
            for name, rows in shown.groupby(self.examples["name"])
        }
        self.made = pictures_made(ids)
        self.cut: dict[str, dict[tuple[str, int], bytes]] = defaultdict(dict)

    def jobs(self) -> list[CropJob]:
        """The windows of units whose picture is not as it would be now, by eyes."""
        drawn = [
            name for name, (digest, _) in self.made.items() if digest == self.digests.get(name)
        ]
        photos = self.ids.workspace.photos().set_index("image_id")[["position", "width_px"]]
        rows = self.examples[~self.examples["name"].isin(drawn)].join(photos, on="image_id")
        eyes = np.unique(rows["position"])
        groups = [eyes[at : at + EYES_PER_JOB] for at in range(0, len(eyes), EYES_PER_JOB)]
        return [
            CropJob(self.ids, self.sources, rows[rows["position"].isin(group)]) for group in groups
        ]

    def collect(self, cut: Crops) -> int:
        """Takes in what a job cut out; returns how many windows."""
        for (name, kind, rank), data in cut.items():
            self.cut[name][kind, rank] = data
        return len(cut)

    def write(self) -> None:
        """Writes the pictures that were made. What they were made from is noted last, so after a
        kill they are drawn again with the same bytes."""
        for name, kept in self.cut.items():
            picture, with_photo = mosaic(kept)
            self.files.write(f"{self.folder}/{name}", picture, flush=False)
            self.made[name] = [self.digests[name], with_photo]
        self.files.flush(f"{self.folder}/{name}" for name in self.cut)
        if self.cut:
            self.files.write_json(f"{self.folder}/{MADE}", self.made)
