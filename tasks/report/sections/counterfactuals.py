"""Counterfactuals: what had to change for another grade, beside adversarial examples of the same
outcome."""

from typing import Any

import numpy as np
import pandas as pd

from dr_lib.drawing import study_plots
from dr_lib.drawing.figures import Panel, signed_difference
from dr_lib.drawing.panels import probability_bars
from dr_lib.formatting import label, number, signed
from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.report.pictures import Folder, Picture, Strip
from dr_lib.report.section import Content
from storage.arrays.store import ShardedStore
from storage.layout import counterfactuals_path
from tasks.report.data import ReportData

STRIPS_SHOWN = 6
METHODS_SHOWN = ("proportional", "constant")
# What lies left of the line of zero in the paired comparison, whose measures come in this order.
LEFT = {
    "high_frequency_energy": "smoother change",
    "total_variation_after": "smoother image",
    "feature_distance_after": "closer to real eyes",
    "ssim": "less similar",
    "l2": "smaller change",
    "linf": "smaller change",
    "l1": "smaller change",
    "l0_share": "fewer pixels",
}


def content(data: ReportData, folder: Folder) -> Content:
    """The pair of stages that the configuration names: triptychs, summaries by method, comparison,
    transfer."""
    settings = data.config["counterfactuals"]
    workspace, explain_id = data.workspace, data.ids.explain_id
    names = ("true_stage", "predicted_stage", "target_stage")
    stages = {name: int(settings[name]) for name in names}
    true, predicted, target = stages.values()
    pair = CounterfactualParams(true, predicted, target).pair
    path = counterfactuals_path(explain_id, pair)
    if not ShardedStore.exists(workspace.files, path):
        none_confused = pair in workspace.parts("comparisons", explain_id)
        return Content({"stages": stages, "made": False, "none_confused": none_confused})
    store = ShardedStore.open(workspace.files, path)
    counterfactuals, adversarial = (
        rows[rows["image_id"].isin(store.image_ids)]
        for rows in (
            data.rows(name, target_stage=target) for name in ("counterfactuals", "adversarials")
        )
    )
    comparisons, transfers = (
        data.rows(name, **stages).drop(columns=[*stages]) for name in ("comparisons", "transfers")
    )
    return Content(
        {
            "stages": stages,
            "made": True,
            "strips": strips(data, folder, store, counterfactuals),
            "transfers": transfers,
            **compared(folder, counterfactuals, adversarial, comparisons),
        }
    )


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts and medians a method; distances are those of eyes that reached the target."""
    counts = rows.groupby("method", sort=False)["reached"].agg(eyes="size", reached="sum")
    measures = ["strength", *rows.loc[:, "l0_share":"feature_distance_typical"]]
    medians = rows[rows["reached"]].groupby("method", sort=False)[measures].median()
    return counts.join(medians).reset_index()


def strips(
    data: ReportData, folder: Folder, store: ShardedStore, counterfactuals: pd.DataFrame
) -> list[Strip]:
    """Some of the eyes that reached the target, both forms taking turns: the fundus, what it
    became, the difference, and each stage's probability before and after."""
    known = sorted(set(counterfactuals["method"]))
    methods = [method for method in METHODS_SHOWN if method in known] or known[:1]
    some = counterfactuals[counterfactuals["reached"] & counterfactuals["method"].isin(methods)]
    turn, form = some.groupby("method").cumcount(), some["method"].map(methods.index)
    some = some.assign(turn=turn, form=form).sort_values(["turn", "form"])[:STRIPS_SHOWN]
    fundi = data.fundi(some["image_id"]) if len(some) else {}
    drawn = []
    for method, image_id in zip(some["method"], some["image_id"], strict=True):
        paths = [f"{method}/image", f"{method}/strength"]
        paths += ["original/probability", f"{method}/probability"]
        arrays = store.read_rows([store.image_ids.index(image_id)], paths)
        image, strength, before, after = (arrays[path][0] for path in paths)
        changed = np.clip(np.rint(image * 128 + 128), 0, 255).astype(np.uint8)
        original = fundi[image_id]
        difference, levels = signed_difference(original, changed)
        scale = f"full colour at {number(levels)} gray levels"
        bars = probability_bars(before, after, len(original))
        panels = [
            Panel(original, "Original"),
            Panel(changed, "Counterfactual"),
            Panel(difference, "Difference", scale, signed=True),
            Panel(bars, "Probabilities", "light before, dark after"),
        ]
        name = folder.name("counterfactuals", f"{image_id}-{method}")
        words = f"{method}, strength {number(strength)}"
        drawn.append(folder.strip(name, panels, image_id, words))
    return drawn


def compared(
    folder: Folder,
    counterfactuals: pd.DataFrame,
    adversarial: pd.DataFrame,
    comparisons: pd.DataFrame,
) -> dict[str, Any]:
    """How many eyes reached the target, and by what (what was not reached is counted here and
    pictured nowhere); the methods of both kinds; the eyes that both kinds brought to the target
    compared, in numbers and drawn."""
    drawn, pair = study_plots.comparable(comparisons), ["first", "second"]
    reached, attacked = (
        rows.loc[rows["reached"], "image_id"].nunique() for rows in (counterfactuals, adversarial)
    )
    return {
        "eyes": counterfactuals["image_id"].nunique(),
        "reached": reached,
        "attacked": attacked,
        "by_method": by_method(counterfactuals),
        "adversarial": by_method(adversarial),
        "differences": [_differences(folder, drawn)] if len(drawn) and len(adversarial) else [],
        "paired": drawn.assign(measure=drawn["measure"].map(label)),
        "few": len(comparisons.drop_duplicates(pair)) - len(drawn.drop_duplicates(pair)),
        "least_pairs": study_plots.LEAST_PAIRS,
    }


def _differences(folder: Folder, rows: pd.DataFrame) -> Picture:
    """The comparison as a plot, with the medians of its first pair of methods in words."""
    first, second = rows[["first", "second"]].iloc[0]
    medians = rows[(rows["first"] == first) & (rows["second"] == second)]
    words = "; ".join(
        f"{label(row.measure)} {signed(row.median_difference, '.3g')}"
        for row in medians.itertuples()
    )
    return folder.plot(
        "comparison",
        study_plots.paired_differences(rows, LEFT),
        f"Median paired differences, {first} minus {second}: {words}",
        caption="Counterfactuals minus adversarial examples, eye by eye",
        note=(
            "Medians of counterfactual minus adversarial example over the eyes that both brought to"
            " the target, with 95 % intervals over patients."
        ),
    )
