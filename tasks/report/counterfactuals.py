"""What the report shows of counterfactuals, read from their store and tables."""

from typing import Any

import numpy as np
import pandas as pd

from dr_lib.perturbation.counterfactual import CounterfactualParams
from dr_lib.report import CounterfactualSection, Triptych
from storage import Workspace
from storage.arrays.store import ShardedStore
from storage.contents.counterfactuals import counterfactuals_path
from tasks.access.stores import fundus_store
from tasks.run.recipe import Recipe

TRIPTYCHS_SHOWN = 6
SHOWN_METHODS = ("proportional", "constant")
MEASURES = (
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
)


def counterfactual_section(
    workspace: Workspace, recipe: Recipe, explain_id: str, settings: dict[str, Any]
) -> CounterfactualSection:
    """The pair of stages that the configuration's section `settings` names: triptychs, summaries
    by method, comparison, transfer.
    """
    stages = {
        name: int(settings[name]) for name in ("true_stage", "predicted_stage", "target_stage")
    }
    pair = CounterfactualParams(
        stages["true_stage"], stages["predicted_stage"], stages["target_stage"]
    ).pair
    path = counterfactuals_path(explain_id, pair)
    confusion = f"of stage {stages['true_stage']} predicted as {stages['predicted_stage']}"
    if not ShardedStore.exists(workspace.files, path):
        if pair in workspace.parts("comparisons", explain_id):
            return CounterfactualSection(note=f"No eye {confusion}, so there is nothing to change.")
        return CounterfactualSection()
    store = ShardedStore.open(workspace.files, path)
    tables = {}
    for table in ("counterfactuals", "adversarials"):
        frame = workspace.frame(table, explain_id=explain_id, target_stage=stages["target_stage"])
        tables[table] = frame[frame["image_id"].isin(store.image_ids)]
    made = tables["counterfactuals"]
    count = made["image_id"].nunique()
    return CounterfactualSection(
        summary=by_method(made),
        triptychs=tuple(_triptychs(workspace, recipe, store, made)),
        adversarial=by_method(tables["adversarials"]),
        comparisons=workspace.frame("comparisons", explain_id=explain_id, **stages),
        transfers=workspace.frame("transfers", explain_id=explain_id, **stages),
        note=(
            f"{count:,} {'eye' if count == 1 else 'eyes'} {confusion}, toward stage"
            f" {stages['target_stage']}."
        ),
    )


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts and medians a method; distances are those of eyes that reached the target."""
    counts = rows.groupby("method", sort=False).agg(
        eyes=("reached", "size"), reached=("reached", "sum")
    )
    medians = rows[rows["reached"]].groupby("method", sort=False)[list(MEASURES)].median()
    return counts.join(medians).reset_index()


def _triptychs(
    workspace: Workspace, recipe: Recipe, store: ShardedStore, made: pd.DataFrame
) -> list[Triptych]:
    """Eyes that reached the target, both forms in turn; where there are not enough, best
    attempts.
    """
    positions = workspace.photos().set_index("image_id")["position"]
    rows = {image_id: row for row, image_id in enumerate(store.image_ids)}
    methods = [method for method in SHOWN_METHODS if method in set(made["method"])] or sorted(
        set(made["method"])
    )[:1]
    chosen: list[tuple[str, str]] = []
    for reached in (True, False):
        some = made[made["reached"] == reached]
        found = {
            method: some.loc[some["method"] == method, "image_id"].tolist() for method in methods
        }
        for turn in range(max(map(len, found.values()), default=0)):
            chosen += [
                (method, found[method][turn]) for method in methods if turn < len(found[method])
            ]
    triptychs = []
    for method, image_id in chosen[:TRIPTYCHS_SHOWN]:
        paths = [f"{method}/{name}" for name in ("image", "probability", "strength", "reached")] + [
            "original/probability"
        ]
        one = {path: values[0] for path, values in store.read_rows([rows[image_id]], paths).items()}
        fundus = fundus_store(workspace, recipe.preprocess_id).read_rows(
            [int(positions[image_id])], ["pixels"]
        )["pixels"][0]
        pixels = np.clip(np.rint(one[f"{method}/image"] * 128 + 128), 0, 255).astype(np.uint8)
        triptychs.append(
            Triptych(
                image_id,
                fundus,
                pixels,
                before=one["original/probability"],
                after=one[f"{method}/probability"],
                caption=f"{method}, strength {one[f'{method}/strength']:.3g}",
                reached=bool(one[f"{method}/reached"]),
            )
        )
    return triptychs
