"""What the report shows of regions: extents by layer, one strongest neuron a layer, what groups
of regions look like.
"""

import numpy as np
import pandas as pd

from dr_lib.maps.region_clustering import patch
from dr_lib.report.sections.regions import LayerRegion, Look, RegionSection
from storage import Workspace
from tasks.access.explained import explained_eyes, explained_rows
from tasks.access.stores import whole
from tasks.report.eyes import Explained

PATCHES_SHOWN = 10
PATCH_PX = 32


def region_section(workspace: Workspace, explain_id: str) -> RegionSection:
    """Everything the section shows; empty parts where the tables are."""
    explained = Explained(workspace, explain_id, None)
    clusters = workspace.frame("region_clusters", explain_id=explain_id)
    return RegionSection(
        by_layer=_by_layer(workspace.frame("neurons", explain_id=explain_id)),
        examples=_examples(workspace, explained),
        channels=_channels(workspace.frame("units", explain_id=explain_id, study="lesions")),
        looks=_looks(workspace, explained, clusters),
        note=_note(clusters),
    )


def _by_layer(neurons: pd.DataFrame) -> list[dict]:
    """Extent and concentration of neurons' regions, the most local layer first."""
    rows = []
    for layer, some in neurons.groupby("layer"):
        low, middle, high = some["region_extent_px"].quantile([0.05, 0.5, 0.95])
        share = some["region_top1_share"].median()
        rows.append(
            {
                "layer": layer,
                "neurons": len(some),
                "extent_5": low,
                "extent_px": middle,
                "extent_95": high,
                "top1_share": share,
            }
        )
    return sorted(rows, key=lambda row: row["extent_px"])


def _channels(units: pd.DataFrame) -> pd.DataFrame:
    """For each layer and lesion type the channel whose mean AUC is furthest from 0.5."""
    known = units[units["best_lesion"].notna()]
    if known.empty:
        return known
    best = known.loc[
        (known["lesion_auc"] - 0.5).abs().groupby([known["layer"], known["best_lesion"]]).idxmax()
    ]
    named = {
        "unit": "channel",
        "lesion_auc": "auc",
        "lesion_auc_low": "low",
        "lesion_auc_high": "high",
    }
    named |= {
        "lesion_auc_held_out": "held_out",
        "lesion_auc_others": "against_other_lesions",
        "lesion_images": "eyes",
    }
    return best[["layer", "best_lesion", *named]].rename(columns=named)


def _examples(workspace: Workspace, explained: Explained) -> tuple[LayerRegion, ...]:
    """Each layer's strongest neuron in the explained eye of the highest predicted stage."""
    store = explained.store
    eyes = explained_eyes(workspace, explained.record["model_id"], store.image_ids)
    rows = explained_rows(whole(store, "pixels/status"), eyes)
    if not len(rows):
        return ()
    row = int(rows[eyes.iloc[rows]["predicted_stage"].to_numpy(int).argmax()])
    eye = eyes.iloc[row]
    fundus = explained.fundi.read_rows([int(eye["position"])], ["pixels"])["pixels"][0]
    found = []
    for layer in explained.layers:
        arrays = store.read_rows([row], [f"layers/{layer}/region", f"layers/{layer}/region_origin"])
        window, (top, left) = (
            arrays[f"layers/{layer}/{name}"][0, 0, 0] for name in ("region", "region_origin")
        )
        if not np.isfinite(window).all():
            continue  # no neuron of that sign
        values = np.zeros(fundus.shape[:2], np.float32)
        values[top : top + window.shape[0], left : left + window.shape[1]] = window
        found.append(LayerRegion(layer, str(eye["image_id"]), fundus, values))
    return tuple(found)


def _looks(workspace: Workspace, explained: Explained, clusters: pd.DataFrame) -> tuple[Look, ...]:
    """The patches around the most typical regions of each group; an eye shows at most one a
    group.
    """
    if clusters.empty:
        return ()
    keys = ["image_id", "source", "quantity", "sign", "region"]
    typical = clusters.sort_values(["cluster", "distance"]).drop_duplicates(["cluster", "image_id"])
    typical = typical.groupby("cluster").head(PATCHES_SHOWN)
    regions = workspace.frame(
        "lesion_regions",
        explain_id=explained.record["explain_id"],
        image_id=typical["image_id"].unique().tolist(),
    )
    placed = typical.merge(regions[[*keys, "centroid_y_px", "centroid_x_px"]], on=keys)
    positions = workspace.photos().set_index("image_id")["position"]
    names = placed["image_id"].unique()
    pixels = explained.fundi.read_rows(positions[names].to_numpy(), ["pixels"])["pixels"]
    fundi, side = dict(zip(names, pixels, strict=True)), max(4, PATCH_PX * pixels.shape[1] // 256)
    looks = []
    for number, some in placed.groupby("cluster"):
        every = clusters[clusters["cluster"] == number]
        cut = [
            patch(fundi[row.image_id], row.centroid_y_px, row.centroid_x_px, side)
            for row in some.itertuples()
        ]
        looks.append(Look(int(number), len(every), cut, _mixture(every)))
    return tuple(looks)


def _mixture(regions: pd.DataFrame) -> str:
    """Which lesion types the masks show there, the commonest first."""
    known = regions["lesion"].dropna()
    shares = known.value_counts(normalize=True).head(3)
    return " · ".join(f"{share:.0%} {name.replace('_', ' ')}" for name, share in shares.items())


def _note(clusters: pd.DataFrame) -> str:
    """How much a region's group says about its lesion type, where masks are: adjusted mutual
    information, 0 for chance.
    """
    known = clusters[clusters["lesion"].notna()]
    if known["lesion"].nunique() < 2:
        return ""
    from sklearn.metrics import adjusted_mutual_info_score

    every = adjusted_mutual_info_score(known["lesion"], known["cluster"])
    lesions = known[known["lesion"] != "none"]
    among = (
        adjusted_mutual_info_score(lesions["lesion"], lesions["cluster"])
        if lesions["lesion"].nunique() > 1
        else None
    )
    text = (
        f"Group and lesion type share {every:.2f} of their information (adjusted; 0 chance, 1 the"
        " same)"
    )
    return text + ("." if among is None else f", among regions on a lesion {among:.2f}.")
