"""Groups: the maps of many eyes, summed, and statistics of the heat maps."""

from types import SimpleNamespace

import numpy as np

from dr_lib.drawing import figures
from dr_lib.report.data import GroupSection
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import number, records, slugs


def view(folder: Folder, part: GroupSection) -> SimpleNamespace:
    made = []
    for name, group in zip(slugs(group.name for group in part.maps), part.maps, strict=True):
        blank = np.full((*group.values.shape, 3), figures.HALF_GRAY, np.uint8)
        base = blank if group.background is None else group.background
        drawn = figures.overlay(
            base, group.values, background="gray" if group.background is None else "fundus"
        )
        alt = f"Summed heat map of {group.images} eyes: {group.name}"
        note = f"{number(group.images)} {'eye' if group.images == 1 else 'eyes'}" + (
            f" · {group.note}" if group.note else ""
        )
        made.append(
            folder.figure(f"groups/{name}", drawn, alt, caption=group.name, note=note, signed=True)
        )
    return SimpleNamespace(maps=made, stats=table(records(part.stats), limit=60))


SECTION = Section("groups", "Groups", GroupSection, view)
