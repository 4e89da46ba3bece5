"""Numbers, percentages, durations, sizes and names as people read them.

Every sentence, table and plot that shows a value asks this module, so that a value looks the same
at the terminal, on Prefect's page and in the report. It does not know where the text is shown.
"""

import math
import re
from numbers import Integral, Real

import numpy as np
import pandas as pd

from dr_lib.vocabulary import STAGE_NAMES

# Rows of tables bring NumPy's own scalars.
Number = float | int | np.floating | np.integer
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
    "symmetry_stage0_stage4": "Correlation of the maps of stages 0 and 4",
    "positive_total": "Sum of positive attributions",
    "negative_total": "Sum of negative attributions",
    "gini": "Gini coefficient",
    "extent_5": "Extent in px, 5th percentile",
    "extent_px": "Extent in px, median",
    "extent_95": "Extent in px, 95th percentile",
    "low": "95 % interval from",
    "high": "95 % interval to",
    "held": "Required",
    "called_from_probability": "Called referable from probability",
    "image_id": "Eye",
}


def number(value: object, digits: int = 3) -> str:
    """A value in a cell: three significant digits, thousands apart, true minus signs, a dash for
    what is missing.

    >>> (
    ...     number(0.71234),
    ...     number(1395),
    ...     number(999.7),
    ...     number(0.0000123),
    ...     number(-2.0),
    ...     number(float("nan")),
    ...     number(True),
    ... )
    ('0.712', '1,395', '1,000', '1.23e−5', '−2', '–', 'yes')
    """
    if value is None or value is pd.NaT or value is pd.NA:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return _minus(f"{int(value):,}")
    if not isinstance(value, Real):
        return str(value)
    x = float(value)
    if not math.isfinite(x):
        return "–" if math.isnan(x) else _minus(f"{x}".replace("inf", "∞"))
    if x != 0 and abs(x) < 1e-3:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return _minus(f"{mantissa}e{int(exponent)}")
    whole = abs(x) >= 10**digits - 0.5  # with so few digits it would be written as 1e+03
    return _minus(f"{x:,.0f}" if whole else f"{x:.{digits}g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def plain(value: object) -> str:
    """A value for a terminal or a pipe: ASCII, no trailing digits, nothing for what is missing.

    >>> plain(0.123456), plain(float("nan")), plain(None), plain(12000), plain(np.float32(56516.2))
    ('0.1235', '', '', '12,000', '56,516')
    """
    if value is None or value is pd.NaT or value is pd.NA:
        return ""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}"
    x = float(value)
    return "" if math.isnan(x) else f"{x:.4g}" if abs(x) < 1000 else f"{x:,.0f}"


def counted(count: int | np.integer, noun: str, plural: str = "") -> str:
    """A count with its noun in the singular or the plural.

    >>> counted(1, "eye"), counted(1200, "eye"), counted(0, "lady", "ladies")
    ('1 eye', '1,200 eyes', '0 ladies')
    """
    return f"{number(count)} {noun if count == 1 else plural or noun + 's'}"


def score(value: object) -> str:
    """A measure of quality with three decimals, so that a column of them lines up; others as
    `number`.

    >>> score(0.9), score(1.13), score(None)
    ('0.900', '1.130', '–')
    """
    x = finite(value)
    return number(value) if x is None or abs(x) >= 10 else _minus(f"{x:z.3f}")


def interval(low: object, high: object) -> str:
    """Both ends of an interval; a dash where one is unknown.

    >>> interval(-0.01, 0.761), interval(0.5, None)
    ('−0.010 to 0.761', '–')
    """
    return "–" if None in (finite(low), finite(high)) else f"{score(low)} to {score(high)}"


def with_interval(value: object, low: object, high: object) -> str:
    """A measure with its 95 % interval, as much of it as is known.

    >>> (
    ...     with_interval(0.683, -0.01, 0.761),
    ...     with_interval(0.5, None, None),
    ...     with_interval(None, None, None),
    ... )
    ('0.683 (−0.010 to 0.761)', '0.500', '–')
    """
    ends = interval(low, high)
    return score(value) + ("" if "–" in (score(value), ends) else f" ({ends})")


def signed(value: object, form: str = ".2f") -> str:
    """A correlation or a difference with its sign, by default with two decimals.

    >>> signed(-0.987), signed(0.5), signed(-0.00123), signed(-0.00123, ".3g"), signed(None)
    ('−0.99', '+0.50', '+0.00', '−0.00123', '–')
    """
    x = finite(value)
    return "–" if x is None else _minus(f"{x:+z{form}}")


def percent(value: object, digits: int = 0) -> str:
    """A part of 1 as a percentage, or a dash.

    >>> percent(0.034, 1), percent(-0.0004), percent(None)
    ('3.4 %', '0 %', '–')
    """
    x = finite(value)
    return "–" if x is None else _minus(f"{100 * x:z.{digits}f} %")


def unbroken(text: str) -> str:
    """A page or script in which a percent sign stays on its number's line; text to copy, in <pre>,
    is left as it is.

    >>> unbroken("<b>3.3 %</b> <pre>7 % 3</pre>").split(" ")
    ['<b>3.3\\xa0%</b>', '<pre>7', '%', '3</pre>']
    """
    kept_or_broken = r"(<pre.*?</pre>)|(?<=\d) %"
    return re.sub(kept_or_broken, lambda found: found[1] or "\N{NBSP}%", text, flags=re.DOTALL)


def duration(seconds: Number) -> str:
    """A length of time as people say it.

    >>> duration(8), duration(200), duration(7260)
    ('8 s', '3 min 20 s', '2 h 1 min')
    """
    seconds = round(float(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600:,} h {seconds % 3600 // 60} min"


def size_text(size: Number) -> str:
    """A number of bytes as people say it.

    >>> size_text(512), size_text(3_450_000), size_text(12_345_678_901)
    ('0.5 kB', '3.5 MB', '12.3 GB')
    """
    power = 1 if size < 1e6 else 2 if size < 1e9 else 3
    return f"{size / 1000**power:,.1f} {['kB', 'MB', 'GB'][power - 1]}"


def label(name: str) -> str:
    """A column or metric for people: known metrics by name, others with spaces and a capital.

    >>> label("qwk"), label("patient_id"), label("sensitivity_stage3"), label("median_area_px")
    ('Quadratic weighted kappa', 'Patient id', 'Sensitivity, stage 3', 'Median area, px')
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


def finite(value: object) -> float | None:
    """The number, or None for anything that is not one.

    >>> finite(1), finite(float("nan")), finite("x"), finite(None)
    (1.0, None, None, None)
    """
    return float(value) if isinstance(value, Real) and math.isfinite(float(value)) else None
