"""Heat maps summed over groups of images, in one pass, left eyes mirrored so that anatomy
coincides.

An accumulator holds sums and counts only: maps are added one by one, accumulators of several
workers are merged, and the means are read at the end. Every mean is per image of the group that had
a finite map.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64

from dr_lib.evaluation.ratio import ratio
from dr_lib.fundus.anatomy import Eye, anatomy
from dr_lib.maps.regions import HeatmapParams

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
class GroupHeatmaps:
    """Running sums of the positive and the negative parts of maps, per (group, source,
    quantity), in the right eye's frame.
    """

    size: int
    sums: dict[Key, Float64[np.ndarray, "sign y x"]] = field(default_factory=dict)
    images: Counter[Key] = field(default_factory=Counter)

    def add(
        self,
        groups: Iterable[str],
        source: str,
        quantity: str,
        values: Float[np.ndarray, "y x"],
        eye: Eye | None,
    ) -> None:
        """Adds one image's map to each of its groups; a map with a value that is not finite, or of
        an eye that may be left or right, is left out.
        """
        if eye is not None and np.isfinite(values).all():
            values = values.astype(np.float64)[:, :: -1 if eye == "left" else 1]
            parts = np.stack([np.maximum(values, 0.0), np.minimum(values, 0.0)])
            for group in groups:
                self._add((group, source, quantity), parts, 1)

    def merge(self, other: "GroupHeatmaps") -> None:
        """Takes in the sums of another accumulator."""
        for key, parts in other.sums.items():
            self._add(key, parts, other.images[key])

    def _add(self, key: Key, parts: np.ndarray, images: int) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + parts
        self.images[key] += images

    def means(
        self,
    ) -> Iterator[tuple[Key, int, Float64[np.ndarray, "y x"], Float64[np.ndarray, "y x"]]]:
        """(key, images, mean positive map, mean negative map) of every group, sorted by key."""
        for key in sorted(self.sums):
            yield key, self.images[key], *(self.sums[key] / self.images[key])

    def rows(self, params: HeatmapParams = HeatmapParams(), *, crop: float) -> list[dict]:
        """Rows for the table `group_heatmaps`: mean attribution per pixel and image in each bin of
        the visible disc.

        Radial bins are equal steps from the centre to the rim; angular bins equal sectors, the
        first starting at 0° (nasal) and going on through 90° (superior). A bin without pixels, as
        in a tiny map, is NaN.

        Parameters
        ----------
        crop : of the fundi (`PreprocessParams.crop`)
        """
        retina = anatomy(self.size, "right", crop=crop)
        counts = {"radial": params.radial_bins, "angular": params.angular_bins}
        shares = {"radial": retina.radius_share, "angular": retina.angle_deg / 360.0}
        rows = []
        for key, images, *parts in self.means():
            about = dict(zip(("group_name", "source", "quantity"), key, strict=True))
            for profile, count in counts.items():
                bins = (shares[profile][retina.inside] * count).astype(int)
                # The rim belongs to the last ring, and 360° to the first sector.
                bins = np.minimum(bins, count - 1) if profile == "radial" else bins % count
                pixels = np.bincount(bins, minlength=count)
                means = [
                    ratio(np.bincount(bins, part[retina.inside], count), pixels).tolist()
                    for part in parts
                ]
                rows += [
                    {
                        **about,
                        "images": images,
                        "profile": profile,
                        "bin": number,
                        "mean_positive": positive,
                        "mean_negative": negative,
                    }
                    for number, (positive, negative) in enumerate(zip(*means, strict=True))
                ]
        return rows
