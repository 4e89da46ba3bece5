"""Counterfactuals: what had to change for another grade, beside adversarial examples of the same
outcome."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dr_lib.drawing import study_plots
from dr_lib.drawing.figures import Panel, signed_difference
from dr_lib.drawing.panels import probability_bars
from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.report import Folder
from dr_lib.report.section import Content, Heading, Plots, Strip, Text, nothing, table
from dr_lib.report.words import label, number, slugs
from storage.arrays.store import ShardedStore
from storage.layout import counterfactuals_path
from tasks.access.stores import fundus_store
from tasks.report.data import Shown

TRIPTYCHS_SHOWN = 6
SHOWN_METHODS = ("proportional", "constant")
MEASURES = [
    *(
        "strength",
        "l0_share",
        "l2",
        "linf",
        "ssim",
        "total_variation_before",
        "total_variation_after",
    ),
    *(
        "high_frequency_energy",
        "feature_distance_before",
        "feature_distance_after",
        "feature_distance_typical",
    ),
]
# What lies left of the line of zero in the paired comparison, whose measures come in this order.
LEFT = {
    "high_frequency_energy": "smoother change",
    "total_variation_after": "smoother image",
    "feature_distance_after": "closer to real eyes",
    "ssim": "less similar",
    **dict.fromkeys(("l2", "linf", "l1"), "smaller change"),
    "l0_share": "fewer pixels",
}
UNSHOWN = ["true_stage", "predicted_stage", "target_stage", "explain_id"]


class Triptych(NamedTuple):
    """One counterfactual that reached its target: the fundus, what it became, and each stage's
    probability before and after."""

    image_id: str
    words: str
    original: np.ndarray  # (y, x, 3) uint8
    changed: np.ndarray  # (y, x, 3) uint8
    before: np.ndarray  # (stage,)
    after: np.ndarray  # (stage,)


def content(shown: Shown, folder: Folder) -> Content:
    """The pair of stages that the configuration names: triptychs, summaries by method, comparison,
    transfer."""
    settings, workspace, explain_id = (
        shown.config["counterfactuals"],
        shown.workspace,
        shown.explain_id,
    )
    stages = {
        name: int(settings[name]) for name in ("true_stage", "predicted_stage", "target_stage")
    }
    target = stages["target_stage"]
    pair = CounterfactualParams(
        stages["true_stage"], stages["predicted_stage"], stages["target_stage"]
    ).pair
    path = counterfactuals_path(explain_id, pair)
    confused = f"of stage {stages['true_stage']} predicted as {stages['predicted_stage']}"
    if not ShardedStore.exists(workspace.files, path):
        if pair in workspace.parts("comparisons", explain_id):
            return nothing(f"No eye {confused}, so there is nothing to change.")
        return nothing(
            "No counterfactuals are made yet.", "They are made by", "dr counterfactuals CONFIG.toml"
        )
    store = ShardedStore.open(workspace.files, path)
    made, adversarial = (
        frame[frame["image_id"].isin(store.image_ids)]
        for frame in (
            workspace.frame(name, explain_id=explain_id, target_stage=target)
            for name in ("counterfactuals", "adversarials")
        )
    )
    return Content(
        finding(made, adversarial, confused, target),
        [
            Text(
                "The smallest push along the attribution that makes the model change its grade to"
                f" {target}, beside what it changed."
            ),
            *(strip(folder, name, one) for name, one in _named(_triptychs(shown, store, made))),
            table(
                by_method(made),
                "By method: how many eyes, and medians over those that reached the target",
            ),
            *beside(
                folder,
                by_method(adversarial),
                workspace.frame("comparisons", explain_id=explain_id, **stages),
            ),
            *transferred(workspace.frame("transfers", explain_id=explain_id, **stages)),
        ],
    )


def finding(made: pd.DataFrame, adversarial: pd.DataFrame, confused: str, target: int) -> str:
    """How many eyes reached the target, and by what; what was not reached is counted here and
    pictured nowhere."""
    eyes = made["image_id"].nunique()
    reached = made.loc[made["reached"], "image_id"].nunique()
    attacked = adversarial.loc[adversarial["reached"], "image_id"].nunique()
    return (
        f"Of {number(eyes)} {'eye' if eyes == 1 else 'eyes'} {confused}, {number(reached)} reached"
        f" stage {target} along their attribution and {number(attacked)} by an adversarial example."
    )


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts and medians a method; distances are those of eyes that reached the target."""
    counts = rows.groupby("method", sort=False).agg(
        eyes=("reached", "size"), reached=("reached", "sum")
    )
    medians = rows[rows["reached"]].groupby("method", sort=False)[MEASURES].median()
    return counts.join(medians).reset_index()


def _triptychs(shown: Shown, store: ShardedStore, made: pd.DataFrame) -> list[Triptych]:
    """Some of the eyes that reached the target, both forms taking turns."""
    reached = made[made["reached"]]
    methods = [method for method in SHOWN_METHODS if method in set(made["method"])] or sorted(
        set(made["method"])
    )[:1]
    some = reached[reached["method"].isin(methods)]
    turn, form = some.groupby("method").cumcount(), some["method"].map(methods.index)
    some = some.assign(turn=turn, form=form).sort_values(["turn", "form"])[:TRIPTYCHS_SHOWN]
    positions = shown.workspace.photos().set_index("image_id")["position"]
    fundi, triptychs = fundus_store(shown.workspace, shown.recipe.preprocess_id), []
    for method, image_id in zip(some["method"], some["image_id"], strict=True):
        paths = [f"{method}/{name}" for name in ("image", "probability", "strength")] + [
            "original/probability"
        ]
        arrays = store.read_rows([store.image_ids.index(image_id)], paths)
        image, after, strength, before = (arrays[path][0] for path in paths)
        fundus = fundi.read_rows([int(positions[image_id])], ["pixels"])["pixels"][0]
        changed = np.clip(np.rint(image * 128 + 128), 0, 255).astype(np.uint8)
        triptychs.append(
            Triptych(image_id, f"{method}, strength {strength:.3g}", fundus, changed, before, after)
        )
    return triptychs


def _named(triptychs: Sequence[Triptych]) -> list[tuple[str, Triptych]]:
    names = slugs(f"{one.image_id}-{one.words.split(',')[0]}" for one in triptychs)
    return list(zip(names, triptychs, strict=True))


def strip(folder: Folder, name: str, one: Triptych) -> Strip:
    """A triptych with its probabilities, panel by panel and as one file."""
    difference, levels = signed_difference(one.original, one.changed)
    panels = {
        "fundus": Panel(one.original, "Original"),
        "changed": Panel(one.changed, "Counterfactual"),
        "difference": Panel(difference, "Difference", f"full colour at {levels:.3g} gray levels"),
        "probabilities": Panel(
            probability_bars(one.before, one.after, len(one.original)),
            "Probabilities",
            "light before, dark after",
        ),
    }
    title = f"{one.image_id}  ·  {one.words}"
    pictures, files = folder.strip(
        f"counterfactuals/{name}", panels, title, one.image_id, signed=("difference",)
    )
    return Strip(pictures, one.image_id, one.words, files)


def beside(folder: Folder, adversarial: pd.DataFrame, comparisons: pd.DataFrame) -> list:
    """Adversarial examples by method, and the eyes that both kinds brought to the target compared,
    in numbers and drawn."""
    if adversarial.empty:
        return []
    caption = (
        "Adversarial examples of the same outcome, by method: medians over the eyes that reached"
        " the target"
    )
    blocks = [Heading("Beside adversarial examples"), table(adversarial, caption)]
    drawn, methods = study_plots.comparable(comparisons), ["first", "second"]
    if len(drawn):
        first, second = drawn["first"].iloc[0], drawn["second"].iloc[0]
        medians = drawn[(drawn["first"] == first) & (drawn["second"] == second)]
        words = [
            f"{label(row.measure)} {row.median_difference:+.3g}".replace("-", "−")
            for row in medians.itertuples()
        ]
        alt = f"Median paired differences, {first} minus {second}: {'; '.join(words)}"
        note = (
            "Medians of counterfactual minus adversarial example over the eyes that both reached,"
            " with 95 % intervals over patients."
        )
        plot = study_plots.paired_differences(drawn, {name: label(name) for name in LEFT}, LEFT)
        caption = "Counterfactuals minus adversarial examples, eye by eye"
        blocks.append(
            Plots([folder.plot("comparison", plot, alt, caption=caption, note=note)], wide=True)
        )
    if few := len(comparisons.drop_duplicates(methods)) - len(drawn.drop_duplicates(methods)):
        pairs = "pair of methods has" if few == 1 else "pairs of methods have"
        least = study_plots.LEAST_PAIRS
        blocks.append(
            Text(
                f"{few} {pairs} fewer than {least} eyes that both brought to the target, too few to"
                " compare."
            )
        )
    rows = drawn.assign(measure=drawn["measure"].map(label)).drop(columns=UNSHOWN, errors="ignore")
    return [
        *blocks,
        table(rows, "Paired: the eyes that both methods brought to the target", limit=400),
    ]


def transferred(transfers: pd.DataFrame) -> list:
    """Whether a second model changes its mind too."""
    if transfers.empty:
        return []
    rows = table(
        transfers.drop(columns=UNSHOWN, errors="ignore"),
        "Changed images given to a second model, by method",
    )
    return [Heading("Does a second model change its mind too?"), rows]
