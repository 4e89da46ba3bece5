"""Regions: how far single neurons of each layer reach, and what groups of regions look like that no
label made."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from dr_lib.drawing import plots
from dr_lib.drawing.figures import overlay
from dr_lib.formatting import number, percent
from dr_lib.maps.region_clustering import patch
from dr_lib.report import EyeEntry, Folder
from dr_lib.report.pictures import Picture, slugs
from dr_lib.report.section import Content, Grid, Heading, Key, Plots, Text, nothing, table
from dr_lib.vocabulary import HALF_GRAY
from tasks.access.stores import fundus_store
from tasks.report.data import Shown

PATCHES_SHOWN, PATCH_PX = 10, 32
ENLARGED, GAP_PX = 3, 4  # patches are drawn so many times their size, and so far apart


def content(shown: Shown, folder: Folder) -> Content:
    """Extents by layer, the channels that tell lesion types best, regions that look alike."""
    workspace, explain_id = shown.workspace, shown.explain_id
    rows = by_layer(workspace.frame("neurons", explain_id=explain_id))
    if not rows:
        return nothing(
            "No region has been measured yet.", "That is done by", "dr aggregate CONFIG.toml"
        )
    clusters = workspace.frame("region_clusters", explain_id=explain_id)
    channels = _channels(workspace.frame("units", explain_id=explain_id, study="lesions"))
    near, far = rows[0], rows[-1]
    return Content(
        f"A neuron’s region has a median radius of {number(near['extent_px'])} px in"
        f" {near['layer']} and of {number(far['extent_px'])} px in {far['layer']}.",
        [
            Text(
                "How far the active region of a single neuron reaches: the radius of gyration of"
                " its attribution, over all explained eyes."
            ),
            Plots([extents(folder, rows)], wide=True),
            table(rows, "Regions of neurons by layer"),
            Key(),
            Grid(examples(folder, shown.lead[0]) if shown.lead else []),
            *lesion_channels(channels),
            *looks(folder, _patches(shown, clusters), clusters),
        ],
    )


def extents(folder: Folder, rows: list[dict]) -> Picture:
    """The extents as a plot, the most local layer first."""
    middle, low, high = (
        np.array([row[name] for row in rows]) for name in ("extent_px", "extent_5", "extent_95")
    )
    names = [row["layer"] for row in rows]
    drawn = plots.bars(
        names, middle, low, high, x_label="Extent of a neuron’s region (px)", dots=True
    )
    alt = "Radius of gyration of neurons' active regions by layer: median, and from 5 to 95 %"
    return folder.plot(
        "neurons-by-layer", drawn, alt, caption="From local to scattered: extent by layer"
    )


def lesion_channels(channels: pd.DataFrame) -> list:
    """The channels that tell lesion types best; nothing without masks."""
    words = (
        "For each lesion type the channel whose activation tells it best from the rest of the"
        " retina: AUC, below 0.5 where the channel is less active on lesions. Held out: the type"
        " was chosen on one half of the patients and measured on the other. Against other lesions:"
        " 0.5 means that the channel finds lesions, but not which."
    )
    return (
        [
            Heading("Channels and lesion types"),
            Text(words),
            table(channels, "Channels and lesion types"),
        ]
        if len(channels)
        else []
    )


def looks(folder: Folder, patches: dict[int, list[np.ndarray]], clusters: pd.DataFrame) -> list:
    """Each group of regions as a strip of patches, the most typical first; nothing without
    groups."""
    pictures = []
    for group, cut in patches.items():
        every = clusters[clusters["cluster"] == group]
        caption = (
            f"Group {group}: {number(len(every))} {'region' if len(every) == 1 else 'regions'}"
        )
        alt = f"Patches of {len(cut)} regions of group {group}, the most typical first"
        pictures.append(
            folder.figure(f"looks/{group}", strip(cut), alt, caption=caption, note=_mixture(every))
        )
    words = (
        "The heat maps’ regions, grouped by how the fundus looks there and by nothing else."
        f" {note(clusters)}"
    )
    return (
        [Heading("Regions that look alike"), Text(words), Grid(pictures, "looks")]
        if pictures
        else []
    )


def strip(patches: Sequence[np.ndarray]) -> np.ndarray:
    """The patches side by side, enlarged, half-gray between them."""
    large = [
        cv2.resize(one, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
        for one in patches
    ]
    between = np.full((large[0].shape[0], GAP_PX, 3), HALF_GRAY, np.uint8)
    return np.concatenate([piece for one in large for piece in (one, between)][:-1], axis=1)


def by_layer(neurons: pd.DataFrame) -> list[dict]:
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


def examples(folder: Folder, eye: EyeEntry) -> list[Picture]:
    """Each layer's strongest neuron in one eye, laid on the fundus."""
    pictures = []
    for name, layer in zip(slugs(one.layer for one in eye.layers), eye.layers, strict=True):
        for neuron in [one for one in layer.neurons if one.sign == "positive"][:1]:
            (top, left), (height, width) = neuron.origin, neuron.region.shape
            values = np.zeros(eye.fundus.shape[:2], np.float32)
            values[top : top + height, left : left + width] = neuron.region
            alt = f"Active region of the strongest neuron of {layer.layer} in eye {eye.image_id}"
            words = {
                "caption": layer.layer,
                "note": f"strongest neuron, {eye.image_id}",
                "signed": True,
            }
            pictures.append(
                folder.figure(f"layers/{name}", overlay(eye.fundus, values), alt, **words)
            )
    return pictures


def _patches(shown: Shown, clusters: pd.DataFrame) -> dict[int, list[np.ndarray]]:
    """By group the patches around its most typical regions; an eye shows at most one a group."""
    if clusters.empty:
        return {}
    keys = ["image_id", "source", "quantity", "sign", "region"]
    typical = clusters.sort_values(["cluster", "distance"]).drop_duplicates(["cluster", "image_id"])
    typical = typical.groupby("cluster").head(PATCHES_SHOWN)
    names = typical["image_id"].unique().tolist()
    regions = shown.workspace.frame("lesion_regions", explain_id=shown.explain_id, image_id=names)
    placed = typical.merge(regions[[*keys, "centroid_y_px", "centroid_x_px"]], on=keys)
    positions = shown.workspace.photos().set_index("image_id")["position"]
    pixels = fundus_store(shown.workspace, shown.recipe.preprocess_id).read_rows(
        positions[names].to_numpy(), ["pixels"]
    )["pixels"]
    fundi, side = dict(zip(names, pixels, strict=True)), max(4, PATCH_PX * pixels.shape[1] // 256)
    return {
        int(group): [
            patch(fundi[row.image_id], row.centroid_y_px, row.centroid_x_px, side)
            for row in some.itertuples()
        ]
        for group, some in placed.groupby("cluster")
    }


def _mixture(regions: pd.DataFrame) -> str:
    """Which lesion types the masks show there, the commonest first."""
    known = regions["lesion"].dropna()
    shares = known.value_counts(normalize=True).head(3)
    return " · ".join(
        f"{percent(share)} {name.replace('_', ' ')}" for name, share in shares.items()
    )


def note(clusters: pd.DataFrame) -> str:
    """How much a region's group says about its lesion type, where masks are: adjusted mutual
    information, 0 for chance."""
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
