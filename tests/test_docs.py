"""What the documents say is what the code has."""

import pathlib
import re

from flows.stage_names import STAGES
from storage.schemas import markdown

ROOT = pathlib.Path(__file__).parent.parent


def test_the_page_of_tables_is_made_from_the_schemas():
    """Mend with: python -c "from storage.schemas import markdown; print(markdown(), end='')" > docs/tables.md"""
    assert (ROOT / "docs" / "tables.md").read_text() == markdown()


def test_the_readme_names_every_stage_and_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{stage}`" in text for stage in STAGES)
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"deployments/\w+\.toml", text)
    assert all((ROOT / link).exists() for link in links), links
