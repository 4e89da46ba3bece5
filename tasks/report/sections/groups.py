"""Groups: the maps of many eyes, summed, and statistics of the heat maps."""

import numpy as np

from dr_lib.drawing.figures import overlay
from dr_lib.formatting import counted
from dr_lib.maps import POSTER
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content
from dr_lib.vocabulary import HALF_GRAY
from storage.contents.snapshots import open_set
from tasks.report.data import ReportData

MEANS = [
    "positive_total",
    "negative_total",
    "top1_share",
    "entropy",
    "gini",
    "symmetry_stage0_stage4",
]


def content(data: ReportData, folder: Folder) -> Content:
    """The summed maps of the poster's groups and of each true stage, and means over all heat
    maps."""
    stats = data.rows("heatmap_stats")
    means = stats.groupby(["source", "quantity"])
    return Content(
        {
            "maps": summed(data, folder),
            "alike": stats.loc[stats["source"] == "pixels", "symmetry_stage0_stage4"].dropna(),
            "means": means[MEANS].mean().join(means.size().rename("images")).reset_index(),
        }
    )


def summed(data: ReportData, folder: Folder) -> list[Picture]:
    """The map of every group that is shown."""
    maps, pictures = open_set(data.workspace.files, data.ids.explain_id, "groups"), []
    if maps is None:
        return pictures
    for index in range(maps.sizes["group"]):
        group = maps.isel(group=index)
        name, source, quantity = (
            str(group[key].item()) for key in ("group_name", "source", "quantity")
        )
        right, stage = (name, quantity) in POSTER, quantity[-1]
        if source == "pixels" and (right or name == f"stage={stage}"):
            title = (
                f"{'rightly predicted' if right else 'true'} stage {name[-1]}, toward stage {stage}"
            )
            values = (group["mean_positive"] + group["mean_negative"]).to_numpy()
            pictures.append(picture(folder, title, int(group["images"]), values))
    return pictures


def picture(folder: Folder, title: str, images: int, values: np.ndarray) -> Picture:
    """A group's map, (y, x), on half-gray."""
    plain = np.full((*values.shape, 3), HALF_GRAY, np.uint8)
    eyes = counted(images, "eye")
    return folder.figure(
        "groups",
        overlay(plain, values, background="gray"),
        f"Summed heat map of {eyes}: {title}",
        caption=title,
        note=f"{eyes} · left eyes mirrored",
        signed=True,
    )
