"""The environment that `make setup` makes: which Python it takes, and that nothing in it comes
by chance.
"""

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from dr_lib.network import backend

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"flows", "tasks", "storage", "dr_lib", "tests"}
MAKE = shutil.which("make")


def program(folder: pathlib.Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def make(target: str, path: list[pathlib.Path], *more: str) -> subprocess.CompletedProcess:
    """`make` in a folder that holds the project's Makefile and nothing is installed in."""
    folder = path[0].parent / "project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    environment = {"PATH": ":".join(map(str, path))}
    return subprocess.run(
        [MAKE, target, *more], cwd=folder, env=environment, capture_output=True, text=True
    )


def found(*path: pathlib.Path) -> str:
    return make("which", list(path), "--eval", "which: ; @: ; echo '$(PYTHON)'").stdout.strip()


RUNS, BROKEN = f'exec "{sys.executable}" "$@"', "echo 'pyenv: command not found' >&2; exit 127"


@pytest.mark.skipif(MAKE is None, reason="there is no make")
@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3"])
def test_make_takes_whichever_supported_python_there_is(tmp_path, name):
    program(tmp_path / "bin", name, RUNS)
    assert found(tmp_path / "bin") == str(tmp_path / "bin" / name)


@pytest.mark.skipif(MAKE is None, reason="there is no make")
def test_make_passes_over_names_that_do_not_run_even_before_the_same_name(tmp_path):
    """As pyenv's shims do for versions that are installed and not active."""
    for name in ("python3.11", "python3.12", "python3"):
        program(tmp_path / "a folder of shims", name, BROKEN)
    program(tmp_path / "bin", "python3.12", RUNS)
    assert found(tmp_path / "a folder of shims", tmp_path / "bin") == str(
        tmp_path / "bin" / "python3.12"
    )


@pytest.mark.skipif(MAKE is None, reason="there is no make")
@pytest.mark.parametrize(
    ("python", "arguments", "tried"),
    [(BROKEN, [], "every folder of PATH"), (RUNS, ["PYTHON=python3.10"], "python3.10")],
)
def test_make_says_in_a_line_that_there_is_no_python(tmp_path, python, arguments, tried):
    program(tmp_path / "bin", "python3.12", python)
    ended = make("setup", [tmp_path / "bin"], *arguments)
    assert ended.returncode == 2
    line, makes = ended.stderr.strip().splitlines()
    assert line.startswith(
        f"Python 3.11, 3.12 or 3.13 with venv and pip is needed and was not found (tried {tried}):"
        " install"
    )
    assert makes.startswith("make: ***")
    assert not (tmp_path / "project" / ".venv").exists()


def test_the_makefile_the_package_and_its_classifiers_speak_of_the_same_pythons():
    known = [Version(f"3.{minor}") for minor in range(8, 20)]
    supported = list(SpecifierSet(PROJECT["requires-python"]).filter(known))
    least, below = re.search(
        r"\((\d, \d+)\) <= sys.version_info < \((\d, \d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    least, below = (Version(bound.replace(", ", ".")) for bound in (least, below))
    assert [version for version in known if least <= version < below] == supported
    listed = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python ::" in line]
    assert [Version(version) for version in listed] == supported


def test_every_package_that_is_installed_is_pinned():
    """Also what one Python brings and another does not."""
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pinned = {
        canonicalize_name(pin.name): pin
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }
    extras = frozenset({"", "test", backend.chosen()})
    waiting, seen = [("dr-explain", extras)], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for wanted in map(Requirement, importlib.metadata.requires(name) or []):
            if wanted.marker is None or any(
                wanted.marker.evaluate({"extra": extra}) for extra in extras
            ):
                waiting.append((canonicalize_name(wanted.name), frozenset({"", *wanted.extras})))
    names = {name for name, _ in seen} - {"dr-explain"}
    assert names - pinned.keys() == set()
    other = {
        name: installed
        for name in names
        if (installed := importlib.metadata.version(name)) not in pinned[name].specifier
    }
    assert other == {}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(OWN - {"tests"}, {"jax", "tensorflow"}), ({"tests"}, {"jax", "tensorflow", "test", "bench"})],
)
def test_every_package_that_is_imported_is_asked_for(folders, extras):
    """What only another package brings is gone with that package, or on another Python."""
    lines = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    brought_by = importlib.metadata.packages_distributions()
    missing = {}
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        beside = {path.stem for path in file.parent.glob("*.py")}
        for name in imported(file) - set(sys.stdlib_module_names) - OWN - beside:
            if not {canonicalize_name(one) for one in brought_by.get(name, [name])} & asked:
                missing.setdefault(name, []).append(str(file.relative_to(ROOT)))
    assert missing == {}


def imported(file: pathlib.Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}
