"""The report's section of regions: extents by layer as numbers and a plot, groups of regions as
strips of patches.
"""

import numpy as np

from dr_lib import report
from dr_lib.report.sections.regions import LayerRegion, Look, RegionSection, strip


def test_the_section_shows_extents_channels_and_looks():
    fundus = np.full((48, 48, 3), 128, np.uint8)
    part = RegionSection(
        by_layer=[
            {"layer": "stem", "neurons": 20, "extent_5": 3.0, "extent_px": 4.5, "extent_95": 6.25}
        ],
        examples=(LayerRegion("stem", "10_left", fundus, np.ones((48, 48), np.float32)),),
        channels=[{"layer": "stem", "best_lesion": "haemorrhage", "channel": 17, "auc": 0.81}],
        looks=(Look(0, 1, [np.full((32, 32, 3), 90, np.uint8)] * 2, "60% none"),),
        note="Group and lesion type share 0.31 of their information.",
    )
    files = report.render(report.ReportData(parts={"regions": part}))
    page = next(text for name, text in files.items() if name == "index.html")
    for words in (
        "Group 0: 1 region",
        "share 0.31 of their information",
        "haemorrhage",
        "4.5",
        "strongest neuron, 10_left",
    ):
        assert words in page
    assert {
        "figures/looks/0.png",
        "figures/layers/stem.png",
        "figures/neurons-by-layer.svg",
    } <= set(files)


def test_a_strip_is_patches_enlarged_with_gaps():
    drawn = strip([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    assert drawn.shape == (24, 24 + 4 + 24, 3)
    assert (drawn[:, :24] == 0).all()
    assert (drawn[:, 24:28] == 128).all()
    assert (drawn[:, 28:] == 255).all()


def test_without_tables_the_section_says_which_command_fills_it():
    assert "dr aggregate CONFIG.toml" in report.render(report.ReportData(parts={}))["index.html"]
