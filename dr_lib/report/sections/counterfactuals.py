"""Counterfactuals in the report: what had to change for another grade, beside adversarial
examples of the same outcome.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from dr_lib.drawing import study_plots
from dr_lib.drawing.triptych import probability_bars, signed_difference
from dr_lib.report.data import CounterfactualSection, Triptych
from dr_lib.report.pictures import Folder, Picture, table
from dr_lib.report.section import Section
from dr_lib.report.words import label, records, slugs

# What the paired comparison shows, in this order; and what lies left of its line of zero.
COMPARED = {
    "high_frequency_energy": "High-frequency share",
    "total_variation_after": "Total variation",
    "feature_distance_after": "Distance to real eyes",
    "ssim": "SSIM",
    "l2": "L2",
    "linf": "L\u221e",
    "l1": "L1",
    "l0_share": "Pixels changed, share",
}
LEFT = {
    "high_frequency_energy": "smoother change",
    "total_variation_after": "smoother image",
    "feature_distance_after": "closer to real eyes",
    "ssim": "less similar",
    **dict.fromkeys(("l2", "linf", "l1"), "smaller change"),
    "l0_share": "fewer pixels",
}
UNSHOWN = ("true_stage", "predicted_stage", "target_stage", "explain_id")


def view(folder: Folder, part: CounterfactualSection) -> SimpleNamespace:
    names = slugs(f"{one.image_id}-{one.caption.split(',')[0]}" for one in part.triptychs)
    return SimpleNamespace(
        triptychs=[
            _triptych(folder, name, one) for name, one in zip(names, part.triptychs, strict=True)
        ],
        summary=table(records(part.summary)),
        adversarial=table(records(part.adversarial)),
        compared=_comparison(folder, pd.DataFrame(records(part.comparisons))),
        comparisons=table([_shown(row) for row in records(part.comparisons) if row["pairs"]], 400),
        transfers=table([_shown(row) for row in records(part.transfers)]),
        note=part.note,
    )


def _shown(row) -> dict:
    return {name: value for name, value in row.items() if name not in UNSHOWN}


def _triptych(folder: Folder, name: str, one: Triptych) -> SimpleNamespace:
    difference, levels = signed_difference(one.original, one.counterfactual)
    of, place = f"of eye {one.image_id}", f"counterfactuals/{name}"
    drawn = [
        ("fundus", "Original", "", one.original, f"Fundus {of}"),
        ("changed", "Counterfactual", "", one.counterfactual, f"Counterfactual fundus {of}"),
        (
            "difference",
            "Difference",
            f"full colour at {levels:.3g} grey levels",
            difference,
            f"What changed {of}, magnified",
        ),
    ]
    if len(one.before):
        bars = probability_bars(
            np.asarray(one.before, float), np.asarray(one.after, float), one.original.shape[0]
        )
        drawn.append(
            (
                "probabilities",
                "Probabilities",
                "light before, dark after",
                bars,
                f"Probabilities {of} before and after",
            )
        )
    panels = [
        folder.picture(
            f"{place}-{file}", pixels, alt, caption=caption, note=note, signed=file == "difference"
        )
        for file, caption, note, pixels, alt in drawn
    ]
    title = f"{one.image_id}  ·  {one.caption}" if one.caption else one.image_id
    whole = folder.sheet(
        place,
        [pixels for *_, pixels, _ in drawn],
        [caption for _, caption, *_ in drawn],
        title=title,
    )
    failed = one.reached is not None and not one.reached
    return SimpleNamespace(
        image_id=one.image_id, caption=one.caption, failed=failed, panels=panels, whole=whole
    )


def _comparison(folder: Folder, rows: pd.DataFrame) -> Picture | None:
    if rows.empty or not (rows["pairs"] > 0).any():
        return None
    plot = study_plots.paired_differences(rows, COMPARED, LEFT)
    first, second = rows["first"].iloc[0], rows["second"].iloc[0]
    words = [
        f"{label(measure)} {value:+.3g}".replace("-", "−")
        for measure, value in _medians(rows, first, second).items()
    ]
    alt = f"Median paired differences, {first} minus {second}: {'; '.join(words)}"
    note = (
        "Medians of counterfactual minus adversarial example over the eyes that both reached, with"
        " 95 % intervals over patients."
    )
    return folder.plot(
        "comparison",
        plot,
        alt,
        caption="Counterfactuals minus adversarial examples, eye by eye",
        note=note,
    )


def _medians(rows: pd.DataFrame, first: str, second: str) -> pd.Series:
    chosen = rows[(rows["first"] == first) & (rows["second"] == second)]
    return chosen.set_index("measure")["median_difference"].dropna()


SECTION = Section("counterfactuals", "Counterfactuals", CounterfactualSection, view)
