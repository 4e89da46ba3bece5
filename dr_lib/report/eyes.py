"""One explained eye as its card in the gallery and its own page show it."""

import json
from dataclasses import dataclass

import numpy as np

from dr_lib import figures, heatmaps
from dr_lib.plots import STAGE_COLOURS, STAGE_NAMES
from dr_lib.report.data import EyeEntry, Integer, NeuronEntry
from dr_lib.report.pictures import Folder, Picture, Table, table
from dr_lib.report.words import number, percent, quantity, records, signed

BOTH_ENDS = {"stage0", "stage4"}
CROP_PX = 96  # a neuron's window on the page


@dataclass(frozen=True)
class EyeView:
    """What the templates need about an eye; texts are plain and are escaped there."""

    entry: EyeEntry
    slug: str
    right: bool | None
    above_tolerance: bool
    bars: tuple[tuple[int, str, str, str, float], ...]  # stage, name, colour, text, percent
    fundus: Picture
    panels: tuple[Picture, ...]  # Fig (a): what there is of it
    stage_panels: dict[str, Picture]  # by quantity, for Fig (b)
    correlations: str  # JSON: "stage0|stage4" → text
    figure_a: Picture | None
    figure_b: Picture | None
    neurons: dict[str, tuple[Picture, ...]]
    gap: str
    symmetry: str
    facts: tuple[tuple[str, str], ...]
    numbers: Table | None

    @property
    def page(self) -> str:
        return f"eyes/{self.slug}.html"


def stage_text(stage: Integer | None) -> str:
    return "unknown" if stage is None else f"{stage} {STAGE_NAMES[stage]}"


def relative_gap(eye: EyeEntry) -> float | None:
    return float(eye.relative_gap) if eye.relative_gap is not None and np.isfinite(eye.relative_gap) else None


def symmetry(eye: EyeEntry) -> float | None:
    """Correlation of the maps toward stage 0 and stage 4, as given or from the maps."""
    if eye.symmetry is not None:
        return float(eye.symmetry)
    if set(eye.stage_maps) >= BOTH_ENDS:
        return heatmaps.symmetry(eye.stage_maps["stage0"], eye.stage_maps["stage4"])
    return None


def eye_view(folder: Folder, eye: EyeEntry, slug: str) -> EyeView:
    """Draws the eye's pictures into the folder and says where they are."""
    of = f"of eye {eye.image_id}"
    panels: list[Picture] = []
    if eye.photo is not None:
        panels.append(folder.photo(f"eyes/{slug}-photo", figures.fitted(eye.photo, 480), f"Photograph {of}", caption="Original"))
    fundus = folder.figure(f"eyes/{slug}-fundus", eye.fundus, f"Preprocessed fundus {of}", caption="Preprocessed")
    panels.append(fundus)
    for sign, resultant in (("positive", eye.positive), ("negative", eye.negative)):
        if resultant is not None:
            alt = f"Summed active regions of the most {sign} neurons {of}, green raises and red lowers the outcome"
            drawn = figures.overlay(eye.fundus, resultant)
            words = {"caption": f"Most {sign} neurons", "note": eye.layer, "signed": True}
            panels.append(folder.figure(f"eyes/{slug}-{sign}", drawn, alt, **words))
    figure_a = figure_b = None
    title = f"{eye.image_id}  ·  true stage {stage_text(eye.stage)}  ·  predicted {stage_text(eye.predicted)}"
    if eye.photo is not None and eye.positive is not None and eye.negative is not None:
        drawn = figures.figure_a(eye.photo, eye.fundus, eye.positive, eye.negative, title=title)
        figure_a = folder.figure(f"eyes/{slug}-figure-a", drawn, f"Figure a {of}")
    if set(eye.stage_maps) >= BOTH_ENDS:
        drawn = figures.figure_b(eye.fundus, eye.stage_maps["stage0"], eye.stage_maps["stage4"], title=title)
        figure_b = folder.figure(f"eyes/{slug}-figure-b", drawn, f"Figure b {of}")
    stage_panels = {
        name: folder.figure(
            f"eyes/{slug}-toward-{place}",
            figures.overlay(eye.fundus, values),
            f"Attribution toward {quantity(name)} {of}, green speaks for it and red against it",
            caption=f"Toward {quantity(name)}",
            signed=True,
        )
        for place, (name, values) in enumerate(eye.stage_maps.items())
    }
    return EyeView(
        entry=eye,
        slug=slug,
        right=None if eye.stage is None else bool(eye.stage == eye.predicted),
        above_tolerance=eye.converged is not None and not eye.converged,
        bars=tuple(
            (stage, STAGE_NAMES[stage], STAGE_COLOURS[stage], percent(float(p), 1 if p < 0.0995 else 0), 100 * float(p))
            for stage, p in enumerate(eye.probabilities)
        ),
        fundus=fundus,
        panels=tuple(panels),
        stage_panels=stage_panels,
        correlations=_correlations(eye),
        figure_a=figure_a,
        figure_b=figure_b,
        neurons={sign: _neurons(folder, eye, slug, sign) for sign in ("positive", "negative")},
        gap=percent(relative_gap(eye), 1) if relative_gap(eye) is not None else number(eye.gap),
        symmetry=signed(symmetry(eye)),
        facts=_facts(eye),
        numbers=table(records(eye.numbers)),
    )


def _facts(eye: EyeEntry) -> tuple[tuple[str, str], ...]:
    facts = [("True stage", stage_text(eye.stage)), ("Predicted stage", stage_text(eye.predicted)), ("Split", eye.split)]
    if eye.quantity:
        facts.append(("Explained outcome", quantity(eye.quantity)))
    facts.append(("Layer", eye.layer))
    if eye.gap is not None or relative_gap(eye) is not None:
        relative = percent(relative_gap(eye), 1)
        facts.append(("Completeness gap", relative if eye.gap is None else f"{number(eye.gap)} ({relative} of the change)"))
    if eye.points is not None:
        facts.append(("Points on the path", number(eye.points)))
    if eye.converged is not None:
        facts.append(("Within tolerance", number(eye.converged)))
    if symmetry(eye) is not None:
        facts.append(("Stage 0 against 4", f"correlation {signed(symmetry(eye))}"))
    if eye.lesion_share is not None:
        facts.append(("Positive share on lesions", percent(eye.lesion_share)))
    return tuple(facts)


def _correlations(eye: EyeEntry) -> str:
    names = list(eye.stage_maps)
    pairs = {}
    for at, first in enumerate(names):
        for second in names[at:]:
            value = heatmaps.symmetry(eye.stage_maps[first], eye.stage_maps[second])
            pairs[f"{first}|{second}"] = pairs[f"{second}|{first}"] = signed(value)
    return json.dumps(pairs)


def _neurons(folder: Folder, eye: EyeEntry, slug: str, sign: str) -> tuple[Picture, ...]:
    chosen = sorted((one for one in eye.neurons if one.sign == sign and np.isfinite(one.attribution)), key=lambda one: one.rank)
    return tuple(_neuron(folder, eye, slug, one) for one in chosen)


def _neuron(folder: Folder, eye: EyeEntry, slug: str, one: NeuronEntry) -> Picture:
    top, left = one.origin
    height, width = one.region.shape
    window = np.ascontiguousarray(eye.fundus[top : top + height, left : left + width])
    if window.shape[:2] != one.region.shape:
        raise ValueError(f"the region of neuron {one.neuron} of {eye.image_id} reaches beyond its {eye.fundus.shape[:2]} fundus")
    drawn = figures.fitted(figures.overlay(window, one.region, radius_px=0.6), CROP_PX)
    where = ", ".join(str(index) for index in one.neuron)
    alt = f"Active region of the {one.sign} neuron ({where}) of eye {eye.image_id}"
    name = f"eyes/{slug}-{one.sign}-{one.rank}"
    return folder.figure(name, drawn, alt, caption=f"({where})", note=number(one.attribution, 2), signed=True)
