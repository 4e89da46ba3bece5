"""Units along growing adversarial strength: verdicts, ranges, Hinton diagrams, and a page for each
special unit."""

from typing import Any

import numpy as np
import pandas as pd

from dr_lib.drawing import study_plots
from dr_lib.drawing.figures import overlay
from dr_lib.drawing.panels import hinton
from dr_lib.formatting import label, number, percent, signed, stage_text
from dr_lib.linearity.verdicts import flip_strengths
from dr_lib.report.pictures import Folder, Picture
from dr_lib.report.section import Content, Subpage
from dr_lib.vocabulary import STAGES
from storage.contents.snapshots import open_set
from tasks.report.data import ReportData

HINTON_LAYERS, HINTON_STRENGTHS, HINTON_UNITS = 2, 6, 256


def content(data: ReportData, folder: Folder) -> Content:
    """The study of one explanation."""
    target = data.config["linearity"]["target_stage"]
    units = data.rows("units", study="linearity")
    if units.empty:
        studied = "linearity" in data.workspace.parts("units", data.ids.explain_id)
        return Content({"units": units, "studied": studied})
    # What the other studies fill.
    units = units.filter(regex="^(?!study$|auc_|place_|share_|neighbour|.*lesion|.*_by_)")
    alive, rows = units[units["verdict"] != "dead"], data.rows("linearity")
    flips = flip_strengths(rows, target)
    layers = units["layer"].sort_values().value_counts(ascending=True).index
    dense = [layer for layer in layers if layer.startswith("fc")] or layers
    below = _pages(data, folder, alive, target)
    return Content(
        {
            "target": target,
            "units": units,
            "flips": flips,
            "reached": flips[np.isfinite(flips)],
            "by_layer": by_layer(units, flips),
            "plots": [
                linear_range(folder, alive, rows["strength"].unique(), flips),
                scatter(folder, alive),
            ],
            "hintons": [
                picture
                for layer in dense[:HINTON_LAYERS]
                for picture in hintons(folder, rows, flips, layer)
            ],
            "special": alive[alive["verdict"].isin(["constant", "reversed"])],
            "below": below,
        },
        below,
    )


def by_layer(units: pd.DataFrame, flips: pd.Series) -> pd.DataFrame:
    """The verdicts' counts, and how many units are linear as far as where the median eye changes
    its stage."""
    middle = flips[np.isfinite(flips)].median()  # NaN where no eye does: then no unit is counted
    linear = (units["linear_up_to"] >= middle) & (units["verdict"] != "dead")
    counts = pd.crosstab(units["layer"], units["verdict"])
    return counts.assign(
        linear_until_the_grade_changes=linear.groupby(units["layer"]).sum()
    ).reset_index()


def scatter(folder: Folder, units: pd.DataFrame) -> Picture:
    """Every living unit by how little its gradient varies and how straight its line is."""
    counts = ", ".join(f"{count} {name}" for name, count in units["verdict"].value_counts().items())
    alt, caption = f"Units by verdict: {counts}", "Units and their verdicts"
    return folder.plot("linearity", study_plots.verdicts(units), alt, caption=caption)


def linear_range(
    folder: Folder, units: pd.DataFrame, strengths: np.ndarray, flips: pd.Series
) -> Picture:
    """How far the living units of each layer are linear, beside where the eyes change their
    stage."""
    strengths, reached = np.sort(strengths[strengths > 0]), flips[np.isfinite(flips)]
    strength = reached.median() if len(reached) else strengths[-1]
    shares = (units["linear_up_to"] >= strength).groupby(units["layer"]).mean()
    words = ", ".join(f"{layer} {percent(share)}" for layer, share in shares.items())
    return folder.plot(
        "linear-range",
        study_plots.linear_range(units, strengths.tolist(), flips.to_numpy(float)),
        f"Units linear up to {number(strength)}: {words}",
        caption="How far units are linear",
        note=(
            "Shaded: where the middle half of the eyes change to the target stage; dashed, the"
            " median."
        ),
    )


def hintons(folder: Folder, rows: pd.DataFrame, flips: pd.Series, layer: str) -> list[Picture]:
    """One eye's units at growing strength, from far below to far above what changes its stage; the
    eye nearest the median."""
    middle = np.median(flips[np.isfinite(flips)]) if np.isfinite(flips).any() else np.inf
    image_id = (flips - middle).abs().fillna(0).idxmin()
    units = rows[(rows["image_id"] == image_id) & (rows["layer"] == layer)].sort_values("unit")
    strengths = np.unique(units["strength"])
    places = np.linspace(0, len(strengths) - 1, HINTON_STRENGTHS).round().astype(int)
    parts = [
        units[units["strength"] == strength][:HINTON_UNITS]
        for strength in strengths[np.unique(places)]
    ]
    scale = float(pd.concat(parts)["attribution"].abs().max()) or 1.0
    pictures = []
    for part in parts:
        first = part.iloc[0]
        title = f"{layer}, {image_id}, strength {number(first['strength'])}"
        pictures.append(
            folder.figure(
                "units",
                hinton(part["attribution"].to_numpy(), scale=scale),
                f"Hinton diagram: {title}",
                caption=title,
                note=f"graded {first['predicted_stage']}, outcome {first['outcome']:.2f}",
                signed=True,
            )
        )
    return pictures


def _pages(data: ReportData, folder: Folder, units: pd.DataFrame, target: int) -> list[Subpage]:
    """A page for each unit whose effects were measured."""
    effects = data.rows("unit_effects").sort_values("rank")
    maps, regions = open_set(data.workspace.files, data.ids.explain_id, "units"), {}
    if maps is not None:
        keys = (maps[name].values.tolist() for name in ("layer", "unit", "image_id"))
        regions = dict(zip(zip(*keys, strict=True), maps["region"].to_numpy(), strict=True))
    fundi = data.fundi(image_id for *_, image_id in regions) if regions else {}
    pages = []
    for (layer, unit), rows in effects.groupby(["layer", "unit"], sort=True):
        pictures = []
        for row in rows.itertuples():
            region = regions.get((layer, unit, row.image_id))
            if region is not None:
                attribution = signed(getattr(row, f"attribution_stage{target}"), ".2g")
                note = f"graded {row.predicted_before}, attribution {attribution}"
                caption = {"caption": row.image_id, "note": note}
                pictures += unit_pictures(folder, row, fundi[row.image_id], region, caption)
        numbers = units[(units["layer"] == layer) & (units["unit"] == unit)].iloc[0]
        pages.append(unit_page(folder, numbers, rows, pictures))
    return pages


def unit_pictures(
    folder: Folder, effect: Any, fundus: np.ndarray, region: np.ndarray, caption: dict[str, str]
) -> list[Picture]:
    """A unit in one eye: the fundus, (y, x, 3), and the unit's region on it, (y, x). effect: its
    row of `unit_effects`."""
    unit, of = f"unit {effect.unit} of {effect.layer}", f"of eye {effect.image_id}"
    name = folder.name("units", f"{effect.layer}-{effect.unit}-{effect.image_id}")
    drawn, words = overlay(fundus, region), f"Region of {unit} on the fundus {of}"
    return [
        folder.picture(f"{name}-fundus", fundus, f"Fundus {of}", **caption),
        folder.picture(f"{name}-region", drawn, words, caption="Its region", signed=True),
    ]


def unit_page(
    folder: Folder, numbers: pd.Series, effects: pd.DataFrame, pictures: list[Picture]
) -> Subpage:
    """One special unit. numbers: its row of the table `units`; effects: its rows of `unit_effects`;
    pictures: of the eyes in which it is strongest."""
    layer, unit = numbers["layer"], numbers["unit"]
    stages: list[dict[str, Any]] = [
        {
            "stage": stage_text(stage),
            "argues for it by": effects[f"attribution_stage{stage}"].mean(),
            "in eyes, share": (effects[f"attribution_stage{stage}"] > 0).mean(),
            "change without it": effects[f"effect_stage{stage}"].mean(),
        }
        for stage in STAGES
    ]
    means = [row["argues for it by"] for row in stages]
    best, worst = int(np.argmax(means)), int(np.argmin(means))
    regraded = int((effects["predicted_before"] != effects["predicted_after"]).sum())
    facts = numbers.drop(["layer", "unit", "verdict"]).to_dict()
    facts |= {"Eyes graded otherwise without it": regraded}
    return Subpage(
        f"{folder.name('units', f'{layer}-{unit}')}.html",
        f"{layer}, unit {unit}",
        "unit",
        {
            "verdict": numbers["verdict"],
            "best": best if means[best] > 0 else None,
            "worst": worst if means[best] > 0 > means[worst] else None,
            "stages": stages,
            "facts": {label(name): number(value) for name, value in facts.items()},
            "pictures": pictures,
            "effects": effects.drop(columns=["layer", "unit", "verdict", "rank"], errors="ignore"),
        },
    )
