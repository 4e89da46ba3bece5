"""What the report shows, read from the workspace: plain arrays and rows, nothing computed that the tables do not hold."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from dr_lib.report import (
    Citation,
    CounterfactualSection,
    DataSection,
    GroupMap,
    HintonEntry,
    LinearitySection,
    Localisation,
    ReportData,
    RunSummary,
    StageTime,
    Triptych,
)
from storage import Workspace
from storage.arrays import ShardedStore
from storage.explanations import counterfactuals_path
from storage.group_maps import open_group_maps
from storage.schemas import PARTITION
from tasks.aggregate import explained_eyes, explained_rows
from tasks.quality import eye_quality
from tasks.recipe import Recipe
from tasks.report_eyes import chosen_rows, eye_entry
from tasks.report_model import model_section
from tasks.runs import versions
from tasks.settings import DataParams
from tasks.sheets import Photos, flagged, flagged_text, samples, set_aside
from tasks.stores import explanation_store, fundus_store, whole

BACKBONES = {"inception_v3": "Inception V3", "small": "A small network"}
TRIPTYCHS_SHOWN = 6
HINTON_UNITS = 64
EXAMPLE_QUERIES = (
    (
        "How well does the model do?",
        "select metric, value, low, high from latest_evaluation where split = 'test' and stratum = 'all'",
    ),
    (
        "Which eyes did it miss?",
        "select image_id, stage, predicted_stage from latest_predictions where split = 'test' and stage > predicted_stage",
    ),
    (
        "Where do the strongest regions lie?",
        "select quadrant, ring, count(*) from latest_lesion_regions where sign = 'positive' group by all order by 3 desc",
    ),
)


def gather(workspace: Workspace, recipe: Recipe, data: DataParams, config: dict[str, Any]) -> ReportData:
    """Everything the report shows, as plain arrays and rows."""
    model_id, explain_id = recipe.model_id(workspace), recipe.explain_id(workspace)
    store = explanation_store(workspace, explain_id)
    eyes = explained_eyes(workspace, model_id, store.image_ids)
    done = np.zeros(len(eyes), bool)
    done[explained_rows(whole(store, "pixels/status"), eyes)] = True
    photos = Photos(workspace, data)
    return ReportData(
        run=_run(workspace, recipe, model_id, explain_id, config),
        data=_data(workspace, recipe, photos),
        model=model_section(workspace, model_id),
        eyes=tuple(eye_entry(workspace, recipe, store, eyes, int(row), photos) for row in chosen_rows(eyes, done)),
        eyes_explained=int(done.sum()),
        groups=_groups(workspace, explain_id),
        heatmap_stats=_heatmap_stats(workspace, explain_id),
        localisation=Localisation(regions=_regions(workspace, explain_id)),
        counterfactuals=_counterfactuals(workspace, recipe, explain_id),
        linearity=_linearity(workspace, explain_id),
        citation=_citation(workspace, model_id, explain_id),
    )


def _run(workspace: Workspace, recipe: Recipe, model_id: str, explain_id: str, config: dict[str, Any]) -> RunSummary:
    runs = workspace.frame("runs")
    worked = runs[(runs["state"] == "completed") & (runs["new_images"] > 0)].sort_values("started")
    latest = worked.drop_duplicates("stage", keep="last")
    return RunSummary(
        workspace=workspace.location,
        model_id=model_id,
        preprocess_id=recipe.preprocess_id,
        explain_id=explain_id,
        model_name=BACKBONES[recipe.model.backbone],
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        stages=tuple(StageTime(row.stage, float(row.seconds), int(row.new_images)) for row in latest.itertuples()),
        versions=versions(),
        config=config,
    )


def _data(workspace: Workspace, recipe: Recipe, photos: Photos) -> DataSection:
    catalogue = workspace.photos()
    here = catalogue[catalogue["present"]]
    counted = here.groupby(["split", "stage"], dropna=False).size().reset_index(name="count")
    rejects = workspace.rejects()[["reason", "image_id", "source", "detail"]].rename(columns={"source": "path"})
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


def _measures(quality: pd.DataFrame) -> list[dict[str, Any]]:
    """How each measure is spread over the eyes."""
    names = [name for name in quality.columns if quality[name].dtype.kind == "f"]
    spread = quality[names].quantile([0.05, 0.5, 0.95])
    return [{"measure": name, **dict(zip(("5 %", "median", "95 %"), spread[name], strict=True))} for name in names]


def _groups(workspace: Workspace, explain_id: str) -> tuple[GroupMap, ...]:
    maps = open_group_maps(workspace, explain_id)
    if maps is None:
        return ()
    found = []
    for index in range(maps.sizes["group"]):
        one = maps.isel(group=index)
        name, source, quantity = (str(one[key].item()) for key in ("group_name", "source", "quantity"))
        if name.startswith("stage=") and "," not in name and source == "pixels" and quantity == f"stage{name[-1]}":
            values = (one["mean_positive"] + one["mean_negative"]).to_numpy()
            found.append(
                GroupMap(f"true stage {name[-1]}, toward stage {name[-1]}", int(one["images"]), values, note="left eyes mirrored")
            )
    return tuple(found)


def _heatmap_stats(workspace: Workspace, explain_id: str) -> pd.DataFrame:
    frame = workspace.frame("heatmap_stats", explain_id=explain_id)
    if frame.empty:
        return frame
    columns = ["positive_total", "negative_total", "top1_share", "entropy", "gini", "symmetry_stage0_stage4"]
    means = frame.groupby(["source", "quantity"])[columns].mean()
    return means.join(frame.groupby(["source", "quantity"]).size().rename("images")).reset_index()


def _regions(workspace: Workspace, explain_id: str) -> pd.DataFrame:
    """How many regions each source has of each sign, how large they are and how far from the centre."""
    frame = workspace.frame("lesion_regions", explain_id=explain_id)
    named = {
        "regions": ("area_px", "size"),
        "median_area_px": ("area_px", "median"),
        "median_radius_share": ("radius_share", "median"),
    }
    return frame.groupby(["source", "quantity", "sign"]).agg(**named).reset_index() if len(frame) else frame


def _counterfactuals(workspace: Workspace, recipe: Recipe, explain_id: str) -> CounterfactualSection:
    made = workspace.frame("counterfactuals", explain_id=explain_id)
    adversarial = workspace.frame("adversarials", explain_id=explain_id)
    if made.empty:
        return CounterfactualSection(
            note="No eye of the true stage was taken for the predicted one, so there is nothing to change."
        )
    store = ShardedStore.open(workspace, counterfactuals_path(explain_id))
    positions = workspace.photos().set_index("image_id")["position"]
    triptychs = []
    for form in ("proportional", "constant"):
        reached = np.flatnonzero(whole(store, f"{form}/reached"))[: TRIPTYCHS_SHOWN // 2]
        strengths = whole(store, f"{form}/strength")
        for row in reached.tolist():
            image_id = store.image_ids[row]
            changed = store.read_rows([row], [f"{form}/image"])[f"{form}/image"][0]
            original = fundus_store(workspace, recipe.preprocess_id).read_rows([int(positions[image_id])], ["pixels"])["pixels"][
                0
            ]
            pixels = np.clip(np.rint(changed * 128 + 128), 0, 255).astype(np.uint8)
            triptychs.append(Triptych(image_id, original, pixels, f"{form}, strength {strengths[row]:.3g}", reached=True))
    return CounterfactualSection(summary=_by_method(made), triptychs=tuple(triptychs), adversarial=_by_method(adversarial))


def _by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts and medians a method; distances are those of eyes that reached the target."""
    columns = [
        "strength",
        "l0_share",
        "l2",
        "linf",
        "ssim",
        "total_variation_before",
        "total_variation_after",
        "high_frequency_energy",
    ]
    counts = rows.groupby("method").agg(eyes=("reached", "size"), reached=("reached", "sum"))
    medians = rows[rows["reached"]].groupby("method")[columns].median()
    return counts.join(medians).reset_index()


def _linearity(workspace: Workspace, explain_id: str) -> LinearitySection:
    units = workspace.frame("units", explain_id=explain_id)
    if units.empty:
        return LinearitySection(note="No explained eye could be studied.")
    alive = units[units["verdict"] != "dead"]
    rows = workspace.frame("linearity", explain_id=explain_id)
    image_id = rows["image_id"].iloc[0]
    layer = rows["layer"].max()  # the deepest dense layer has the fewest units, which a person can still read
    one = rows[(rows["image_id"] == image_id) & (rows["layer"] == layer)]
    strengths = np.sort(one["strength"].unique())
    hintons = [
        HintonEntry(
            f"{layer}, {image_id}, strength {strength:.3g}",
            one[one["strength"] == strength].sort_values("unit")["attribution"].to_numpy()[:HINTON_UNITS],
        )
        for strength in strengths[np.linspace(0, len(strengths) - 1, min(4, len(strengths))).astype(int)]
    ]
    return LinearitySection(
        verdicts=units["verdict"].value_counts().to_dict(),
        units=alive,
        x="gradient_variation",
        y="r2",
        x_label="Variation of the average gradient",
        y_label="R² of the straight line",
        hintons=tuple(hintons),
        exceptions=alive[alive["verdict"].isin(["constant", "reversed"])].drop(columns="explain_id"),
    )


def _ids(table: str, model_id: str, explain_id: str) -> dict[str, str]:
    """The partition of a table that the report is about."""
    ids = {"model_id": model_id, "explain_id": explain_id}
    return {name: ids[name] for name in [PARTITION[table]] if name}


def _citation(workspace: Workspace, model_id: str, explain_id: str) -> Citation:
    names = (
        "photos",
        "predictions",
        "evaluation",
        "attributions",
        "neurons",
        "lesion_regions",
        "heatmap_stats",
        "group_heatmaps",
    )
    names += ("counterfactuals", "adversarials", "linearity", "units")
    tables = [
        {
            "name": name,
            "path": "catalog" if name == "photos" else f"tables/{name}",
            "rows": workspace.count(name, **_ids(name, model_id, explain_id)),
        }
        for name in names
    ]
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = f"Explanation {explain_id} of model {model_id}; both ids are hashes of what made them. Computed with {libraries}."
    return Citation(text, tables, EXAMPLE_QUERIES)
