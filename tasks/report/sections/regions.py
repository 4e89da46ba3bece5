"""Regions: how far single neurons of each layer reach, and what groups of regions look like that no
label made."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from dr_lib.drawing import plots
from dr_lib.drawing.figures import overlay
from dr_lib.formatting import counted, percent
from dr_lib.maps.region_clustering import patch
from dr_lib.report.entry import EyeEntry
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content
from dr_lib.vocabulary import HALF_GRAY
from tasks.report.data import ReportData

PATCHES_SHOWN, PATCH_PX = 10, 32
ENLARGED, GAP_PX = 3, 4  # patches are drawn so many times their size, and so far apart


def content(data: ReportData, folder: Folder) -> Content:
    """Extents by layer, the channels that tell lesion types best, regions that look alike."""
    layers = by_layer(data.rows("neurons"))
    if layers.empty:
        return Content({"layers": layers})
    clusters = data.rows("region_clusters")
    return Content(
        {
            "layers": layers,
            "extents": extents(folder, layers),
            "examples": examples(folder, data.lead[0]) if data.lead else [],
            "channels": lesion_channels(data.rows("units", study="lesions")),
            "looks": looks(folder, _patches(data, clusters), clusters),
            "shared_information": shared_information(clusters),
        }
    )


def by_layer(neurons: pd.DataFrame) -> pd.DataFrame:
    """Extent and concentration of neurons' regions, the most local layer first."""
    layers = neurons.groupby("layer")
    extent = layers["region_extent_px"]
    rows = {
        "neurons": layers.size(),
        "extent_5": extent.quantile(0.05),
        "extent_px": extent.median(),
        "extent_95": extent.quantile(0.95),
        "top1_share": layers["region_top1_share"].median(),
    }
    return pd.DataFrame(rows).sort_values("extent_px").reset_index()


def extents(folder: Folder, rows: pd.DataFrame) -> Picture:
    """The extents as a plot, the most local layer first."""
    named = {"extent_px": "value", "extent_5": "low", "extent_95": "high"}
    words = "Extent of a neuron’s region (px)"
    drawn = plots.bars(rows.set_index("layer").rename(columns=named), x_label=words, dots=True)
    alt = "Radius of gyration of neurons' active regions by layer: median, and from 5 to 95 %"
    caption = "From local to scattered: extent by layer"
    return folder.plot("neurons-by-layer", drawn, alt, caption=caption)


def examples(folder: Folder, eye: EyeEntry) -> list[Picture]:
    """Each layer's strongest neuron in one eye, laid on the fundus."""
    pictures = []
    for layer in eye.layers:
        for neuron in [neuron for neuron in layer.neurons if neuron.sign == "positive"][:1]:
            values = np.zeros(eye.fundus.shape[:2], np.float32)
            values[neuron.window] = neuron.region
            picture = folder.figure(
                "layers",
                overlay(eye.fundus, values),
                f"Active region of the strongest neuron of {layer.layer} in eye {eye.image_id}",
                caption=layer.layer,
                note=f"strongest neuron, {eye.image_id}",
                signed=True,
            )
            pictures.append(picture)
    return pictures


def lesion_channels(units: pd.DataFrame) -> pd.DataFrame:
    """For each layer and lesion type the channel whose mean AUC is furthest from 0.5; no row
    without masks."""
    known = units[units["best_lesion"].notna()]
    distance = (known["lesion_auc"] - 0.5).abs()
    return known.loc[distance.groupby([known["layer"], known["best_lesion"]]).idxmax()]


def _patches(data: ReportData, clusters: pd.DataFrame) -> dict[int, list[np.ndarray]]:
    """By group the patches around its most typical regions; an eye shows at most one a group."""
    if clusters.empty:
        return {}
    keys = ["image_id", "source", "quantity", "sign", "region"]
    typical = clusters.sort_values(["cluster", "distance"]).drop_duplicates(["cluster", "image_id"])
    typical = typical.groupby("cluster").head(PATCHES_SHOWN)
    fundi = data.fundi(typical["image_id"])
    regions = data.rows("lesion_regions", image_id=list(fundi))
    placed = typical.merge(regions[[*keys, "centroid_y_px", "centroid_x_px"]], on=keys)
    patches: dict[int, list[np.ndarray]] = {}
    for row in placed.sort_values("cluster", kind="stable").itertuples():
        fundus = fundi[row.image_id]
        side = max(4, PATCH_PX * len(fundus) // 256)
        cut = patch(fundus, row.centroid_y_px, row.centroid_x_px, side)
        patches.setdefault(int(row.cluster), []).append(cut)
    return patches


def looks(
    folder: Folder, patches: dict[int, list[np.ndarray]], clusters: pd.DataFrame
) -> list[Picture]:
    """Each group of regions as a strip of patches, the most typical first."""
    pictures = []
    for group, cut in patches.items():
        regions = clusters[clusters["cluster"] == group]
        shares = regions["lesion"].value_counts(normalize=True).head(3)
        note = " · ".join(
            f"{percent(part)} {name.replace('_', ' ')}" for name, part in shares.items()
        )
        caption = f"Group {group}: {counted(len(regions), 'region')}"
        alt = f"Patches of {counted(len(cut), 'region')} of group {group}, the most typical first"
        pictures.append(folder.figure("looks", strip(cut), alt, caption=caption, note=note))
    return pictures


def strip(patches: Sequence[np.ndarray]) -> np.ndarray:
    """The patches side by side, enlarged, half-gray between them."""
    large = [
        cv2.resize(cut, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
        for cut in patches
    ]
    gap = ((0, 0), (0, GAP_PX), (0, 0))
    return np.hstack([np.pad(cut, gap, constant_values=HALF_GRAY) for cut in large])[:, :-GAP_PX]


def shared_information(clusters: pd.DataFrame) -> dict[str, float]:
    """How much a region's group says about its lesion type, where masks are: adjusted mutual
    information, 0 for chance, by the regions it is over."""
    from sklearn.metrics import adjusted_mutual_info_score

    marked = clusters[clusters["lesion"].notna()]
    lesions = marked[marked["lesion"] != "none"]
    return {
        among: adjusted_mutual_info_score(rows["lesion"], rows["cluster"])
        for among, rows in {
            "among all regions": marked,
            "among regions on a lesion": lesions,
        }.items()
        if rows["lesion"].nunique() > 1
    }
