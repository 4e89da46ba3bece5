"""What the report shows of the linearity study: verdicts, ranges, Hinton diagrams, and the
special units one by one.
"""

import numpy as np
import pandas as pd

from dr_lib.drawing.plots import STAGE_NAMES
from dr_lib.linearity.verdicts import flip_strengths
from dr_lib.report import HintonEntry, LinearitySection, UnitEntry, UnitEye
from storage import Workspace
from storage.contents.unit_maps import open_unit_maps
from tasks.access.stores import fundus_store
from tasks.run.recipe import Recipe

HINTON_LAYERS, HINTON_STRENGTHS, HINTON_UNITS = 2, 6, 256
STAGES = range(len(STAGE_NAMES))


def linearity_section(
    workspace: Workspace, recipe: Recipe, explain_id: str, target_stage: int
) -> LinearitySection:
    """The study of one explanation."""
    units = workspace.frame("units", explain_id=explain_id, study="linearity")
    if units.empty:
        done = "linearity" in workspace.parts("units", explain_id)
        return LinearitySection(note="No explained eye could be studied." if done else "")
    # What the study of lesions adds to the table is empty in these rows.
    units = units.drop(
        columns=["study", *(name for name in units if "lesion" in name or name.startswith("auc_"))]
    )
    alive = units[units["verdict"] != "dead"]
    rows = workspace.frame("linearity", explain_id=explain_id)
    flips = flip_strengths(rows, target_stage)
    layers = sorted(units["layer"].unique(), key=lambda layer: (units["layer"] == layer).sum())
    counts = pd.crosstab(units["layer"], units["verdict"]).reset_index()
    return LinearitySection(
        verdicts=units["verdict"].value_counts().to_dict(),
        by_layer=counts.assign(
            linear_up_to_the_flip=[_linear_at(alive, layer, flips) for layer in counts["layer"]]
        ),
        units=alive,
        x="gradient_variation",
        y="r2",
        x_label="Variation of the average gradient",
        y_label="R² of the straight line",
        hintons=tuple(
            hintons(rows, flips, [layer for layer in layers if layer.startswith("fc")] or layers)
        ),
        exceptions=alive[alive["verdict"].isin(["constant", "reversed"])].drop(
            columns="explain_id"
        ),
        pages=tuple(_pages(workspace, recipe, explain_id, alive, target_stage)),
        up_to={
            layer: alive.loc[alive["layer"] == layer, "linear_up_to"].to_numpy(float)
            for layer in layers
        },
        strengths=[float(strength) for strength in np.unique(rows["strength"]) if strength > 0],
        flips=flips.to_numpy(float),
        note=_flip_note(flips, target_stage),
    )


def _linear_at(alive: pd.DataFrame, layer: str, flips: pd.Series) -> int:
    """Units of a layer that are linear as far as the strength at which the median eye changes
    its stage.
    """
    reached = flips[np.isfinite(flips)]
    return (
        int((alive.loc[alive["layer"] == layer, "linear_up_to"] >= reached.median()).sum())
        if len(reached)
        else 0
    )


def _flip_note(flips: pd.Series, target_stage: int) -> str:
    reached = flips[np.isfinite(flips)]
    eyes = f"{len(flips):,} {'eye' if len(flips) == 1 else 'eyes'}"
    if reached.empty:
        return f"None of {eyes} changes to stage {target_stage} at any strength."
    return (
        f"Of {eyes}, {len(reached):,} change to stage {target_stage}, the median one at strength"
        f" {reached.median():.3g} ({128 * reached.median():.2g} grey levels); the verdicts are over"
        " all strengths, far above that too."
    )


def hintons(rows: pd.DataFrame, flips: pd.Series, layers: list[str]) -> list[HintonEntry]:
    """One eye's units at growing strength, from far below to far above what changes its stage;
    the eye nearest the median.
    """
    middle = np.median(flips[np.isfinite(flips)]) if np.isfinite(flips).any() else np.inf
    image_id = (flips - middle).abs().fillna(0).idxmin()
    own = rows[rows["image_id"] == image_id]
    strengths = np.unique(own["strength"])
    chosen = strengths[
        np.unique(
            np.linspace(0, len(strengths) - 1, min(HINTON_STRENGTHS, len(strengths)))
            .round()
            .astype(int)
        )
    ]
    found = []
    for layer in layers[:HINTON_LAYERS]:
        for strength in chosen:
            part = own[(own["layer"] == layer) & (own["strength"] == strength)].sort_values("unit")
            stage, outcome = int(part["predicted_stage"].iloc[0]), float(part["outcome"].iloc[0])
            found.append(
                HintonEntry(
                    f"{layer}, {image_id}, strength {strength:.3g}",
                    part["attribution"].to_numpy()[:HINTON_UNITS],
                    note=f"graded {stage}, outcome {outcome:.2f}",
                    layer=layer,
                )
            )
    return found


def _pages(
    workspace: Workspace, recipe: Recipe, explain_id: str, units: pd.DataFrame, target_stage: int
) -> list[UnitEntry]:
    effects = workspace.frame("unit_effects", explain_id=explain_id)
    maps = open_unit_maps(workspace.files, explain_id)
    regions, stored = {}, np.empty(0)
    if maps is not None:
        stored = maps["region"].to_numpy()
        keys = zip(
            maps["layer"].values.tolist(),
            maps["unit"].values.tolist(),
            maps["image_id"].values.tolist(),
            strict=True,
        )
        regions = {key: index for index, key in enumerate(keys)}
    positions = workspace.photos().set_index("image_id")["position"]
    pages = []
    for (layer, unit), rows in effects.groupby(["layer", "unit"], sort=True):
        rows = rows.sort_values("rank")
        numbers = units[(units["layer"] == layer) & (units["unit"] == unit)].iloc[0]
        eyes = []
        for row in rows.itertuples():
            if (index := regions.get((layer, unit, row.image_id))) is None:
                continue
            place = [int(positions[row.image_id])]
            fundus = fundus_store(workspace, recipe.preprocess_id).read_rows(place, ["pixels"])[
                "pixels"
            ][0]
            attribution = getattr(row, f"attribution_stage{target_stage}")
            note = f"graded {row.predicted_before}, attribution {attribution:+.2g}"
            eyes.append(UnitEye(row.image_id, fundus, stored[index], note))
        pages.append(
            UnitEntry(
                layer,
                unit,
                numbers["verdict"],
                lede=_lede(rows),
                facts=_facts(numbers, rows),
                stages=_by_stage(rows),
                eyes=tuple(eyes),
                rows=rows.drop(columns=["layer", "unit", "verdict", "rank", "explain_id"]),
            )
        )
    return pages


def _by_stage(rows: pd.DataFrame) -> list[dict]:
    return [
        {
            "stage": f"{stage} {STAGE_NAMES[stage]}",
            "argues for it by": float(rows[f"attribution_stage{stage}"].mean()),
            "in eyes, share": float((rows[f"attribution_stage{stage}"] > 0).mean()),
            "change without it": float(rows[f"effect_stage{stage}"].mean()),
        }
        for stage in STAGES
    ]


def _lede(rows: pd.DataFrame) -> str:
    means = [float(rows[f"attribution_stage{stage}"].mean()) for stage in STAGES]
    best, worst = int(np.argmax(means)), int(np.argmin(means))
    if means[best] <= 0:
        return "it argues for no stage"
    words = f"it argues for stage {best} ({STAGE_NAMES[best]})"
    return words + (
        f" and against stage {worst} ({STAGE_NAMES[worst]})" if means[worst] < 0 else ""
    )


def _facts(numbers: pd.Series, rows: pd.DataFrame) -> dict[str, object]:
    changed = int((rows["predicted_before"] != rows["predicted_after"]).sum())
    return {
        "Eyes": len(rows),
        "Eyes graded otherwise without it": changed,
        "Activation moves by, share": float(numbers["moved_share"]),
        "Correlation with the outcome": float(numbers["outcome_correlation"]),
        "Variation of the average gradient": float(numbers["gradient_variation"]),
        "R²": float(numbers["r2"]),
        "Mean attribution": float(numbers["mean_attribution"]),
    }
