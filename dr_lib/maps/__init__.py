"""Attribution maps turned into rows: regions, statistics of a map, sums over groups, the extent of
a neuron's region.

Takes arrays and returns rows that are named like the tables' columns. Knows no model and no file.
"""

from dr_lib.maps.groups import POSTER, GroupHeatmaps, group_names
from dr_lib.maps.neurons import region_measures
from dr_lib.maps.params import HeatmapParams
from dr_lib.maps.regions import Regions, find_regions, region_rows, smoothed
from dr_lib.maps.rows import image_rows
from dr_lib.maps.stats import entropy_bit, gini, map_stats, symmetry, top_share

__all__ = [
    "POSTER",
    "GroupHeatmaps",
    "HeatmapParams",
    "Regions",
    "entropy_bit",
    "find_regions",
    "gini",
    "group_names",
    "image_rows",
    "map_stats",
    "region_measures",
    "region_rows",
    "smoothed",
    "symmetry",
    "top_share",
]
