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
from dr_lib.report.words import duration, label, number, percent, records, score, slugs


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


def data_view(folder: Folder, data: ReportData) -> SimpleNamespace:
    rejects = records(data.data.rejects)
    counted = Counter(str(row.get("reason", "unknown")) for row in rejects).most_common()
    samples = []
    names = slugs(sample.image_id for sample in data.data.samples)
    for name, sample in zip(names, data.data.samples, strict=True):
        before = folder.photo(f"samples/{name}-photo", figures.fitted(sample.photo, 240), f"Photograph {sample.image_id}")
        after = folder.figure(f"samples/{name}-fundus", sample.fundus, f"Preprocessed fundus of {sample.image_id}")
        samples.append(SimpleNamespace(image_id=sample.image_id, note=sample.note, before=before, after=after))
    sheet = None
    if samples:
        pairs = [image for sample in data.data.samples for image in (sample.photo, sample.fundus)]
        captions = [text for sample in data.data.samples for text in (sample.image_id, sample.note)]
        drawn = figures.contact_sheet(pairs, captions, columns=6, size=192, title="Photographs before and after preprocessing")
        sheet = folder.figure("contact-sheet", drawn, "Photographs before and after preprocessing")
    return SimpleNamespace(
        splits=_pivot(records(data.data.split_stage)),
        reasons=[SimpleNamespace(name=label(name), count=count, share=100 * count / counted[0][1]) for name, count in counted],
        rejects=table(rejects),
        rejected=len(rejects),
        quality=table(records(data.data.quality)),
        samples=samples,
        sheet=sheet,
    )


def _pivot(rows: list[Mapping[str, object]]):
    """Splits by stages as a table, the largest split first, with sums."""
    if not rows:
        return None
    names = {stage: f"{stage} {name}" for stage, name in enumerate(plots.STAGE_NAMES)}
    named = pd.DataFrame([{**row, "stage": names.get(row["stage"], "no label")} for row in rows])
    frame = named.pivot_table(index="split", columns="stage", values="count", aggfunc="sum", fill_value=0)
    frame = frame.assign(all=frame.sum(axis=1)).sort_values("all", ascending=False)
    cells = [{"split": split, **{name: int(count) for name, count in row.items()}} for split, row in frame.iterrows()]
    return table(cells)


def model_view(folder: Folder, data: ReportData) -> SimpleNamespace:
    model, drawn = data.model, []
    if model.confusion is not None:
        total = int(np.asarray(model.confusion).sum())
        right = int(np.trace(np.asarray(model.confusion)))
        alt = f"Confusion matrix of {total} eyes by true and predicted stage; {right} on the diagonal"
        note = "Counts; the shade is the share of the true stage."
        drawn.append(
            folder.plot("confusion", plots.confusion_matrix(model.confusion), alt, caption="Confusion matrix", note=note)
        )
    if model.roc:
        alt = "Receiver operating characteristic: " + ", ".join(model.roc)
        plot = plots.roc(model.roc, model.operating_points)
        drawn.append(folder.plot("roc", plot, alt, caption="ROC and operating points"))
    if model.reliability is not None:
        alt = f"Reliability of {model.reliability_of}: observed frequency against predicted probability"
        note = f"How far {model.reliability_of} can be taken at its word; area: eyes in the bin."
        drawn.append(folder.plot("reliability", plots.reliability(*model.reliability), alt, caption="Reliability", note=note))
    if model.history is not None and len(model.history):
        alt = "Learning curves: loss and validation scores by mini-batch"
        note = "Dotted lines mark changes of the learning rate."
        plot = plots.learning_curves(model.history, x=model.history_x)
        drawn.append(folder.plot("learning-curves", plot, alt, caption="Learning curves", note=note))
    rows = []
    for row in records(model.evaluation):
        value, low, high = (_float(row.get(name)) for name in ("value", "low", "high"))
        on_axis = all(end is None or 0 <= end <= 1 for end in (value, low, high)) and value is not None
        ends = (low, high) if None not in (low, high) else (value, value)
        bar = (100 * ends[0], 100 * (ends[1] - ends[0]), 100 * value) if on_axis else None
        between = f"{score(low)} to {score(high)}" if None not in (low, high) else "–"
        rows.append(SimpleNamespace(name=label(str(row["metric"])), value=score(row.get("value")), interval=between, bar=bar))
    return SimpleNamespace(rows=rows, plots=drawn, note=model.note, eyes=model.eyes)


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float, np.number)) and np.isfinite(float(value)) else None


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
    scores = [row for row in records(part.scores) if _float(row.get("value")) is not None]
    if scores:
        ends = [np.array([_float(row.get(name)) or np.nan for row in scores]) for name in ("low", "high")]
        values = np.array([_float(row["value"]) for row in scores])
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
