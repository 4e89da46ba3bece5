"""What the report shows, read from the workspace: plain arrays and rows, nothing computed that
the tables do not hold.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from dr_lib.maps import POSTER
from dr_lib.network.model import BACKBONES
from dr_lib.report import (
    Citation,
    CounterfactualSection,
    DataSection,
    GallerySection,
    GroupMap,
    GroupSection,
    LinearitySection,
    Localisation,
    ModelSection,
    ReportData,
    RunSummary,
    StageTime,
)
from storage import Workspace
from storage.arrays.store import ShardedStore
from storage.contents.group_maps import open_group_maps
from storage.tables.schemas import PARTITION, SCHEMAS, TITLES
from tasks.access.contact_sheets import Photos, flagged, flagged_text, samples, set_aside
from tasks.access.map_scores import pixel_aucs
from tasks.access.model_quality import model_section
from tasks.access.quality import eye_quality
from tasks.access.stores import explanation_store, fundus_store
from tasks.report.counterfactuals import counterfactual_section
from tasks.report.eyes import Explained, lead_eye
from tasks.report.regions import region_section
from tasks.report.units import linearity_section
from tasks.run.recipe import Recipe
from tasks.run.run_log import versions
from tasks.run.settings import DataParams

# a table of more rows is left in the workspace: the report must stay light enough to send
CSV_ROWS = 100_000
CITED = tuple(name for name in SCHEMAS if name != "runs")
EXAMPLE_QUERIES = (
    (
        "How well does the model do?",
        (
            "select metric, value, low, high from latest_evaluation where split = 'test' and"
            " stratum = 'all'"
        ),
    ),
    (
        "Which eyes did it miss?",
        (
            "select image_id, stage, predicted_stage from latest_predictions where split = 'test'"
            " and stage > predicted_stage"
        ),
    ),
    (
        "Where do the strongest regions lie?",
        (
            "select quadrant, ring, count(*) from latest_lesion_regions where sign = 'positive'"
            " group by all order by 3 desc"
        ),
    ),
)


@dataclass(frozen=True)
class Shown:
    """What the report is about: every section reads its part from here."""

    workspace: Workspace
    recipe: Recipe
    data: DataParams
    config: dict[str, Any]
    model_id: str
    explain_id: str

    @functools.cached_property
    def photos(self) -> Photos:
        return Photos(self.workspace, self.data.photos)


def gather(shown: Shown, eyes: pd.DataFrame, gallery: pd.DataFrame) -> ReportData:
    """Everything the report shows but the eyes' own files. eyes: all of the explanation;
    gallery: as `gallery_rows` gives it.
    """
    every = GallerySection(gallery, shown.recipe.attribution.layers, _none_explained(gallery))
    lead = lead_eye(Explained(shown.workspace, shown.explain_id, shown.photos), eyes, gallery)
    run = _run(shown, gallery)
    parts = {name: part(shown) for name, part in PARTS.items()}
    return ReportData(run=run, parts={"run": run, "eyes": every, **parts}, lead=lead)


def _none_explained(gallery: pd.DataFrame) -> str:
    return (
        ""
        if len(gallery)
        else "No eye could be explained; what did not work is listed under “The run”."
    )


def _run(shown: Shown, gallery: pd.DataFrame) -> RunSummary:
    workspace = shown.workspace
    runs = workspace.frame("runs")
    worked = runs[(runs["state"] == "completed") & (runs["new_images"] > 0)].sort_values("started")
    latest = worked.drop_duplicates("stage", keep="last")
    return RunSummary(
        workspace=workspace.location,
        run_id=_run_id(runs),
        model_id=shown.model_id,
        preprocess_id=shown.recipe.preprocess_id,
        explain_id=shown.explain_id,
        model_name=BACKBONES[shown.recipe.model.backbone].title,
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        stages=tuple(
            StageTime(row.stage, float(row.seconds), int(row.new_images))
            for row in latest.itertuples()
        ),
        versions=versions(),
        config=shown.config,
        progress=_how_far(shown, gallery),
        failures=_failures(shown, runs),
    )


def _run_id(runs: pd.DataFrame) -> str:
    """Of the run that last attributed anything: these are its numbers."""
    attributed = runs[
        (runs["stage"] == "attribute") & (runs["state"] == "completed") & (runs["new_images"] > 0)
    ]
    return str(attributed.sort_values("started")["run_id"].iloc[-1]) if len(attributed) else ""


def _how_far(shown: Shown, gallery: pd.DataFrame) -> list[dict[str, Any]]:
    """What there is of each kind, of how many."""
    workspace = shown.workspace
    here = int(workspace.photos()["present"].sum())
    fundi, explained = (
        fundus_store(workspace, shown.recipe.preprocess_id),
        explanation_store(workspace, shown.explain_id),
    )
    graded = workspace.count("predictions", model_id=shown.model_id)
    return [
        {"what": "photographs", "there": here, "of": here + len(workspace.rejects())},
        {"what": "fundi", "there": _finished(fundi), "of": fundi.images},
        {"what": "graded eyes", "there": graded, "of": here},
        {"what": "explained eyes", "there": len(gallery), "of": explained.images},
    ]


def _finished(store: ShardedStore) -> int:
    return sum(len(entry["image_ids"]) for entry in store.records())


def _failures(shown: Shown, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Stages whose last run failed, and eyes that could not be explained, each with its reason."""
    last = runs.sort_values("started").drop_duplicates("stage", keep="last")
    rows = [
        {"what": f"dr {row.stage}", "reason": row.message}
        for row in last.itertuples()
        if row.state == "failed"
    ]
    for entry in explanation_store(shown.workspace, shown.explain_id).records():
        rows += [
            {"what": name, "reason": reason}
            for name, reason in entry["record"].get("failed", {}).items()
        ]
    return rows


def _data(shown: Shown) -> DataSection:
    workspace, recipe, photos = shown.workspace, shown.recipe, shown.photos
    catalogue = workspace.photos()
    here = catalogue[catalogue["present"]]
    counted = here.groupby(["split", "stage"], dropna=False).size().reset_index(name="count")
    rejects = workspace.rejects()[["reason", "image_id", "source", "detail"]].rename(
        columns={"source": "path"}
    )
    return DataSection(
        photographs=len(here),
        patients=int(here["patient_id"].nunique()),
        split_stage=counted,
        rejects=rejects,
        quality=_measures(eye_quality(workspace, recipe)),
        samples=samples(workspace, recipe, photos),
        flagged=flagged(workspace, recipe, photos),
        flagged_text=flagged_text(workspace, recipe),
        set_aside=set_aside(workspace, photos),
    )


def _model(shown: Shown) -> ModelSection:
    return model_section(shown.workspace, shown.model_id)


def _measures(quality: pd.DataFrame) -> list[dict[str, Any]]:
    """How each measure is spread over the eyes."""
    names = [name for name in quality.columns if quality[name].dtype.kind == "f"]
    spread = quality[names].quantile([0.05, 0.5, 0.95])
    return [
        {"measure": name, **dict(zip(("5 %", "median", "95 %"), spread[name], strict=True))}
        for name in names
    ]


def _groups(shown: Shown) -> GroupSection:
    stats = _heatmap_stats(shown.workspace, shown.explain_id)
    maps = open_group_maps(shown.workspace.files, shown.explain_id)
    if maps is None:
        return GroupSection(stats=stats)
    found = []
    for index in range(maps.sizes["group"]):
        one = maps.isel(group=index)
        name, source, quantity = (
            str(one[key].item()) for key in ("group_name", "source", "quantity")
        )
        if source == "pixels" and (name, quantity) in POSTER:
            values = (one["mean_positive"] + one["mean_negative"]).to_numpy()
            title = f"rightly predicted stage {name[-1]}, toward stage {quantity[-1]}"
            found.append(GroupMap(title, int(one["images"]), values, note="left eyes mirrored"))
        if (
            name.startswith("stage=")
            and "," not in name
            and source == "pixels"
            and quantity == f"stage{name[-1]}"
        ):
            values = (one["mean_positive"] + one["mean_negative"]).to_numpy()
            found.append(
                GroupMap(
                    f"true stage {name[-1]}, toward stage {name[-1]}",
                    int(one["images"]),
                    values,
                    note="left eyes mirrored",
                )
            )
    return GroupSection(tuple(found), stats)


def _heatmap_stats(workspace: Workspace, explain_id: str) -> pd.DataFrame:
    frame = workspace.frame("heatmap_stats", explain_id=explain_id)
    if frame.empty:
        return frame
    columns = [
        "positive_total",
        "negative_total",
        "top1_share",
        "entropy",
        "gini",
        "symmetry_stage0_stage4",
    ]
    means = frame.groupby(["source", "quantity"])[columns].mean()
    return means.join(frame.groupby(["source", "quantity"]).size().rename("images")).reset_index()


def _localisation(shown: Shown) -> Localisation:
    regions, scores = (
        _regions(shown.workspace, shown.explain_id),
        pixel_aucs(shown.workspace, shown.model_id, shown.explain_id),
    )
    if scores.empty:
        return Localisation(regions=regions)
    note = (
        f"Against the lesion masks of {scores['images'].max()} explained eyes, each map beside"
        " simple rivals; 0.5 is chance."
    )
    return Localisation(scores.rename(columns={"map": "method"}), "Pixel AUC", regions, note)


def _regions(workspace: Workspace, explain_id: str) -> pd.DataFrame:
    """How many regions each source has of each sign, how large they are and how far from the
    centre.
    """
    frame = workspace.frame("lesion_regions", explain_id=explain_id)
    named = {
        "regions": ("area_px", "size"),
        "median_area_px": ("area_px", "median"),
        "median_radius_share": ("radius_share", "median"),
    }
    return (
        frame.groupby(["source", "quantity", "sign"]).agg(**named).reset_index()
        if len(frame)
        else frame
    )


def _counterfactuals(shown: Shown) -> CounterfactualSection:
    return counterfactual_section(
        shown.workspace, shown.recipe, shown.explain_id, shown.config["counterfactuals"]
    )


def _linearity(shown: Shown) -> LinearitySection:
    return linearity_section(
        shown.workspace, shown.recipe, shown.explain_id, shown.config["linearity"]["target_stage"]
    )


def _ids(table: str, shown: Shown) -> dict[str, str]:
    """The partition of a table that the report is about."""
    ids = {
        "model_id": shown.model_id,
        "explain_id": shown.explain_id,
        "preprocess_id": shown.recipe.preprocess_id,
    }
    return {name: ids[name] for name in [PARTITION[table]] if name}


def _citation(shown: Shown) -> Citation:
    tables, enclosed = [], {}
    for name in CITED:
        ids = _ids(name, shown)
        rows = shown.workspace.count(name, **ids)
        if not rows:
            continue
        path = "catalog" if name == "photos" else f"tables/{name}"
        tables.append({"name": name, "path": path, "rows": rows, "description": TITLES[name]})
        if rows <= CSV_ROWS:
            enclosed[name] = shown.workspace.frame(name, **ids).to_csv(index=False).encode()
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = (
        f"Explanation {shown.explain_id} of model {shown.model_id} on fundi"
        f" {shown.recipe.preprocess_id}: the ids are hashes of what made them, so the same id means"
        f" the same numbers. Computed with {libraries}."
    )
    return Citation(text, tables, enclosed, EXAMPLE_QUERIES)


# How each section's numbers are read, by the section's id; `run` and `eyes` come from the gallery
# too and are made in `gather`.
PARTS: dict[str, Callable[[Shown], Any]] = {
    "data": _data,
    "model": _model,
    "groups": _groups,
    "regions": lambda shown: region_section(shown.workspace, shown.explain_id),
    "localisation": _localisation,
    "counterfactuals": _counterfactuals,
    "linearity": _linearity,
    "cite": _citation,
}
