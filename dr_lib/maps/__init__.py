"""Attribution maps turned into rows: regions, statistics of a map, sums over groups, the extent of
a neuron's region.

Takes arrays and returns rows that are named like the tables' columns. Knows no model and no file.
"""

from dr_lib.maps.groups import POSTER, GroupHeatmaps, group_names
from dr_lib.maps.regions import HeatmapParams, find_regions, image_rows, smoothed
from dr_lib.maps.stats import region_measures, symmetry
