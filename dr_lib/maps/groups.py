"""Heat maps summed over groups of images, in one pass, left eyes mirrored so that anatomy
coincides.

An accumulator holds sums and counts only: maps are added one by one, accumulators of several
workers are merged, and the means are read at the end. Every mean is per image of the group that had
a finite map.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.fundus.anatomy import Eye, anatomy
from dr_lib.maps.params import HeatmapParams

Key = tuple[str, str, str]  # group name, source, quantity

# What the poster shows at the level of the data set: (group, quantity).
POSTER = (
    ("stage=4,predicted_stage=4", "stage0"),
    ("stage=4,predicted_stage=4", "stage2"),
    ("stage=2,predicted_stage=2", "stage4"),
)


def group_names(stage: int | None, predicted_stage: int, eye: Eye | None) -> list[str]:
    """The groups that an image belongs to; those of the true stage only where it is known.
    `POSTER`'s are among them.

    >>> group_names(2, 2, "left")
    ['all', 'predicted_stage=2', 'eye=left', 'stage=2', 'stage=2,predicted_stage=2', 'correct']
    >>> group_names(None, 0, "right")
    ['all', 'predicted_stage=0', 'eye=right']
    """
    names = ["all", f"predicted_stage={predicted_stage}"]
    names += [f"eye={eye}"] if eye else []
    if stage is not None:
        names += [f"stage={stage}", f"stage={stage},predicted_stage={predicted_stage}"]
        names.append("correct" if stage == predicted_stage else "wrong")
    return names


@dataclass
class _Sums:
    positive: np.ndarray
    negative: np.ndarray
    images: int = 0


@dataclass
class GroupHeatmaps:
    """Running sums of the positive and the negative parts of maps, per (group, source,
    quantity), in the right eye's frame.
    """

    size: int
    skipped: int = 0  # maps left out: a value was not finite, or the eye may be left or right
    sums: dict[Key, _Sums] = field(default_factory=dict)

    def add(
        self,
        groups: Iterable[str],
        source: str,
        quantity: str,
        values: Float[np.ndarray, "y x"],
        eye: Eye | None,
    ) -> None:
        """Adds one image's map to each of its groups; a map with a value that is not finite, or of
        an eye that may be left or right, is counted as skipped.
        """
        if values.shape != (self.size, self.size):
            raise ValueError(
                f"a map of {values.shape} cannot join sums of {self.size} × {self.size}"
            )
        if eye is None or not np.isfinite(values).all():
            self.skipped += 1
            return
        values = values.astype(np.float64)[:, :: -1 if eye == "left" else 1]
        positive, negative = np.maximum(values, 0.0), np.minimum(values, 0.0)
        for group in groups:
            sums = self._of((group, source, quantity))
            sums.positive += positive
            sums.negative += negative
            sums.images += 1

    def merge(self, other: "GroupHeatmaps") -> None:
        """Takes in the sums of another accumulator of the same size."""
        if other.size != self.size:
            raise ValueError(
                f"sums of {other.size} × {other.size} cannot join sums of {self.size} × {self.size}"
            )
        for key, theirs in other.sums.items():
            sums = self._of(key)
            sums.positive += theirs.positive
            sums.negative += theirs.negative
            sums.images += theirs.images
        self.skipped += other.skipped

    def means(
        self,
    ) -> Iterator[tuple[Key, int, Float64[np.ndarray, "y x"], Float64[np.ndarray, "y x"]]]:
        """(key, images, mean positive map, mean negative map) of every group, sorted by key."""
        for key in sorted(self.sums):
            sums = self.sums[key]
            yield key, sums.images, sums.positive / sums.images, sums.negative / sums.images

    def rows(self, params: HeatmapParams = HeatmapParams(), *, crop: float) -> list[dict]:
        """Rows for the table `group_heatmaps`: mean attribution per pixel and image in each bin of
        the visible disc.

        crop: of the fundi (`PreprocessParams.crop`). Radial bins are equal steps from the centre to
        the rim; angular bins equal sectors, the first starting at 0° (nasal) and going on through
        90° (superior). A bin without pixels, as in a tiny map, is NaN.
        """
        place = anatomy(self.size, "right", crop=crop)
        radial = np.minimum(
            (place.radius_share[place.inside] * params.radial_bins).astype(int),
            params.radial_bins - 1,
        )
        angular = (place.angle_deg[place.inside] / 360.0 * params.angular_bins).astype(
            int
        ) % params.angular_bins
        rows = []
        for (group, source, quantity), images, positive, negative in self.means():
            for profile, bins, count in (
                ("radial", radial, params.radial_bins),
                ("angular", angular, params.angular_bins),
            ):
                pixels = np.bincount(bins, minlength=count)
                means = [
                    np.divide(
                        np.bincount(bins, weights=part[place.inside], minlength=count),
                        pixels,
                        out=np.full(count, np.nan),
                        where=pixels > 0,
                    )
                    for part in (positive, negative)
                ]
                rows += [
                    {
                        "group_name": group,
                        "source": source,
                        "quantity": quantity,
                        "images": images,
                        "profile": profile,
                        "bin": index,
                        "mean_positive": float(means[0][index]),
                        "mean_negative": float(means[1][index]),
                    }
                    for index in range(count)
                ]
        return rows

    def _of(self, key: Key) -> _Sums:
        if key not in self.sums:
            self.sums[key] = _Sums(
                np.zeros((self.size, self.size)), np.zeros((self.size, self.size))
            )
        return self.sums[key]
