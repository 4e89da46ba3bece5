"""Regions grouped by how they look: what differs to the eye is told apart, where it lies or how
it is turned does not matter.
"""

import numpy as np
import pytest

from dr_lib.maps.region_clustering import RegionClusteringParams, cluster, descriptors, patch

GRAY = np.full((256, 256, 3), 128, np.uint8)


def region(y, x, area=20.0):
    return {"centroid_y_px": y, "centroid_x_px": x, "area_px": area, "eccentricity": 0.0}


def drawn(places, colour, half=3):
    fundus = GRAY.copy()
    for y, x in places:
        fundus[y - half : y + half + 1, x - half : x + half + 1] = colour
    return fundus


def test_dark_and_bright_spots_fall_into_two_groups_the_larger_first():
    dark, bright = [(60, 60), (90, 120), (150, 80)], [(80, 90), (140, 140)]
    fundus = np.minimum(drawn(dark, (60, 40, 60)), 255)
    fundus = np.where(drawn(bright, (240, 240, 180)) != 128, drawn(bright, (240, 240, 180)), fundus)
    found = cluster(
        descriptors(fundus, [region(*place) for place in bright + dark]),
        RegionClusteringParams(clusters=2),
    )
    assert found.cluster.tolist() == [1, 1, 0, 0, 0]
    assert (found.silhouette > 0.9).all()
    assert found.distance == pytest.approx(np.zeros(5), abs=1e-9)


def test_features_do_not_change_when_the_region_moves_or_turns():
    fundus = drawn([(100, 100)], (60, 60, 60))
    fundus[100, 100:108] = 250
    here = descriptors(fundus, [region(100, 100)])
    assert descriptors(np.roll(fundus, (30, -20), axis=(0, 1)), [region(130, 80)]) == pytest.approx(
        here
    )
    turned = np.rot90(fundus)  # (y, x) -> (255 - x, y)
    assert descriptors(np.ascontiguousarray(turned), [region(155, 100)]) == pytest.approx(here)


def test_few_or_no_regions_are_no_trouble():
    assert descriptors(GRAY, []).shape == (0, 22)
    assert cluster(np.zeros((0, 22)), RegionClusteringParams()).cluster.tolist() == []
    assert cluster(np.zeros((1, 22)), RegionClusteringParams()).cluster.tolist() == [0]
    assert cluster(np.zeros((5, 22)), RegionClusteringParams()).cluster.tolist() == [0] * 5, (
        "all alike are one group"
    )


def test_a_patch_at_the_edge_is_filled_with_half_gray():
    fundus = np.zeros((64, 64, 3), np.uint8)
    cut = patch(fundus, 0, 63, 8)
    assert cut.shape == (8, 8, 3)
    assert (cut[4:, :5] == 0).all()
    assert (cut[:4] == 128).all()
    assert (cut[:, 5:] == 128).all()
