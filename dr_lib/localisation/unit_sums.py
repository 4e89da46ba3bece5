"""What each channel of a layer contributes to the grades of many eyes: sums that shards send and
that merge, of the same size however many eyes there are.

A channel's contribution to an eye is the attribution of the layer's quantity to it, summed over
positions (METHOD §5); its place is that of its unit with the largest attribution. `UnitSums` adds
up; `unit_rows` and `example_rows` read statistics and the strongest eyes from the sums. Nothing
here knows networks, files or tables.
"""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64, Integer, UInt8

from dr_lib.attribution.receptive import ReceptiveField
from dr_lib.evaluation.ratio import ratio
from dr_lib.fundus.anatomy import RINGS, Eye, anatomy
from dr_lib.fundus.optic_disc import optic_disc
from dr_lib.fundus.vessels import vessels
from dr_lib.vocabulary import QUADRANTS, STAGE_COUNT

KINDS = ("for", "against", "excites")
MOST = 6  # eyes kept of each kind
NEIGHBOURS = 5
RIM_SHARE = 0.95  # of the visible disc's radius: its rim, and the frame, begin here
PLACES = ("optic_disc", "vessel", "rim", *(f"ring_{ring}" for ring in range(RINGS)), *QUADRANTS)
# Bins of contributions: four a decade from 1e-6 to 10, of each sign, and one around 0. Beyond 10
# the outermost take everything.
_STEPS = 10.0 ** (np.arange(-24, 5) / 4)
EDGES = np.concatenate([-_STEPS[::-1], _STEPS])
BINS = len(EDGES) - 1


def place_masks(
    fundus: UInt8[np.ndarray, "y x 3"], eye: Eye | None, *, crop: float
) -> Integer[np.ndarray, "place y x"]:
    """Where each of `PLACES` is on a fundus: 1 there, 0 elsewhere, −1 where that is not known (the
    quadrants of an eye that may be left or right, an optic disc that was not found).

    Parameters
    ----------
    crop : of the fundus (`PreprocessParams.crop`)
    """
    retina, disc = anatomy(len(fundus), eye or "right", crop=crop), optic_disc(fundus, crop=crop)
    unknown = np.full(retina.inside.shape, -1)
    masks = [
        disc.mask(len(fundus)) if disc else unknown,
        vessels(fundus, crop=crop),
        retina.radius_share >= RIM_SHARE,
        *(retina.ring == ring for ring in range(RINGS)),
        *(retina.quadrant == at if eye else unknown for at in range(len(QUADRANTS))),
    ]
    return np.array(masks, np.int8)


def places_at(
    masks: Integer[np.ndarray, "place y x"],
    units: Integer[np.ndarray, "channel 2"],
    field: ReceptiveField,
) -> Integer[np.ndarray, "channel place"]:
    """What `place_masks` says of the pixel in the middle of what each unit (y, x) sees; −1 for a
    channel without a place."""
    middle = np.rint(np.array(field.centre) + units * np.array(field.stride)).astype(int)
    y, x = np.clip(middle, 0, masks.shape[-1] - 1).T
    return np.where(units[:, :1] < 0, -1, masks[:, y, x].T)


@dataclass(frozen=True)
class UnitSums:
    """One layer's sums over eyes. `merged` of two parts is that of the whole.

    total, squares: by predicted stage, of contributions and of their squares; products: of each two
    channels' contributions. by_stage, by_predicted_stage: eyes by their contribution, in the bins
    of `EDGES`; the last stage of the first is "unknown". places: eyes with the place there, and
    with a place that is known. strength, row, unit: the strongest eyes of each of `KINDS`, by their
    row; where there are fewer 0 and −1.
    """

    total: Float64[np.ndarray, "predicted channel"]
    squares: Float64[np.ndarray, "predicted channel"]
    products: Float64[np.ndarray, "channel channel"]
    by_stage: Int64[np.ndarray, "channel stage bin"]
    by_predicted_stage: Int64[np.ndarray, "channel predicted bin"]
    places: Int64[np.ndarray, "channel place 2"]
    strength: Float64[np.ndarray, "channel kind rank"]
    row: Int64[np.ndarray, "channel kind rank"]
    unit: Int64[np.ndarray, "channel kind rank 2"]

    @classmethod
    def of(
        cls,
        contribution: Float[np.ndarray, "eye channel"],
        activation: Float[np.ndarray, "eye channel"],
        unit: Integer[np.ndarray, "eye channel 2 2"],
        places: Integer[np.ndarray, "eye channel place"],
        eyes: pd.DataFrame,
    ) -> "UnitSums":
        """The sums over some eyes; one whose contributions are not finite is left out.

        Parameters
        ----------
        activation : the largest of each channel
        unit : (y, x) where the contribution and the activation are largest; −1 for none
        places : `places_at` of the first
        eyes : `row` on the image axis, which also breaks ties, `stage` (missing where unknown) and
            `predicted_stage`
        """
        kept = np.isfinite(contribution).all(axis=1)
        values, active = (array[kept].astype(np.float64) for array in (contribution, activation))
        unit, places, eyes = unit[kept].astype(np.int64), places[kept], eyes[kept]
        predicted = eyes["predicted_stage"].to_numpy(np.int64)
        stage = eyes["stage"].fillna(STAGE_COUNT).to_numpy(np.int64)
        graded = (predicted[:, None] == np.arange(STAGE_COUNT)).astype(np.float64)
        # (channel, kind, eye): the first two kinds have the contribution's place.
        strength = np.stack([values.T, -values.T, active.T], axis=1)
        where = np.moveaxis(unit[:, :, [0, 0, 1]], 0, 2)
        rows = np.broadcast_to(eyes["row"].to_numpy(np.int64), strength.shape)
        return cls(
            graded.T @ values,
            graded.T @ values**2,
            values.T @ values,
            _binned(values, stage, STAGE_COUNT + 1),
            _binned(values, predicted, STAGE_COUNT),
            np.stack([(places == 1).sum(axis=0), (places >= 0).sum(axis=0)], axis=2),
            *_strongest(strength, rows, where),
        )

    @property
    def eyes(self) -> Int64[np.ndarray, "predicted"]:
        """How many there are of each predicted stage."""
        return self.by_predicted_stage[0].sum(axis=1)

    def merged(self, other: "UnitSums") -> "UnitSums":
        """The sums over the eyes of both."""
        both = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        strongest = _strongest(*(np.concatenate(pair, axis=2) for pair in both[-3:]))
        return UnitSums(*(mine + theirs for mine, theirs in both[:-3]), *strongest)


def _binned(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    counts = np.zeros((values.shape[1], count, BINS), np.int64)
    bins = np.searchsorted(EDGES[1:-1], values, side="right")
    np.add.at(counts, (np.arange(len(counts)), groups[:, None], bins), 1)
    return counts


def _strongest(strength: np.ndarray, row: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, ...]:
    """The `MOST` eyes with the largest strength above 0, ties by the lowest row."""
    short = [(0, 0), (0, 0), (0, MOST)]
    strength, row = (np.pad(array, short) for array in (np.maximum(strength, 0.0), row))
    unit = np.pad(unit, [*short, (0, 0)])
    order = np.lexsort((row, -strength), axis=-1)[..., :MOST]
    strength, row = (np.take_along_axis(array, order, axis=2) for array in (strength, row))
    unit = np.take_along_axis(unit, order[..., None], axis=2)
    there = strength > 0
    return strength, np.where(there, row, -1), np.where(there[..., None], unit, -1)


def medians(counts: Integer[np.ndarray, "*axes bin"]) -> Float64[np.ndarray, "*axes"]:
    """The median of each histogram, interpolated within its bin; NaN for an empty one.

    >>> counts = np.zeros(BINS, int)
    >>> counts[np.searchsorted(EDGES, 0.05) - 1] = 7
    >>> bool(10**-1.5 <= medians(counts) <= 10**-1.25)
    True
    """
    reached, half = counts.cumsum(axis=-1), counts.sum(axis=-1, keepdims=True) / 2
    at = (reached >= half).argmax(axis=-1)[..., None]
    inside = np.take_along_axis(counts, at, axis=-1)
    before = np.take_along_axis(reached, at, axis=-1) - inside
    return (EDGES[at] + ratio(half - before, inside) * (EDGES[at + 1] - EDGES[at]))[..., 0]


def correlations(sums: UnitSums) -> Float64[np.ndarray, "channel channel"]:
    """Pearson's correlation of each two channels' contributions over eyes; NaN where one of them
    never changes, and of a channel with itself."""
    eyes = max(int(sums.eyes.sum()), 1)
    mean = sums.total.sum(axis=0) / eyes
    covariance = sums.products / eyes - np.outer(mean, mean)
    variance = np.diag(covariance)
    # Below the rounding of the sums nothing has changed.
    changes = variance > 1e-12 * np.diag(sums.products) / eyes
    spread = np.sqrt(np.where(changes, variance, np.nan))
    found = np.clip(covariance / np.outer(spread, spread), -1, 1)
    np.fill_diagonal(found, np.nan)
    return found


def unit_rows(layer: str, sums: UnitSums) -> pd.DataFrame:
    """A row of the table `units` (study contributions) for each channel."""
    eyes, graded, like = sums.eyes.sum(keepdims=True), sums.eyes[:, None], correlations(sums)
    mean = ratio(sums.total, graded)
    variance = np.maximum(ratio(sums.squares, graded) - mean**2, 0)
    signs = [
        sums.by_stage[..., part].sum(axis=(1, 2))
        for part in np.split(range(BINS), [BINS // 2, BINS // 2 + 1])
    ]
    nearest = np.argsort(np.where(np.isnan(like), np.inf, -like), axis=1, kind="stable")
    near = [
        [other for other in others[:NEIGHBOURS] if not np.isnan(like[unit, other])]
        for unit, others in enumerate(nearest.tolist())
    ]
    columns = {
        "mean_attribution": ratio(sums.total.sum(axis=0), eyes),
        "share_for": ratio(signs[2], eyes),
        "share_against": ratio(signs[0], eyes),
        "median_by_stage": medians(sums.by_stage[:, :STAGE_COUNT]),
        "median_by_predicted_stage": medians(sums.by_predicted_stage),
        "mean_by_predicted_stage": mean.T,
        "deviation_by_predicted_stage": np.sqrt(variance).T,
        "histogram_by_stage": sums.by_stage.reshape(len(like), -1),
        "histogram_by_predicted_stage": sums.by_predicted_stage.reshape(len(like), -1),
    }
    shares = ratio(sums.places[..., 0], sums.places[..., 1]).T
    columns |= dict(zip((f"place_{place}" for place in PLACES), shares, strict=True))
    return pd.DataFrame({name: values.tolist() for name, values in columns.items()}).assign(
        study="contributions",
        layer=layer,
        unit=range(len(like)),
        images=eyes[0],
        neighbours=near,
        neighbour_correlations=[like[unit, others].tolist() for unit, others in enumerate(near)],
    )


def example_rows(layer: str, sums: UnitSums, field: ReceptiveField, size: int) -> pd.DataFrame:
    """A row for each of the strongest eyes of each channel, and the window of a fundus of `size`
    px that the unit sees there; `row` is the eye's on the image axis."""
    unit, kind, rank = found = np.nonzero(sums.row >= 0)
    place = sums.unit[found]
    nowhere = place[:, 0] < 0
    start = np.array(field.offset) + place * field.stride
    start, end = np.maximum(start, 0), np.minimum(start + field.size, size)
    start[nowhere], end[nowhere] = 0, size
    names = (
        "unit_y",
        "unit_x",
        *(f"window_{name}_px" for name in ("top", "left", "height", "width")),
    )
    placed = np.where(nowhere[:, None], np.nan, place)
    rows = pd.DataFrame(np.hstack([placed, start, end - start]), columns=names)
    return rows.assign(
        layer=layer,
        unit=unit,
        kind=np.array(KINDS)[kind],
        rank=rank,
        row=sums.row[found],
        value=np.where(kind == KINDS.index("against"), -1, 1) * sums.strength[found],
    )
