"""The explained eyes of the report: which there are, all that is shown of one, and the drawing of a
shard's eyes on a worker."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.report import DRAWING_VERSION, EyeEntry, LayerMaps, NeuronEntry, OutcomeMap, eye_files
from dr_lib.vocabulary import SIGNS, STAGES
from storage import Workspace, open_workspace
from storage.arrays.store import ShardedStore, Span
from storage.contents.explanations import load_record
from storage.ids import content_id, digest_bytes
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
)

MADE = "made.json"  # beside a shard's eyes: what each was drawn from
# Rows about one eye that its page shows as tables: caption, table, columns, and how many rows at
# most, the first of which order.
EYE_TABLES = (
    (
        "The maps in numbers",
        "heatmap_stats",
        ("source", "quantity", "positive_total", "negative_total", "top1_share", "entropy", "gini"),
        None,
    ),
    (
        "The strongest regions",
        "lesion_regions",
        ("source", "quantity", "sign", "area_px", "quadrant", "ring", "image_share", "contrast"),
        ("image_share", 12),
    ),
)


@dataclass(frozen=True)
class Place:
    """Where a worker finds what it draws, and where the report lies. sources: of the
    photographs, or none to leave them out."""

    location: str
    explain_id: str
    sources: tuple[Source, ...]

    @property
    def folder(self) -> str:
        return f"report/{self.explain_id}"


def key(row: int, image_id: str, shard_images: int) -> str:
    """An eye's name among the report's files: it stays the same as long as the image axis only
    grows."""
    return f"{row // shard_images:05d}/{page_name(image_id)}"


def page_name(image_id: str) -> str:
    """The image id as the name of a file and a part of an address; unlike ids stay unlike.

    >>> page_name("10_left"), page_name("clinic/Weiß OD")
    ('10_left', 'clinic-Wei-OD-06d16b5b')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", image_id).strip(".-")
    return plain if plain == image_id else f"{plain}-{digest_bytes(image_id.encode())[:8]}"


def gallery_rows(
    workspace: Workspace,
    explain_id: str,
    eyes: pd.DataFrame,
    done: np.ndarray,
    shard_images: int,
    quantities: Sequence[str],
) -> pd.DataFrame:
    """The gallery's columns (`dr_lib.report.render`) of the explained eyes. done: their rows in
    `eyes`."""
    shown = eyes.iloc[done].set_index("image_id", drop=False)
    gallery = pd.DataFrame(
        {
            "key": [
                key(row, name, shard_images)
                for row, name in zip(done.tolist(), shown["image_id"], strict=True)
            ],
            "image_id": shown["image_id"],
            "stage": shown["stage"].astype("Int8"),
            "predicted": shown["predicted_stage"].astype("Int8"),
            "patient": shown["patient_id"],
        }
    )
    gaps = workspace.frame("attributions", explain_id=explain_id)
    gaps = gaps.set_index(["image_id", "quantity"])["relative_gap"]
    graded = [
        f"stage{stage}" if f"stage{stage}" in quantities else quantities[0]
        for stage in gallery["predicted"]
    ]
    gallery["gap"] = gaps.reindex(pd.MultiIndex.from_arrays([gallery.index, graded])).to_numpy(
        np.float64
    )
    stats = workspace.frame("heatmap_stats", explain_id=explain_id, source="pixels")
    symmetry = stats.dropna(subset="symmetry_stage0_stage4").drop_duplicates("image_id")
    gallery["symmetry"] = symmetry.set_index("image_id")["symmetry_stage0_stage4"].reindex(
        gallery.index
    )
    regions = workspace.frame(
        "lesion_regions", explain_id=explain_id, source="lesion", sign="positive"
    )
    gallery["share"] = regions.groupby("image_id")["image_share"].sum().reindex(gallery.index)
    return gallery.reset_index(drop=True)


def lead_eye(
    explained: "Explained", eyes: pd.DataFrame, gallery: pd.DataFrame
) -> tuple[EyeEntry, str] | None:
    """The eye of the opening figure with its key: of the highest stage, rightly graded if there is
    one; None without eyes."""
    if gallery.empty:
        return None
    there = eyes.set_index("image_id")["present"].reindex(gallery["image_id"]).to_numpy()
    ranked = gallery.assign(
        right=(gallery["stage"] == gallery["predicted"]).fillna(False), there=there
    )
    one = ranked.sort_values(["there", "right", "predicted"], ascending=False, kind="stable").iloc[
        0
    ]
    return explained.entry(eyes, explained.store.image_ids.index(one["image_id"])), str(one["key"])


class Explained:
    """The eyes of one explanation, read one by one."""

    def __init__(self, workspace: Workspace, explain_id: str, photos: Photos | None):
        self.record = load_record(workspace.files, explain_id)
        self.store = explanation_store(workspace, self.record["explain_id"])
        self.fundi = fundus_store(workspace, self.record["preprocess_id"])
        self.photos = photos
        settings = self.record["attribution"]
        self.quantities, self.layers = settings["quantities"], settings["layers"]
        self.layer_quantity = settings["layer_quantity"]

    def entry(
        self,
        eyes: pd.DataFrame,
        row: int,
        at: int | None = None,
        tables: Mapping[str, pd.DataFrame] | None = None,
    ) -> EyeEntry:
        """All that is shown of the eye in this row of the store. at: its place in `eyes`, where
        that is a part of them."""
        eye = eyes.iloc[row if at is None else at]
        paths = [
            f"pixels/{name}"
            for name in ("attribution", "outcome", "baseline_outcome", "gap", "points", "converged")
        ]
        named = (
            "resultant",
            "neuron",
            "neuron_attribution",
            "activation",
            "baseline_activation",
            "region",
            "region_origin",
        )
        paths += [f"layers/{layer}/{name}" for layer in self.layers for name in named]
        arrays = {path: values[0] for path, values in self.store.read_rows([row], paths).items()}
        predicted = int(eye["predicted_stage"])
        toward = f"stage{predicted}" if self.layer_quantity == "predicted" else self.layer_quantity
        return EyeEntry(
            image_id=eye["image_id"],
            stage=None if pd.isna(eye["stage"]) else int(eye["stage"]),
            predicted=predicted,
            probabilities=[float(eye[f"probability_stage{stage}"]) for stage in STAGES],
            fundus=self.fundi.read_rows([int(eye["position"])], ["pixels"])["pixels"][0],
            photo=self.photos.get(eye["image_id"]) if self.photos else None,
            outcomes=tuple(
                _outcome(arrays, index, quantity) for index, quantity in enumerate(self.quantities)
            ),
            layers=tuple(
                LayerMaps(
                    layer,
                    toward,
                    *arrays[f"layers/{layer}/resultant"],
                    neurons=_neurons(arrays, f"layers/{layer}"),
                )
                for layer in self.layers
            ),
            split=eye["split"],
            tables=tables or {},
            crop=crop_of(self.fundi),
        )


def _outcome(arrays: dict[str, np.ndarray], index: int, quantity: str) -> OutcomeMap:
    return OutcomeMap(
        quantity,
        arrays["pixels/attribution"][index],
        *(
            float(arrays[f"pixels/{name}"][index])
            for name in ("outcome", "baseline_outcome", "gap")
        ),
        points=int(arrays["pixels/points"][index]),
        converged=bool(arrays["pixels/converged"][index]),
    )


def _neurons(arrays: dict[str, np.ndarray], place: str) -> tuple[NeuronEntry, ...]:
    origin = arrays[f"{place}/region_origin"]
    return tuple(
        NeuronEntry(
            sign=sign,
            rank=rank,
            neuron=tuple(int(n) for n in arrays[f"{place}/neuron"][index, rank] if n >= 0),
            attribution=float(arrays[f"{place}/neuron_attribution"][index, rank]),
            region=arrays[f"{place}/region"][index, rank],
            origin=(int(origin[index, rank, 0]), int(origin[index, rank, 1])),
            activation=float(arrays[f"{place}/activation"][index, rank]),
            baseline_activation=float(arrays[f"{place}/baseline_activation"][index, rank]),
        )
        for index, sign in enumerate(SIGNS)
        for rank in range(arrays[f"{place}/neuron"].shape[1])
        if arrays[f"{place}/neuron"][index, rank, -1] >= 0
    )


# Drawing, shard by shard


@dataclass(frozen=True)
class DrawJob:
    """One shard of eyes to draw. state: what they are drawn from."""

    place: Place
    span: Span
    eyes: pd.DataFrame
    state: str


def shards_to_draw(
    workspace: Workspace, place: Place, store: ShardedStore, eyes: pd.DataFrame
) -> list[DrawJob]:
    """The jobs for `draw_shard`: of finished shards of which something shown has changed since they
    were drawn."""
    made_from = span_digests(store)
    parts = {
        table: workspace.part_digests(table, place.explain_id) for _, table, _, _ in EYE_TABLES
    }
    jobs = []
    for span in store.spans():
        if span.index not in made_from:
            continue
        shown = eyes.iloc[span.rows]
        tables = [digests.get(span.part) for digests in parts.values()]
        state = content_id(
            {
                "drawing": _drawing(),
                "made_from": made_from[span.index],
                "eyes": as_text(shown),
                "tables": tables,
            }
        )
        if (workspace.files.read_json(f"{place.folder}/eyes/{span.index:05d}/{MADE}") or {}).get(
            "shard"
        ) != state:
            jobs.append(DrawJob(place, span, shown, state))
    return jobs


def _drawing() -> list[Any]:
    """Changes when eyes would be drawn otherwise than before."""
    return [DRAWING_VERSION, EYE_TABLES]


def draw_shard(job: DrawJob) -> int:
    """Runs on a worker: draws those of the shard's eyes that are not drawn as they are now; returns
    how many.

    What was drawn is noted last: after a kill in between, eyes are drawn again with the same bytes.
    """
    workspace = open_workspace(job.place.location)
    explained = Explained(
        workspace,
        job.place.explain_id,
        Photos(workspace, job.place.sources) if job.place.sources else None,
    )
    folder = f"{job.place.folder}/eyes/{job.span.index:05d}"
    before = (workspace.files.read_json(f"{folder}/{MADE}") or {}).get("eyes", {})
    stored = stored_digests(explained.store)
    tables = _tables_of(workspace, job.place.explain_id, job.eyes["image_id"].tolist())
    made, drawn, files = {}, 0, []
    for at in explained_rows(
        explained.store.read(job.span, ["pixels/status"])["pixels/status"], job.eyes
    ):
        name = job.eyes.iloc[at]["image_id"]
        mine = {caption: rows[name] for caption, rows in tables.items() if name in rows}
        about = {
            "eye": as_text(job.eyes.iloc[[at]]),
            "tables": {caption: as_text(rows) for caption, rows in mine.items()},
        }
        made[name] = content_id(_drawing(), stored[name], about)
        if before.get(name) == made[name]:
            continue
        entry = explained.entry(job.eyes, job.span.start + int(at), int(at), mine)
        for file, content in eye_files(entry, f"{job.span.index:05d}/{page_name(name)}").items():
            workspace.files.write(f"{job.place.folder}/{file}", content, flush=False)
            files.append(f"{job.place.folder}/{file}")
        drawn += 1
    workspace.files.flush(files)
    for gone in (
        set(workspace.files.names(folder))
        - {MADE}
        - {f"{page_name(name)}.{kind}" for name in made for kind in ("js", "jpg")}
    ):
        workspace.files.remove(f"{folder}/{gone}")
    workspace.files.write_json(f"{folder}/{MADE}", {"shard": job.state, "eyes": made})
    return drawn


def _tables_of(
    workspace: Workspace, explain_id: str, image_ids: list[str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """For each caption of EYE_TABLES the rows of each of these eyes."""
    found: dict[str, dict[str, Any]] = {}
    for caption, table, columns, strongest in EYE_TABLES:
        frame = workspace.frame(table, explain_id=explain_id, image_id=image_ids)
        if strongest:
            frame = frame.sort_values(strongest[0], ascending=False, kind="stable")
        groups = frame.groupby("image_id", sort=False)
        shown = list(columns)
        found[caption] = {
            name: rows[shown].head(strongest[1]) if strongest else rows[shown]
            for name, rows in groups
        }
    return found
