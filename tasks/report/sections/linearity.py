"""Units along growing adversarial strength: verdicts, ranges, Hinton diagrams, and a page for each
special unit."""

import numpy as np
import pandas as pd

from dr_lib.drawing import plots, study_plots
from dr_lib.drawing.figures import overlay, robust_scale
from dr_lib.formatting import label, number, percent
from dr_lib.linearity.verdicts import flip_strengths
from dr_lib.report import Folder
from dr_lib.report.pictures import Picture, slugs
from dr_lib.report.section import (
    Bars,
    Content,
    Facts,
    Grid,
    Heading,
    Key,
    Links,
    Plots,
    Subpage,
    Text,
    nothing,
    table,
)
from dr_lib.vocabulary import STAGE_NAMES
from storage.contents.unit_maps import open_unit_maps
from tasks.access.stores import fundus_store
from tasks.report.data import Shown

HINTON_LAYERS, HINTON_STRENGTHS, HINTON_UNITS = 2, 6, 256
STAGES = range(len(STAGE_NAMES))


def content(shown: Shown, folder: Folder) -> Content:
    """The study of one explanation."""
    workspace, explain_id, target = (
        shown.workspace,
        shown.explain_id,
        shown.config["linearity"]["target_stage"],
    )
    units = workspace.frame("units", explain_id=explain_id, study="linearity")
    if units.empty:
        if "linearity" in workspace.parts("units", explain_id):
            return nothing("No explained eye could be studied.")
        words = "Units have not been followed along adversarial examples yet."
        return nothing(words, "The study is made by", "dr linearity CONFIG.toml")
    # What the study of lesions adds to the table is empty in these rows.
    units = units.drop(
        columns=[
            "study",
            "explain_id",
            *(name for name in units if "lesion" in name or name.startswith("auc_")),
        ]
    )
    alive, rows = (
        units[units["verdict"] != "dead"],
        workspace.frame("linearity", explain_id=explain_id),
    )
    layers = sorted(units["layer"].unique(), key=lambda layer: (units["layer"] == layer).sum())
    flips, counts = flip_strengths(rows, target), units["verdict"].value_counts()
    special = alive[alive["verdict"].isin(["constant", "reversed"])]
    subpages = _pages(shown, folder, alive, target)
    shown_layers = [layer for layer in layers if layer.startswith("fc")] or layers
    up_to = {
        layer: alive.loc[alive["layer"] == layer, "linear_up_to"].to_numpy(float)
        for layer in layers
    }
    return Content(
        "Along adversarial examples"
        f" {', '.join(f'{number(count)} units are {name}' for name, count in counts[:2].items())},"
        f" of {number(len(units))}. {flip_note(flips, target)}",
        [
            Text(
                "Adversarial examples of growing strength, attributed to the units of a layer: does"
                " a unit’s attribution grow only because the unit itself moves? The verdicts are"
                " over all strengths, far above the change of stage too."
            ),
            Bars(
                [
                    (label(name), number(count), 100 * count / len(units))
                    for name, count in counts.items()
                ]
            ),
            table(by_layer(units, up_to, flips), "Units by layer and verdict"),
            Plots(
                [
                    linear_range(folder, up_to, rows["strength"].unique(), flips),
                    scatter(folder, alive),
                ],
                wide=True,
            ),
            Heading("Units as Hinton diagrams"),
            Text(
                "A square’s area is the magnitude of a unit’s attribution, its colour the sign; one"
                " layer’s are on one scale."
            ),
            Grid(
                [
                    one
                    for layer in shown_layers[:HINTON_LAYERS]
                    for one in hintons(folder, rows, flips, layer)
                ],
                "grid hintons",
            ),
            Heading("Units one by one") if subpages else None,
            (
                Links([(one.page, one.title, one.lede.partition(":")[0]) for one in subpages])
                if subpages
                else None
            ),
            Heading("Units that do not follow") if len(special) else None,
            table(special, "Units that do not follow", limit=60),
        ],
        subpages,
    )


def flip_note(flips: pd.Series, target_stage: int) -> str:
    """How many eyes change to the target stage, and at which strength."""
    reached = flips[np.isfinite(flips)]
    eyes = f"{len(flips):,} {'eye' if len(flips) == 1 else 'eyes'}"
    if reached.empty:
        return f"None of {eyes} changes to stage {target_stage} at any strength."
    at = f"{reached.median():.3g} (of 256 gray levels {128 * reached.median():.2g})"
    return (
        f"Of {eyes}, {len(reached):,} change to stage {target_stage}, the median one at strength"
        f" {at}."
    )


def by_layer(units: pd.DataFrame, up_to: dict[str, np.ndarray], flips: pd.Series) -> pd.DataFrame:
    """The verdicts' counts, and how many units are linear as far as where the median eye changes
    its stage."""
    counts, reached = (
        pd.crosstab(units["layer"], units["verdict"]).reset_index(),
        flips[np.isfinite(flips)],
    )
    linear = [
        int((up_to[layer] >= reached.median()).sum()) if len(reached) else 0
        for layer in counts["layer"]
    ]
    return counts.assign(linear_up_to_the_flip=linear)


def scatter(folder: Folder, units: pd.DataFrame) -> Picture:
    """Every living unit by how little its gradient varies and how straight its line is."""
    plot = plots.linearity_scatter(
        units["gradient_variation"].to_numpy(float),
        units["r2"].to_numpy(float),
        units["verdict"].tolist(),
        x_label="Variation of the average gradient",
        y_label="R² of the straight line",
    )
    counts = ", ".join(f"{count} {name}" for name, count in units["verdict"].value_counts().items())
    return folder.plot(
        "linearity", plot, f"Units by verdict: {counts}", caption="Units and their verdicts"
    )


def linear_range(
    folder: Folder, up_to: dict[str, np.ndarray], strengths: np.ndarray, flips: pd.Series
) -> Picture:
    """How far the units of each layer are linear, beside where the eyes change their stage."""
    strengths, reached = np.sort(strengths[strengths > 0]), flips[np.isfinite(flips)]
    plot = study_plots.linear_range(up_to, strengths.tolist(), flips.to_numpy(float))
    at = reached.median() if len(reached) else strengths[-1]
    shares = ", ".join(
        f"{layer} {percent((values >= at).mean())}"
        for layer, values in up_to.items()
        if len(values)
    )
    note = (
        "Shaded: where the middle half of the eyes change to the target stage; dashed, the median."
    )
    return folder.plot(
        "linear-range",
        plot,
        f"Units linear up to {at:.3g}: {shares}",
        caption="How far units are linear",
        note=note,
    )


def hintons(folder: Folder, rows: pd.DataFrame, flips: pd.Series, layer: str) -> list[Picture]:
    """One eye's units at growing strength, from far below to far above what changes its stage; the
    eye nearest the median."""
    middle = np.median(flips[np.isfinite(flips)]) if np.isfinite(flips).any() else np.inf
    image_id = (flips - middle).abs().fillna(0).idxmin()
    own = rows[(rows["image_id"] == image_id) & (rows["layer"] == layer)].sort_values("unit")
    strengths = np.unique(own["strength"])
    chosen = strengths[
        np.unique(
            np.linspace(0, len(strengths) - 1, min(HINTON_STRENGTHS, len(strengths)))
            .round()
            .astype(int)
        )
    ]
    parts = {strength: own[own["strength"] == strength][:HINTON_UNITS] for strength in chosen}
    titles = [f"{layer}, {image_id}, strength {strength:.3g}" for strength in parts]
    scale = max(robust_scale(part["attribution"].to_numpy(), 100.0) for part in parts.values())
    return [
        folder.hinton(
            f"units/{name}",
            part["attribution"].to_numpy(),
            f"Hinton diagram: {title}",
            scale=scale,
            caption=title,
            note=f"graded {part['predicted_stage'].iloc[0]}, outcome {part['outcome'].iloc[0]:.2f}",
        )
        for name, title, part in zip(slugs(titles), titles, parts.values(), strict=True)
    ]


def _pages(shown: Shown, folder: Folder, units: pd.DataFrame, target_stage: int) -> list[Subpage]:
    """A page for each unit whose effects were measured."""
    effects = shown.workspace.frame("unit_effects", explain_id=shown.explain_id)
    maps = open_unit_maps(shown.workspace.files, shown.explain_id)
    regions, stored = {}, np.empty(0)
    if maps is not None:
        keys = zip(
            *(maps[name].values.tolist() for name in ("layer", "unit", "image_id")), strict=True
        )
        regions = {key: index for index, key in enumerate(keys)}
        stored = maps["region"].to_numpy()
    positions = shown.workspace.photos().set_index("image_id")["position"]
    fundi, pages = fundus_store(shown.workspace, shown.recipe.preprocess_id), []
    for (layer, unit), rows in effects.groupby(["layer", "unit"], sort=True):
        rows, eyes = rows.sort_values("rank"), []
        for row in rows.itertuples():
            if (index := regions.get((layer, unit, row.image_id))) is not None:
                fundus = fundi.read_rows([int(positions[row.image_id])], ["pixels"])["pixels"][0]
                attribution = getattr(row, f"attribution_stage{target_stage}")
                note = f"graded {row.predicted_before}, attribution {attribution:+.2g}"
                eyes.append((row.image_id, note, fundus, stored[index]))
        numbers = units[(units["layer"] == layer) & (units["unit"] == unit)].iloc[0]
        pages.append(unit_page(folder, numbers, rows, eyes))
    return pages


def unit_page(folder: Folder, numbers: pd.Series, rows: pd.DataFrame, eyes: list[tuple]) -> Subpage:
    """One special unit. rows: its effects, an eye a row; eyes: (image_id, words, fundus, region) of
    where it is strongest."""
    layer, unit = numbers["layer"], numbers["unit"]
    (name,), pictures = slugs([f"{layer}-{unit}"]), []
    for slug, (image_id, note, fundus, region) in zip(
        slugs(eye[0] for eye in eyes), eyes, strict=True
    ):
        place, of = f"units/{name}-{slug}", f"of eye {image_id}"
        alt = f"Region of unit {unit} of {layer} on the fundus {of}"
        pictures.append(
            folder.picture(f"{place}-fundus", fundus, f"Fundus {of}", caption=image_id, note=note)
        )
        drawn = overlay(fundus, region)
        pictures.append(
            folder.picture(f"{place}-region", drawn, alt, caption="Its region", signed=True)
        )
    changed = [
        (
            "Eyes graded otherwise without it",
            number(int((rows["predicted_before"] != rows["predicted_after"]).sum())),
        )
    ]
    words = (
        "The eyes with its largest attribution to the target stage, and the pixels that drive the"
        " unit there."
    )
    strongest = (
        [Heading("Where it is strongest"), Text(words), Key(), Grid(pictures, "grid maps")]
        if pictures
        else []
    )
    every = rows.drop(columns=["layer", "unit", "verdict", "rank", "explain_id"], errors="ignore")
    return Subpage(
        f"units/{name}.html",
        f"{layer}, unit {unit}",
        f"{numbers['verdict']}: {_lede(rows)}",
        [
            table(
                _by_stage(rows),
                "Which stages it argues for, and what is without it: means over the eyes of the"
                " study",
            ),
            Facts(
                [
                    (label(name), number(value))
                    for name, value in numbers.drop(["layer", "unit", "verdict"]).items()
                ]
                + changed
            ),
            *strongest,
            Heading("Eye by eye"),
            table(every, "Eye by eye"),
        ],
    )


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
