"""Folders with names that mean something to somebody: to the terminal's markup, to Prefect, to a
shell.
"""

import functools
import io
import pathlib

import pytest
from rich.console import Console

from flows.cli import printing as summary
from flows.config import ConfigError, check_inputs, load_config
from flows.service.schedule import deployments_of
from tasks.run import progress

ODD = ("/data/[2024]/[bold]x", "/data/a[/b]", "/data/:eye:")


@pytest.mark.parametrize("path", ODD)
def test_a_path_is_told_as_it_is(path, monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(progress._console, "file", told)
    progress.say(f"report: {path}/index.html")
    assert told.getvalue() == f"report: {path}/index.html\n"


@pytest.mark.parametrize("path", ODD)
def test_a_path_stands_in_a_table_as_it_is(path, monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(summary.sys.stdout, "isatty", lambda: True, raising=False)
    console = functools.partial(Console, file=told, width=80)
    monkeypatch.setattr("rich.console.Console", console)
    summary.print_rows([{"result": path}], title=path)
    assert told.getvalue().count(path) == 2


@pytest.mark.parametrize("name", ["100%", "a&b", "<x>", "it's [1]"])
def test_a_workspace_of_any_name_can_be_served(tiny_config, tmp_path, name):
    config = load_config(tiny_config(tmp_path / "photos", tmp_path / name))
    names = [
        deployment.name for deployment in deployments_of(pathlib.Path("tiny.toml"), [], config)
    ]
    assert len(set(names)) == 9


@pytest.mark.parametrize("workspace", [r"/data/a\\b", "/data/model_id=1/x", "s3://bucket/a*"])
def test_a_workspace_that_cannot_work_is_refused_before_anything_starts(
    tiny_config, tmp_path, workspace
):
    config = load_config(tiny_config(tmp_path, workspace))
    with pytest.raises(ConfigError, match="cannot be a workspace"):
        check_inputs(config)


def test_a_name_that_is_not_in_utf8_is_told_in_a_line(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"not in UTF-8; rename") as caught:
        load_config(tiny_config(tmp_path), ["workspace=/data/bad\udcff"])
    assert len(str(caught.value)) < 200
