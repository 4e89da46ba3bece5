"""The range of every column, as an analyst would write it: an interval of numbers, the words a text
may be, or `text`.

By name, since a name means the same in every table; where it does not, by `table.column`. Intervals
are closed, and open at ∞; ids and free text have the range `text`. A share of something signed can
leave 0 … 1: those are open on purpose. `outside` tests values against a range, so that the page
cannot promise what the tables do not hold.
"""

import re
from collections.abc import Iterable

ANY, FROM_0, UP_TO_0, SHARE, SIGNED = "(-∞, ∞)", "[0, ∞)", "(-∞, 0]", "[0, 1]", "[-1, 1]"
TEXT, TRUTH = "text", "true | false"
SPLITS, SIGNS, STAGE, EYES = (
    "train | validation | test",
    "positive | negative",
    "[0, 4]",
    "left | right",
)
QUADRANTS = "superior_temporal | superior_nasal | inferior_temporal | inferior_nasal"
LESIONS = (
    "microaneurysm | haemorrhage | hard_exudate | soft_exudate | new_vessels |"
    " preretinal_haemorrhage"
)
HOWS = ("", "_strongest", "_regions", "_recomputed")


def _each(range_: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, range_)


RANGES = {
    # Ids, names, free text.
    **_each(
        TEXT,
        "image_id",
        "patient_id",
        "sha256",
        "stamp",
        "reason",
        "detail",
        "usage",
        "group_name",
        "layer",
        "source",
    ),
    **_each(
        TEXT,
        "metric",
        "stratum",
        "run_id",
        "config_sha256",
        "message",
        "versions",
        "strongest_image_id",
        "failure",
    ),
    **_each(TEXT, "preprocess_id", "model_id", "explain_id", "quantity"),
    # Words.
    "eye": EYES,
    "split": SPLITS,
    "sign": SIGNS,
    "step": "ingest | preprocess",
    "quadrant": QUADRANTS,
    "profile": "radial | angular",
    "study": "linearity | lesions",
    "verdict": "linear | constant | reversed | saturating | nonlinear | dead",
    "best_lesion": LESIONS,
    "lesion": f"{LESIONS} | none",
    "evaluation.lesion": f"{LESIONS} | any",
    "state": "completed | failed | interrupted",
    "counterfactuals.method": " | ".join(
        f"{form}{how}" for form in ("proportional", "constant") for how in HOWS
    ),
    "adversarials.method": "fgsm_linf | pgd_linf | fgsm_l2 | pgd_l2",
    **_each(TEXT, "transfers.method", "first", "second", "measure", "second_model_id"),
    "runs.stage": TEXT,
    **_each(TRUTH, "present", "flagged", "converged", "reached"),
    # Counts, indices, sizes.
    **_each(
        FROM_0,
        "position",
        "bytes",
        "points",
        "rank",
        "neuron_y",
        "neuron_x",
        "channel",
        "region",
        "cluster",
        "bin",
        "unit",
    ),
    **_each("[1, ∞)", "width_px", "height_px", "area_px"),
    **_each(
        FROM_0,
        "images",
        "new_images",
        "regions_positive",
        "regions_negative",
        "lesion_images",
        "seconds",
    ),
    **_each(
        FROM_0,
        "bbox_top_px",
        "bbox_left_px",
        "bbox_bottom_px",
        "bbox_right_px",
        "centroid_y_px",
        "centroid_x_px",
    ),
    **_each(
        FROM_0,
        "optic_disc_distance_px",
        "optic_disc_y_px",
        "optic_disc_x_px",
        "diameter_px",
        "region_extent_px",
    ),
    # The centre of a cut disc may lie outside the photograph.
    **_each(ANY, "centre_y_px", "centre_x_px"),
    "poses": "[2, 8]",
    "ring": "[0, 2]",
    **_each(
        STAGE,
        "stage",
        "true_stage",
        "predicted_stage",
        "expected_stage",
        "target_stage",
        "predicted_before",
    ),
    **_each(STAGE, "predicted_after", "second_stage_before", "second_stage_after"),
    "started": "UTC",
    "finished": "UTC",
    # Shares and probabilities.
    **_each(
        SHARE,
        *(f"probability_stage{stage}" for stage in range(5)),
        "probability_referable",
        "score",
        "exposure",
        "redness",
    ),
    **_each(
        SHARE,
        "haze",
        "saturated",
        "clarity",
        "visible",
        "confidence",
        "linearity.outcome",
        "disc_share",
    ),
    **_each(
        SHARE,
        "eccentricity",
        "solidity",
        "top1_share",
        "region_top1_share",
        "gini",
        "best_probability",
        "l0_share",
    ),
    **_each(
        SHARE,
        *(f"share_{name}" for name in QUADRANTS.split(" | ")),
        "share_ring0",
        "share_ring1",
        "share_ring2",
    ),
    **_each(
        SHARE,
        "share_optic_disc",
        "share_border",
        "high_frequency_energy",
        "radius_share",
        "quality.contrast",
    ),
    **_each(
        SHARE,
        *(f"probability_{when}_stage{stage}" for when in ("before", "after") for stage in range(5)),
    ),
    **_each(
        SHARE,
        "lesion_auc",
        "lesion_auc_low",
        "lesion_auc_high",
        "lesion_auc_held_out",
        "lesion_auc_others",
    ),
    **_each(SHARE, *(f"auc_{kind}" for kind in LESIONS.split(" | "))),
    **_each(
        SHARE,
        "second_probability_before",
        "second_probability_after",
        "share_lower",
        "share",
        "p_value",
    ),
    # Measures of at least 0.
    **_each(
        FROM_0,
        "feature_distance_before",
        "feature_distance_after",
        "feature_distance_typical",
        "pairs",
        "eyes",
    ),
    **_each(FROM_0, "transferred", "moved_share", "linear_up_to"),
    **_each(
        FROM_0,
        "sharpness",
        "weakest",
        "vessels",
        "structure",
        "relative_gap",
        "map_error",
        "entropy",
        "region_peak",
    ),
    **_each(
        FROM_0,
        "strength",
        "l1",
        "l2",
        "linf",
        "total_variation_before",
        "total_variation_after",
        "gradient_variation",
    ),
    **_each(FROM_0, "positive_sum", "positive_total", "mean_positive", "distance"),
    **_each(UP_TO_0, "negative_sum", "negative_total", "mean_negative"),
    # Signed measures.
    **_each(ANY, "attributions.outcome", "baseline_outcome"),  # of a logit, too
    **_each(
        ANY,
        "gap",
        "attribution",
        "activation",
        "baseline_activation",
        "region_total",
        "attribution_sum",
    ),
    **_each(
        ANY,
        "attribution_mean",
        "attribution_peak",
        "image_share",
        "activation_difference",
        "mean_gradient",
        "slope",
    ),
    **_each(ANY, "mean_attribution", "value", "low", "high", "chance", "shadow"),
    **_each(
        ANY,
        "median_first",
        "median_second",
        "median_difference",
        *(f"attribution_stage{stage}" for stage in range(5)),
    ),
    "r2": "(-∞, 1]",
    "angle_deg": "[0, 360]",
    "lesion_regions.contrast": "[-255, 255]",
    **_each(
        SIGNED,
        "symmetry_stage0_stage4",
        "ssim",
        "silhouette",
        "outcome_correlation",
        "mean_probability_gain",
    ),
    **_each(SIGNED, *(f"effect_stage{stage}" for stage in range(5))),
}
# Float32 may end a hair beyond a bound that holds for the number it was rounded from.
ROUNDING = 1e-5


def range_of(table: str, column: str) -> str:
    """The range of a column; empty text where nobody has written it down.

    >>> range_of("quality", "contrast"), range_of("lesion_regions", "contrast")
    ('[0, 1]', '[-255, 255]')
    """
    return RANGES.get(f"{table}.{column}", RANGES.get(column, ""))


def outside(range_: str, values: Iterable) -> list:
    """The values that a range does not allow; nulls and NaN are in every range.

    >>> (
    ...     outside("[0, 1]", [0.5, None, 1.5]),
    ...     outside("left | right", ["left", "up"]),
    ...     outside("text", ["anything"]),
    ... )
    ([1.5], ['up'], [])
    """
    known = [value for value in values if value is not None and value == value]
    if " | " in range_:
        words = range_.split(" | ")
        return [
            value
            for value in known
            if (str(value).lower() if isinstance(value, bool) else value) not in words
        ]
    interval = re.fullmatch(r"[\[(](.+), (.+)[\])]", range_)
    if interval is None:
        return []
    low, high = (_end(text) for text in interval.groups())
    return [value for value in known if not low - ROUNDING <= value <= high + ROUNDING]


def _end(text: str) -> float:
    return float(text.replace("∞", "inf")) if "∞" in text else float(text)
