"""The explained eyes of the report: which there are, all that is shown of one, and the drawing of a
shard's eyes on a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dr_lib.maps.lesion_map import QUANTITY as LESION_QUANTITY
from dr_lib.report.entry import EyeEntry, LayerMaps, NeuronEntry, OutcomeMap
from dr_lib.report.eyes import DRAWING_VERSION, eye_files
from dr_lib.vocabulary import SIGNS, STAGES
from storage import Workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.explanations import load_record
from storage.ids import content_id, page_name
from storage.layout import report_path
from storage.photos.sources import PhotoSources
from storage.photos.types import Source
from tasks.access.contact_sheets import Photos
from tasks.access.explained import explained_rows
from tasks.access.stores import (
    as_text,
    crop_of,
    explanation_store,
    fundus_store,
    span_digests,
    stored_digests,
    whole,
)
from tasks.run.resolved_ids import ResolvedIds

LESION = ("lesion", LESION_QUANTITY)
Maps = Mapping[tuple[str, str], np.ndarray]  # (eye, y, x), by map and quantity
DRAWN_FROM = "made.json"  # beside a shard's eyes: what each was drawn from
# Arrays in the order of the fields of `OutcomeMap` and of `NeuronEntry`.
OUTCOME_ARRAYS = ("attribution", "outcome", "baseline_outcome", "gap", "points", "converged")
NEURON_ARRAYS = (
    "neuron",
    "neuron_attribution",
    "region",
    "region_origin",
    "activation",
    "baseline_activation",
)


class EyeTable(NamedTuple):
    """Rows about one eye that its page shows as a table: all of them, or the `most` of them that
    are largest in the column `by`."""

    caption: str
    table: str
    columns: tuple[str, ...]
    by: str = ""
    most: int | None = None


EYE_TABLES = (
    EyeTable(
        "The maps in numbers",
        "heatmap_stats",
        ("source", "quantity", "positive_total", "negative_total", "top1_share", "entropy", "gini"),
    ),
    EyeTable(
        "The strongest regions",
        "lesion_regions",
        ("source", "quantity", "sign", "area_px", "quadrant", "ring", "image_share", "contrast"),
        by="image_share",
        most=12,
    ),
)


# Changes when eyes would be drawn otherwise than before.
DRAWING = [DRAWING_VERSION, EYE_TABLES]


class Explained:
    """The eyes of one explanation, read one by one. photos: of the data folder, or None to leave
    photographs out."""

    def __init__(self, workspace: Workspace, explain_id: str, photos: Photos | None = None):
        self.workspace, self.photos = workspace, photos
        self.record = load_record(workspace.files, explain_id)
        self.explain_id = self.record.explain_id
        self.store = explanation_store(workspace, self.explain_id)
        self.fundi = fundus_store(workspace, self.record.preprocess_id)
        self.crop = crop_of(self.fundi)

    def gallery(self, eyes: pd.DataFrame) -> pd.DataFrame:
        """The gallery's columns (`dr_lib.report.render`), a row an explained eye.

        An eye's key, its name among the report's files, stays the same as long as the image axis
        only grows.

        Parameters
        ----------
        eyes: every image of the explanation, in the store's order.
        """
        explained = explained_rows(whole(self.store, "pixels/status"), eyes)
        chosen = eyes.iloc[explained].set_index("image_id")
        names = chosen.index
        graded = "stage" + chosen["predicted_stage"].astype(int).astype(str)
        graded = graded.where(graded.isin(self.record.quantities), self.record.quantities[0])
        gaps = self.rows("attributions").set_index(["image_id", "quantity"])["relative_gap"]
        stats = self.rows("heatmap_stats", source="pixels").groupby("image_id")
        regions = self.rows("lesion_regions", source="lesion", sign="positive")
        gallery = pd.DataFrame(
            {
                "key": [*map(self.key, explained, names)],
                "stage": chosen["stage"].astype("Int8"),
                "predicted": chosen["predicted_stage"].astype("Int8"),
                "patient": chosen["patient_id"],
                "gap": gaps.reindex(pd.MultiIndex.from_arrays([names, graded])).to_numpy(float),
                "symmetry": stats["symmetry_stage0_stage4"].first().reindex(names),
                "share": regions.groupby("image_id")["image_share"].sum().reindex(names),
            }
        )
        return gallery.reset_index(names="image_id")

    def key(self, row: int, image_id: str) -> str:
        """An eye's name among the report's files. row: of the store."""
        return f"{row // self.store.shard_images:05d}/{page_name(image_id)}"

    def rows(self, table: str, **equals: Any) -> pd.DataFrame:
        return self.workspace.frame(table, explain_id=self.explain_id, **equals)

    def lead(self, eyes: pd.DataFrame, gallery: pd.DataFrame) -> tuple[EyeEntry, str] | None:
        """The eye of the opening figure with its key: of the highest stage, rightly graded if there
        is one; None without eyes."""
        if gallery.empty:
            return None
        present = eyes.set_index("image_id")["present"].reindex(gallery["image_id"]).to_numpy()
        right = (gallery["stage"] == gallery["predicted"]).fillna(False)
        ranked = gallery.assign(right=right, present=present).sort_values(
            ["present", "right", "predicted"], ascending=False, kind="stable"
        )
        first = ranked.iloc[0]
        row = self.store.image_ids.index(first["image_id"])
        return self.entry(eyes.iloc[row], row), first["key"]

    def maps(self, rows: Sequence[int] | np.ndarray) -> Maps:
        """The maps of the eyes in these rows of the store, the lesion maps last."""
        there = {"pixels/attribution", "lesion/map"} & {spec.path for spec in self.store.specs}
        arrays = self.store.read_rows(rows, sorted(there))
        pixels = np.moveaxis(arrays["pixels/attribution"], 1, 0)
        names = [("pixels", name) for name in self.record.quantities]
        lesions = {LESION: arrays["lesion/map"]} if "lesion/map" in there else {}
        return dict(zip(names, pixels, strict=True)) | lesions

    def entry(
        self, eye: pd.Series, row: int, tables: Mapping[str, pd.DataFrame] | None = None
    ) -> EyeEntry:
        """All that is shown of an eye.

        Parameters
        ----------
        eye: its row of `tasks.access.explained.explained_eyes`.
        row: its row in the store.
        tables: further rows about it, by caption.
        """
        paths = [f"pixels/{name}" for name in OUTCOME_ARRAYS]
        for layer in self.record.layers:
            paths += [f"layers/{layer}/{name}" for name in ("resultant", *NEURON_ARRAYS)]
        arrays = {path: values[0] for path, values in self.store.read_rows([row], paths).items()}
        predicted = int(eye["predicted_stage"])
        toward = self.record.layer_quantity
        toward = f"stage{predicted}" if toward == "predicted" else toward
        return EyeEntry(
            image_id=eye["image_id"],
            stage=None if pd.isna(eye["stage"]) else int(eye["stage"]),
            predicted=predicted,
            probabilities=[float(eye[f"probability_stage{stage}"]) for stage in STAGES],
            fundus=self.fundi.read_rows([int(eye["position"])], ["pixels"])["pixels"][0],
            photo=self.photos.get(eye["image_id"]) if self.photos else None,
            outcomes=tuple(
                OutcomeMap(name, *(arrays[f"pixels/{array}"][index] for array in OUTCOME_ARRAYS))
                for index, name in enumerate(self.record.quantities)
            ),
            layers=tuple(
                LayerMaps(
                    layer,
                    toward,
                    *arrays[f"layers/{layer}/resultant"],
                    neurons=_neurons(*(arrays[f"layers/{layer}/{name}"] for name in NEURON_ARRAYS)),
                )
                for layer in self.record.layers
            ),
            split=eye["split"],
            tables=tables or {},
            crop=self.crop,
        )


def _neurons(neurons: np.ndarray, *arrays: np.ndarray) -> tuple[NeuronEntry, ...]:
    """The chosen neurons of a layer. neurons: (sign, rank, axis), with −1 in an axis that the layer
    does not have, or in all where there is no such neuron."""
    entries = []
    for sign, rank in zip(*np.nonzero(neurons[..., -1] >= 0), strict=True):
        attribution, region, origin, *activations = (array[sign, rank] for array in arrays)
        indices = tuple(index for index in neurons[sign, rank].tolist() if index >= 0)
        place = (int(origin[0]), int(origin[1]))
        entries.append(
            NeuronEntry(SIGNS[sign], rank, indices, attribution, region, place, *activations)
        )
    return tuple(entries)


# Drawing, shard by shard


@dataclass(frozen=True)
class DrawJob:
    """One shard of eyes to draw. sources: of the photographs, or none to leave them out; state:
    what the eyes are drawn from."""

    ids: ResolvedIds
    sources: tuple[Source, ...]
    span: Span
    eyes: pd.DataFrame
    state: str

    @property
    def folder(self) -> str:
        """Where the shard's eyes lie in the workspace."""
        return f"{report_path(self.ids.explain_id)}/eyes/{self.span.index:05d}"


def shards_to_draw(
    workspace: Workspace,
    ids: ResolvedIds,
    sources: tuple[Source, ...],
    store: ShardedStore,
    eyes: pd.DataFrame,
) -> list[DrawJob]:
    """The jobs for `draw_shard`: of finished shards of which something shown has changed since they
    were drawn."""
    made_from = span_digests(store)
    parts = [workspace.part_digests(kind.table, ids.explain_id) for kind in EYE_TABLES]
    jobs = []
    for span in store.spans():
        if span.index not in made_from:
            continue
        rows = eyes.iloc[span.rows]
        state = content_id(
            {
                "drawing": DRAWING,
                "made_from": made_from[span.index],
                "eyes": as_text(rows),
                "tables": [digests.get(span.part) for digests in parts],
            }
        )
        job = DrawJob(ids, sources, span, rows, state)
        if _drawn_from(workspace, job).get("shard") != state:
            jobs.append(job)
    return jobs


def _drawn_from(workspace: Workspace, job: DrawJob) -> dict[str, Any]:
    return workspace.files.read_json(f"{job.folder}/{DRAWN_FROM}") or {}


def draw_shard(job: DrawJob) -> int:
    """Runs on a worker: draws those of the shard's eyes that are not drawn as they are now; returns
    how many.

    What was drawn is noted last: after a kill in between, eyes are drawn again with the same bytes.
    """
    workspace = job.ids.workspace
    photos = Photos(workspace, PhotoSources(job.sources)) if job.sources else None
    explained = Explained(workspace, job.ids.explain_id, photos)
    before = _drawn_from(workspace, job).get("eyes", {})
    stored = stored_digests(explained.store)
    tables = _tables_by_eye(explained, job.eyes["image_id"].tolist())
    digests, drawn, files = {}, 0, []
    status = explained.store.read(job.span, ["pixels/status"])["pixels/status"]
    for place in explained_rows(status, job.eyes).tolist():
        eye = job.eyes.iloc[place]
        name = eye["image_id"]
        about = {
            "eye": as_text(job.eyes.iloc[[place]]),
            "tables": {caption: as_text(rows) for caption, rows in tables[name].items()},
        }
        digests[name] = content_id(DRAWING, stored[name], about)
        if before.get(name) == digests[name]:
            continue
        entry = explained.entry(eye, job.span.start + place, tables[name])
        key = explained.key(job.span.start + place, name)
        for file, content in eye_files(entry, key).items():
            files.append(f"{report_path(job.ids.explain_id)}/{file}")
            workspace.files.write(files[-1], content, flush=False)
        drawn += 1
    workspace.files.flush(files)
    pages = map(page_name, digests)
    kept = {DRAWN_FROM, *(f"{page}.{kind}" for page in pages for kind in ("js", "jpg"))}
    for gone in set(workspace.files.names(job.folder)) - kept:
        workspace.files.remove(f"{job.folder}/{gone}")
    workspace.files.write_json(f"{job.folder}/{DRAWN_FROM}", {"shard": job.state, "eyes": digests})
    return drawn


def _tables_by_eye(
    explained: Explained, image_ids: list[str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """For each eye its rows of EYE_TABLES, by caption; without captions that have no row."""
    tables: dict[str, dict[str, pd.DataFrame]] = {name: {} for name in image_ids}
    for kind in EYE_TABLES:
        frame = explained.rows(kind.table, image_id=image_ids)
        if kind.by:
            frame = frame.sort_values(kind.by, ascending=False, kind="stable")
        for name, rows in frame.groupby("image_id", sort=False):
            tables[str(name)][kind.caption] = rows[list(kind.columns)].head(kind.most or len(rows))
    return tables
