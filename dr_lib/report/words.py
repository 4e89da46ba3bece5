"""Numbers, names and file names as a reader should see them."""

import math
import re
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np
import pandas as pd

from dr_lib.vocabulary import STAGE_NAMES

METRICS = {
    "qwk": "Quadratic weighted kappa",
    "qwk_expected": "Kappa of the expected stage",
    "auc_referable": "AUC, referable",
    "auc_any": "AUC, any retinopathy",
    "sensitivity_referable": "Sensitivity, referable",
    "specificity_referable": "Specificity, referable",
    "ece": "Expected calibration error",
    "auc": "AUC",
    "l0_share": "Pixels changed, share",
    "l1": "L1",
    "l2": "L2",
    "ssim": "SSIM",
    "linf": "L∞",
    "r2": "R²",
    "high_frequency_energy": "High-frequency share",
    "total_variation_after": "Total variation",
    "feature_distance_after": "Distance to real eyes",
    "top1_share": "Share of the top 1 %",
    "symmetry_stage0_stage4": "Stage 0 against 4",
}


def number(value: object, digits: int = 3) -> str:
    """A value in a cell: three significant digits, thousands apart, true minus signs, a dash for
    what is missing.

    >>> (
    ...     number(0.71234),
    ...     number(1395),
    ...     number(0.0000123),
    ...     number(-2.0),
    ...     number(float("nan")),
    ...     number(True),
    ... )
    ('0.712', '1,395', '1.23e−5', '−2', '–', 'yes')
    """
    if value is None or value is pd.NaT or value is pd.NA:
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    if not isinstance(value, Real):
        return str(value)
    x = float(value)
    if not math.isfinite(x):
        return "–" if math.isnan(x) else ("∞" if x > 0 else "−∞")
    if x != 0 and abs(x) < 1e-3:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    if abs(x) >= 1000:
        return f"{x:,.0f}".replace("-", "−")
    return f"{x:.{digits}g}".replace("-", "−")


def score(value: object) -> str:
    """A measure of quality with three decimals, so that a column of them lines up; others as
    `number`.

    >>> score(0.9), score(1.13), score(None)
    ('0.900', '1.130', '–')
    """
    x = float(value) if isinstance(value, Real) else math.nan
    return f"{x:.3f}".replace("-", "−") if abs(x) < 10 else number(value)


def with_interval(value: object, low: object, high: object) -> str:
    """A measure with its 95 % interval, as much of it as is known.

    >>> (
    ...     with_interval(0.683, -0.01, 0.761),
    ...     with_interval(0.5, None, None),
    ...     with_interval(None, None, None),
    ... )
    ('0.683 (−0.010 to 0.761)', '0.500', '–')
    """
    between = f" ({score(low)} to {score(high)})" if None not in (finite(low), finite(high)) else ""
    return "–" if finite(value) is None else score(value) + between


def signed(value: float | np.floating | None) -> str:
    """A correlation with its sign and two decimals.

    >>> signed(-0.987), signed(0.5), signed(None)
    ('−0.99', '+0.50', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:+.2f}".replace("-", "−")


def percent(value: float | np.floating | None, digits: int = 0) -> str:
    """A part of 1 as a percentage, or a dash.

    >>> percent(0.034, 1), percent(None)
    ('3.4 %', '–')
    """
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{100 * value:.{digits}f} %".replace("-", "−")
    )


def label(name: str) -> str:
    """A column or metric for people: known metrics by name, others with spaces and a capital.

    >>> label("qwk"), label("image_id"), label("sensitivity_stage3"), label("median_area_px")
    ('Quadratic weighted kappa', 'Image id', 'Sensitivity, stage 3', 'Median area, px')
    """
    spaced = re.sub(r"_px$", ", px", re.sub(r"_stage(?=\d$)", ", stage ", str(name)))
    text = METRICS.get(str(name)) or spaced.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def stage_text(stage: int | np.integer | None) -> str:
    """A stage with its name.

    >>> stage_text(2), stage_text(None)
    ('2 moderate', 'unknown')
    """
    return "unknown" if stage is None else f"{stage} {STAGE_NAMES[stage]}"


def quantity(name: str) -> str:
    """`stage2` as "stage 2 (moderate)"; anything else as it is.

    >>> quantity("stage2"), quantity("referable")
    ('stage 2 (moderate)', 'referable')
    """
    match = re.fullmatch(r"stage([0-4])", name)
    return f"stage {match[1]} ({STAGE_NAMES[int(match[1])]})" if match else name


def slugs(names: Iterable[str]) -> list[str]:
    """A file name for each: letters, digits, `_`, `-` and inner dots only, and no two alike, even
    where case does not count.

    >>> slugs(["10_left", "a/b", "a b", "../x", "A-B"])
    ['10_left', 'a-b', 'a-b-2', 'x', 'A-B-3']
    """
    made: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(name)).strip(".-") or "eye"
        candidate, turn = base, 1
        while candidate.lower() in made:
            turn += 1
            candidate = f"{base}-{turn}"
        made[candidate.lower()] = candidate
    return list(made.values())


def finite(value: object) -> float | None:
    """The number, or None for anything that is not one.

    >>> finite(1), finite(float("nan")), finite("x"), finite(None)
    (1.0, None, None, None)
    """
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) else None
