"""Groups of regions that look alike, found without labels: how the fundus looks around a region,
whatever way it is turned.

A region is described by the mean red, green and blue, and green's spread, in rings around its
centroid, and by its size and shape. Nothing of the lesion masks, of the attribution or of the place
on the retina goes in, so that where a group turns out to be one lesion type, appearance alone has
told it apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from jaxtyping import Float64, Int, UInt8

from dr_lib.settings import Settings

EDGES_PX = (0.0, 1.5, 3.0, 5.0, 8.0, 12.0)  # of the rings, at 256 px; they scale with the fundus
SAMPLE = 20_000  # regions that the groups are made from; all are then assigned
SILHOUETTE_SAMPLE = 2_000  # its cost grows with the square


@dataclass(frozen=True)
class RegionClusteringParams(Settings):
    """source: whose regions, such as stem or pixels. clusters: how many groups."""

    source: str = "stem"
    clusters: Annotated[int, Interval(ge=2)] = 8
    seed: int = 0


def descriptors(
    fundus: UInt8[np.ndarray, "y x 3"], regions: Sequence[Mapping[str, Any]]
) -> Float64[np.ndarray, "region feature"]:
    """One row of features per region; `regions` are rows of `lesion_regions` of this image."""
    size = len(fundus)
    edges = np.array(EDGES_PX) * size / 256
    colour = fundus.astype(np.float64) - 128
    reach = int(np.ceil(edges[-1]))
    rows = []
    for region in regions:
        y, x = region["centroid_y_px"], region["centroid_x_px"]
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        window = colour[top : int(y) + reach + 2, left : int(x) + reach + 2]
        height, width = window.shape[:2]
        away = np.hypot((np.arange(height) + top - y)[:, None], np.arange(width) + left - x)
        features = []
        for inner, outer in pairwise(edges):
            ring = window[(away >= inner) & (away < outer)]
            ring = ring if len(ring) else np.zeros((1, 3))
            features += [*ring.mean(axis=0), ring[:, 1].std()]
        area = 10 * np.log2(region["area_px"] * (256 / size) ** 2)
        rows.append([*features, area, 30 * region["eccentricity"]])
    return np.array(rows, np.float64).reshape(len(rows), 4 * (len(EDGES_PX) - 1) + 2)


@dataclass(frozen=True)
class Clusters:
    """Each region's group (0 the largest), its distance from the group's centre, its silhouette
    (NaN beyond the sample).
    """

    cluster: Int[np.ndarray, "region"]
    distance: Float64[np.ndarray, "region"]
    silhouette: Float64[np.ndarray, "region"]


def cluster(
    features: Float64[np.ndarray, "region feature"],
    params: RegionClusteringParams,
) -> Clusters:
    """k-means of the standardised features, repeatable; with fewer regions than groups each is
    its own.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_samples
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    count = len(features)
    if count < 2:
        return Clusters(np.zeros(count, int), np.zeros(count), np.full(count, np.nan))
    scaled = StandardScaler().fit_transform(features)
    order = np.random.default_rng(params.seed).permutation(count)
    groups = min(params.clusters, len(np.unique(scaled, axis=0)))
    # Threads add up in the order in which they finish: with several the same regions would get
    # other last bits each time.
    with threadpool_limits(1):
        kmeans = KMeans(groups, n_init=4, random_state=params.seed)
        kmeans.fit(scaled[np.sort(order[:SAMPLE])])
        label, away = kmeans.predict(scaled), kmeans.transform(scaled).min(axis=1)
    by_size = np.argsort(-np.bincount(label, minlength=groups), kind="stable")
    renamed = np.empty(groups, int)
    renamed[by_size] = np.arange(groups)
    silhouette = np.full(count, np.nan)
    sample = np.sort(order[:SILHOUETTE_SAMPLE])
    if 1 < len(np.unique(label[sample])) < len(sample):
        silhouette[sample] = silhouette_samples(scaled[sample], label[sample])
    return Clusters(renamed[label], away, silhouette)


def patch(
    fundus: UInt8[np.ndarray, "y x 3"], y_px: float | int, x_px: float | int, side_px: int
) -> UInt8[np.ndarray, "s s 3"]:
    """The square of the fundus around a point; half-gray beyond the image."""
    half = side_px // 2
    padded = np.pad(fundus, ((half, half), (half, half), (0, 0)), constant_values=128)
    top, left = round(float(y_px)), round(float(x_px))
    return padded[top : top + side_px, left : left + side_px]
