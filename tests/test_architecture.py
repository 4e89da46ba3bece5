"""Imports run one way: flows → tasks → {dr_lib, storage}, and dr_lib and storage do not know
each other.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HOUSE = {"flows", "tasks", "dr_lib", "storage", "tests", "deployments"}
ALLOWED = {
    "flows": {"flows", "tasks", "dr_lib", "storage"},
    "tasks": {"tasks", "dr_lib", "storage"},
    "dr_lib": {"dr_lib"},
    "storage": {"storage"},
}
# Whose business a library is: anywhere else it is an arrow drawn around the house.
OWNERS = {
    "prefect": {"flows", "tasks"},
    "dask": {"flows", "tasks"},
    "distributed": {"flows", "tasks"},
    "zarr": {"storage"},
    "xarray": {"storage"},
    "pyarrow": {"storage"},
    "duckdb": {"storage"},
    "fsspec": {"storage"},
    "tensorflow": {"dr_lib"},
    "jax": {"dr_lib"},
    "keras": {"dr_lib"},
    "typer": {"flows"},
    "pydantic": {"flows"},
}
# Everything framework-specific stands in one module.
BACKEND_ONLY = {"tensorflow", "jax"}


def imported_packages(source: str) -> set[str]:
    """Top-level names a module imports anywhere in its text, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names.add("(relative)")
    return names


def modules():
    return [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    names = imported_packages(path.read_text())
    assert "(relative)" not in names, "relative imports hide which package is meant"
    assert names & HOUSE <= ALLOWED[package]
    foreign = {name for name, owners in OWNERS.items() if name in names and package not in owners}
    assert not foreign, f"{package} must not know {foreign}"
    if package == "dr_lib" and path.name != "backend.py":
        assert not names & BACKEND_ONLY, (
            "framework-specific code belongs in dr_lib/network/backend.py"
        )


def test_science_knows_no_drawing():
    presentation = ("drawing", "report")
    for path in (ROOT / "dr_lib").rglob("*.py"):
        if path.relative_to(ROOT / "dr_lib").parts[0] not in presentation:
            source = path.read_text()
            assert not any(
                f"dr_lib.{name}" in source or f"import {name}\n" in source for name in presentation
            ), path


def test_the_arrows_are_read_from_the_text():
    """The reader above sees imports inside functions and refuses relative ones."""
    assert imported_packages(
        "def f():\n    from storage.tables.parts import x\n    import keras.ops"
    ) == {"storage", "keras"}
    assert imported_packages("from . import x") == {"(relative)"}
