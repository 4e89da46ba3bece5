"""The other sections of the page: what each shows, drawn into the folder, and None where there is nothing."""

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pandas as pd

from dr_lib import figures, plots
from dr_lib.report.data import ReportData
from dr_lib.report.eyes import EyeView, relative_gap
from dr_lib.report.pictures import Folder, Picture, table
from dr_lib.report.words import duration, finite, label, number, percent, records, score, slugs


def glance(data: ReportData) -> list[SimpleNamespace]:
    """The few numbers on top: agreement, discrimination, how far, how exact, how fast. Only those that are known."""
    tiles = []
    for wanted, name in (("kappa", "Quadratic weighted kappa"), ("qwk", "Quadratic weighted kappa"), ("auc", "AUC, referable")):
        for row in records(data.model.evaluation):
            metric = str(row.get("metric", "")).lower()
            if wanted in metric and (wanted != "auc" or "referable" in metric) and name not in [tile.name for tile in tiles]:
                tiles.append(SimpleNamespace(name=name, value=score(row.get("value")), note=_interval(row)))
    explained = data.eyes_explained or len(data.eyes)
    if explained:
        tiles.append(SimpleNamespace(name="Eyes explained", value=number(explained), note=_of(data)))
    gaps = [gap for gap in map(relative_gap, data.eyes) if gap is not None]
    if gaps:
        note = f"of the outcome’s change; worst {percent(max(gaps), 1)}"
        tiles.append(SimpleNamespace(name="Median completeness gap", value=percent(float(np.median(gaps)), 1), note=note))
    attribute = [stage for stage in data.run.stages if stage.name == "attribute" and stage.images_per_minute]
    if attribute:
        value = number(attribute[0].images_per_minute)
        tiles.append(SimpleNamespace(name="Eyes explained a minute", value=value, note=duration(attribute[0].seconds)))
    return tiles


def _of(data: ReportData) -> str:
    return f"of {number(data.data.photographs)} photographs" if data.data.photographs else ""


def _interval(row: Mapping[str, object]) -> str:
    low, high = row.get("low"), row.get("high")
    known = all(isinstance(end, (int, float, np.number)) and np.isfinite(float(end)) for end in (low, high))
    return f"95 % interval {score(low)} to {score(high)}" if known else ""


def run_view(data: ReportData) -> SimpleNamespace:
    longest = max((stage.seconds for stage in data.run.stages), default=0) or 1
    stages = [
        SimpleNamespace(
            name=stage.name,
            duration=duration(stage.seconds),
            images=number(stage.images) if stage.images else "–",
            rate=number(stage.images_per_minute),
            share=100 * stage.seconds / longest,
        )
        for stage in data.run.stages
    ]
    names = ("run_id", "model_id", "preprocess_id", "explain_id", "workspace")
    ids = [(label(name), getattr(data.run, name)) for name in names if getattr(data.run, name)]
    config = data.run.config if isinstance(data.run.config, str) else "\n".join(_settings(data.run.config))
    return SimpleNamespace(stages=stages, ids=ids, versions=sorted(data.run.versions.items()), config=config.strip())


def _settings(config: Mapping[str, object], prefix: str = "") -> list[str]:
    lines = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            lines += _settings(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} = {value!r}")
    return lines


def groups_view(folder: Folder, data: ReportData) -> list[Picture]:
    made = []
    for name, group in zip(slugs(group.name for group in data.groups), data.groups, strict=True):
        blank = np.full((*group.values.shape, 3), figures.HALF_GRAY, np.uint8)
        base = blank if group.background is None else group.background
        drawn = figures.overlay(base, group.values, background="gray" if group.background is None else "fundus")
        alt = f"Summed heat map of {group.images} eyes: {group.name}"
        note = f"{number(group.images)} {'eye' if group.images == 1 else 'eyes'}" + (f" · {group.note}" if group.note else "")
        made.append(folder.figure(f"groups/{name}", drawn, alt, caption=group.name, note=note, signed=True))
    return made


def localisation_view(folder: Folder, data: ReportData) -> SimpleNamespace:
    part, picture = data.localisation, None
    scores = [row for row in records(part.scores) if finite(row.get("value")) is not None]
    if scores:
        ends = [np.array([finite(row.get(name)) or np.nan for row in scores]) for name in ("low", "high")]
        values = np.array([finite(row["value"]) for row in scores])
        reference = 0.5 if "auc" in part.score_name.lower() else None
        names = [str(row.get("method", "")) for row in scores]
        plot = plots.bars(names, values, *ends, x_label=part.score_name, reference=reference)
        best = names[int(values.argmax())]
        alt = f"{part.score_name} by method; the highest is {best} with {number(values.max())}"
        picture = folder.plot("localisation", plot, alt, caption=f"{part.score_name} by method")
    return SimpleNamespace(picture=picture, regions=table(records(part.regions), limit=60), note=part.note)


def counterfactual_view(folder: Folder, data: ReportData) -> SimpleNamespace:
    part, triptychs = data.counterfactuals, []
    for name, one in zip(slugs(one.image_id for one in part.triptychs), part.triptychs, strict=True):
        delta, gain = figures.difference(one.original, one.counterfactual)
        of = f"of eye {one.image_id}"
        panels = [
            folder.figure(f"counterfactuals/{name}-fundus", one.original, f"Fundus {of}", caption="Fundus"),
            folder.figure(
                f"counterfactuals/{name}-changed", one.counterfactual, f"Counterfactual fundus {of}", caption="Counterfactual"
            ),
            folder.figure(
                f"counterfactuals/{name}-difference", delta, f"What changed {of}, magnified", caption=f"Difference × {gain:.0f}"
            ),
        ]
        triptychs.append(
            SimpleNamespace(
                image_id=one.image_id, caption=one.caption, failed=one.reached is not None and not one.reached, panels=panels
            )
        )
    return SimpleNamespace(
        triptychs=triptychs, summary=table(records(part.summary)), adversarial=table(records(part.adversarial)), note=part.note
    )


def linearity_view(folder: Folder, data: ReportData) -> SimpleNamespace:
    part, scatter = data.linearity, None
    units = pd.DataFrame(records(part.units))
    if len(units):
        kinds = [str(verdict) for verdict in units["verdict"]]
        x, y = (units[name].to_numpy(float) for name in (part.x, part.y))
        plot = plots.linearity_scatter(x, y, kinds, x_label=part.x_label, y_label=part.y_label)
        counts = ", ".join(f"{count} {name}" for name, count in Counter(kinds).most_common())
        scatter = folder.plot("linearity", plot, f"Units by verdict: {counts}", caption="Units and their verdicts")
    largest = max((figures.robust_scale(np.asarray(one.values, float), 100.0) for one in part.hintons), default=None)
    hintons = [
        folder.figure(
            f"units/{name}",
            figures.hinton(one.values, scale=largest),
            f"Hinton diagram: {one.title}",
            caption=one.title,
            note=one.note,
            signed=True,
        )
        for name, one in zip(slugs(one.title for one in part.hintons), part.hintons, strict=True)
    ]
    total = sum(part.verdicts.values()) or 1
    verdicts = [
        SimpleNamespace(name=label(name), count=number(count), share=100 * count / total)
        for name, count in sorted(part.verdicts.items(), key=lambda item: -item[1])
    ]
    return SimpleNamespace(
        verdicts=verdicts, scatter=scatter, hintons=hintons, exceptions=table(records(part.exceptions), 60), note=part.note
    )


def lead(data: ReportData, views: list[EyeView]) -> EyeView | None:
    """The eye of the opening figure: complete, rightly graded if there is one, of the highest stage."""
    complete = [view for view in views if view.figure_a is not None]
    return max(complete, key=lambda view: (view.right is True, view.entry.predicted), default=None)
