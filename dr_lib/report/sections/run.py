"""The run: its stages and their pace, what failed, the ids that name its numbers, versions and
settings.
"""

from collections.abc import Mapping
from types import SimpleNamespace

from dr_lib.report.data import RunSummary
from dr_lib.report.pictures import Folder, table
from dr_lib.report.section import Section
from dr_lib.report.words import duration, label, number, records


def view(folder: Folder, run: RunSummary) -> SimpleNamespace:
    longest = max((stage.seconds for stage in run.stages), default=0) or 1
    stages = [
        SimpleNamespace(
            name=stage.name,
            duration=duration(stage.seconds),
            images=number(stage.images) if stage.images else "–",
            rate=number(stage.images_per_minute),
            share=100 * stage.seconds / longest,
        )
        for stage in run.stages
    ]
    names = ("run_id", "model_id", "preprocess_id", "explain_id", "workspace")
    ids = [(label(name), getattr(run, name)) for name in names if getattr(run, name)]
    config = run.config if isinstance(run.config, str) else "\n".join(_settings(run.config))
    return SimpleNamespace(
        stages=stages,
        ids=ids,
        versions=sorted(run.versions.items()),
        config=config.strip(),
        progress=table(records(run.progress)),
        failures=table(records(run.failures)),
    )


def _settings(config: Mapping[str, object], prefix: str = "") -> list[str]:
    lines = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            lines += _settings(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} = {value!r}")
    return lines


SECTION = Section("run", "The run", RunSummary, view)
