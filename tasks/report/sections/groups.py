"""Groups: the maps of many eyes, summed, and statistics of the heat maps."""

import numpy as np

from dr_lib.drawing.figures import overlay
from dr_lib.formatting import number, signed
from dr_lib.maps import POSTER
from dr_lib.report import Folder
from dr_lib.report.pictures import Picture, slugs
from dr_lib.report.section import Content, Grid, Heading, Key, Text, nothing, table
from dr_lib.vocabulary import HALF_GRAY
from storage.contents.group_maps import open_group_maps
from tasks.report.data import Shown

MEANS = [
    "positive_total",
    "negative_total",
    "top1_share",
    "entropy",
    "gini",
    "symmetry_stage0_stage4",
]


def content(shown: Shown, folder: Folder) -> Content:
    """The summed maps of the poster's groups and of each true stage, and means over all heat
    maps."""
    maps, stats = _maps(shown), shown.workspace.frame("heatmap_stats", explain_id=shown.explain_id)
    means = stats.groupby(["source", "quantity"])
    rows = (
        means[MEANS].mean().join(means.size().rename("images")).reset_index()
        if len(stats)
        else stats
    )
    if not maps and stats.empty:
        return nothing(
            "No heat maps are summed yet.",
            "Groups of eyes are formed by",
            "dr aggregate CONFIG.toml",
        )
    alike = stats.loc[stats["source"] == "pixels", "symmetry_stage0_stage4"].dropna()
    opposed = (
        f" Maps toward stages 0 and 4 of one eye correlate {signed(alike.mean())} on average."
        if len(alike)
        else ""
    )
    words = (
        "The maps of a group of eyes, summed: where the model looks as a habit, not in one"
        " photograph."
    )
    summed = [Text(words), Key(), Grid(drawn(folder, maps))] if maps else []
    return Content(
        f"The maps of {len(maps) or 'no'} groups of eyes are summed.{opposed}",
        [
            *summed,
            Heading("Statistics of the heat maps"),
            table(rows, "Means over all eyes", limit=60),
        ],
    )


def _maps(shown: Shown) -> list[tuple[str, int, np.ndarray]]:
    """Title, number of eyes and summed map of every group that is shown."""
    maps, found = open_group_maps(shown.workspace.files, shown.explain_id), []
    if maps is None:
        return found
    labels = zip(
        *(maps[key].values.tolist() for key in ("group_name", "source", "quantity", "images")),
        strict=True,
    )
    for index, (name, source, quantity, images) in enumerate(labels):
        right, true = (name, quantity) in POSTER, name == f"stage={quantity[-1]}"
        if source == "pixels" and (right or true):
            one = maps.isel(group=index)
            title = (
                f"{'rightly predicted' if right else 'true'} stage {name[-1]}, toward stage"
                f" {quantity[-1]}"
            )
            found.append((title, images, (one["mean_positive"] + one["mean_negative"]).to_numpy()))
    return found


def drawn(folder: Folder, maps: list[tuple[str, int, np.ndarray]]) -> list[Picture]:
    """Each group's map on half-gray."""
    pictures = []
    for slug, (name, images, values) in zip(slugs(name for name, *_ in maps), maps, strict=True):
        pixels = overlay(
            np.full((*values.shape, 3), HALF_GRAY, np.uint8), values, background="gray"
        )
        note = f"{number(images)} {'eye' if images == 1 else 'eyes'} · left eyes mirrored"
        alt = f"Summed heat map of {images} eyes: {name}"
        pictures.append(
            folder.figure(f"groups/{slug}", pixels, alt, caption=name, note=note, signed=True)
        )
    return pictures
