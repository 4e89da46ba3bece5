"""What the documents say is what the code has."""

import pathlib
import re

import pytest

from flows.cli.main import app
from flows.registry import STEPS
from tests.tables_page import markdown

ROOT = pathlib.Path(__file__).parent.parent
GENERATED = {"tables.md", "questions.md"}
COLUMNS = 120


def test_the_page_of_tables_is_made_from_the_schemas():
    """Repair with: python -m tests.tables_page > docs/tables.md"""
    assert (ROOT / "docs" / "tables.md").read_text() == markdown()


def test_the_readme_names_every_stage_and_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{stage}`" in text for stage in STEPS)
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"deployments/\w+\.toml", text)
    assert all((ROOT / link).exists() for link in links), links


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_link_to_what_exists_and_name_commands_that_do(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links), links
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"(?:^|[`\s])dr ([a-z][a-z-]+)\b", text, re.MULTILINE))
    assert named <= commands, named - commands


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_name_files_that_exist_and_can_be_read_in_a_terminal(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:flows|tasks|dr_lib|storage|tests|deployments)/[\w./-]+)`", text)
    assert all((ROOT / path).exists() for path in named), named
    if page.name in GENERATED:
        return
    prose = [line for part in text.split("```")[::2] for line in part.splitlines()]
    wide = [line for line in prose if len(line) > COLUMNS and not line.startswith("|")]
    assert not wide, wide


def test_what_the_container_and_the_work_pool_start_is_there():
    for name in re.findall(
        r"entrypoint: flows\.pipeline\.(\w+)", (ROOT / "deployments" / "prefect.yaml").read_text()
    ):
        assert name == "run" or name in STEPS
    copied = re.findall(
        r"^COPY (.+) \S+$", (ROOT / "deployments" / "Containerfile").read_text(), re.MULTILINE
    )
    assert all((ROOT / one).exists() for line in copied for one in line.split())
