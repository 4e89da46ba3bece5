"""The rules of the house: which way imports run, what a folder may hold, how long a file may be.

flows → tasks → { dr_lib, storage }; docs/architecture.md draws it.
"""

import ast
import pathlib

import pytest

from flows.registry import STEPS

ROOT = pathlib.Path(__file__).parent.parent
HOUSE = {"flows", "tasks", "dr_lib", "storage", "tests", "deployments"}
ALLOWED = {
    "flows": {"flows", "tasks", "dr_lib", "storage"},
    "tasks": {"tasks", "dr_lib", "storage"},
    "dr_lib": {"dr_lib"},
    "storage": {"storage", "dr_lib"},
}
# Which packages may use a library: anywhere else it would be an arrow drawn around the house.
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
}
# Everything framework-specific stands in one module.
BACKEND_ONLY = {"tensorflow", "jax"}
SHARED_BY_STEPS = {"run", "execution", "access"}
# A folder of storage imports only folders of a lower floor.
STORAGE_FLOORS = {
    "errors": 0,
    "ids": 0,
    "layout": 0,
    "files": 1,
    "photos": 2,
    "arrays": 2,
    "tables": 2,
    "contents": 3,
    "workspace": 4,
    "admin": 5,
}
LOOSE_MODULES = {
    "flows": {"config", "pipeline", "registry"},
    "tasks": set(),
    "dr_lib": {"formatting", "settings", "vocabulary"},
    "storage": {"workspace", "layout", "ids", "errors"},
}
MOST_MODULES_IN_A_FOLDER = 14
MOST_LINES = 400
COLUMNS = 100


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


def modules() -> list[pathlib.Path]:
    return [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: pathlib.Path) -> str:
    """The dotted name of a module's file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in modules()}


def imported_modules(path: pathlib.Path) -> set[str]:
    """The house's modules that a module imports, inside functions and for annotations too.

    A module that takes something from its own package's `__init__` imports what that names, not
    the `__init__` above it.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    nearest = set()
    for name in found:
        while name and name not in NAMES:
            name = name.rpartition(".")[0]
        if name:
            nearest.add(name)
    own = name_of(path)
    above = {name for name in nearest if NAMES[name].name == "__init__.py" and own.startswith(name)}
    return nearest - above - {own}


IMPORTS = {name: imported_modules(path) for name, path in NAMES.items()}
by_path = pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))


@by_path
def test_imports_follow_the_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    names = imported_packages(path.read_text(encoding="utf-8"))
    assert "(relative)" not in names, "relative imports hide which package is meant"
    assert names & HOUSE <= ALLOWED[package]
    foreign = {name for name, owners in OWNERS.items() if name in names and package not in owners}
    assert not foreign, f"{package} must not know {foreign}"
    if package == "dr_lib" and path.name != "backend.py":
        assert not names & BACKEND_ONLY, "framework-specific code belongs in network/backend.py"


@by_path
def test_a_file_can_be_read_in_one_sitting(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    wide = [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
    assert not wide, f"lines of over {COLUMNS} columns: {wide}"


def test_of_the_science_storage_knows_the_words_only():
    known = {
        used
        for name, uses in IMPORTS.items()
        if name.startswith("storage")
        for used in uses
        if used.startswith("dr_lib")
    }
    assert known <= {"dr_lib.vocabulary"}


UNITS = {60, 3600, 1000, 1024, 1e6, 1e9, 1 << 20, 1 << 30}


def formatted_by_hand(source: str) -> list[str]:
    """What `dr_lib.formatting` does and a module does itself: percentages, minutes, megabytes and
    true minus signs within an f-string.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FormattedValue):
            form = ast.unparse(node.format_spec) if node.format_spec else ""
            scaled = [
                inner
                for inner in ast.walk(node.value)
                if isinstance(inner, ast.BinOp)
                and isinstance(inner.op, (ast.Div, ast.FloorDiv))
                and ast.unparse(inner.right) in {*map(str, UNITS), "2 ** 10", "2 ** 20", "2 ** 30"}
            ]
            if scaled or form.rstrip("'\"").endswith("%"):
                found.append(ast.unparse(node.value))
        elif isinstance(node, ast.Call) and ast.unparse(node).endswith(".replace('-', '−')"):
            found.append(ast.unparse(node))
    return found


@by_path
def test_values_are_written_for_people_by_one_module(path):
    if path.relative_to(ROOT).as_posix() != "dr_lib/formatting.py":
        assert not formatted_by_hand(path.read_text(encoding="utf-8"))


def test_what_is_formatted_by_hand_is_seen():
    assert formatted_by_hand('f"{share:.0%} of all"') == ["share"]
    assert formatted_by_hand('f"{size / 2**20:,.1f} MiB"') == ["size / 2 ** 20"]
    assert formatted_by_hand('f"{seconds // 60} min"') == ["seconds // 60"]
    assert len(formatted_by_hand('f"{x:+.2f}".replace("-", "−")')) == 1
    assert formatted_by_hand('f"{count:,} of {total}, {x / 2:.2f}"') == []


def test_science_never_imports_its_presentation():
    presentation = ("dr_lib.drawing", "dr_lib.report")
    arrows = [
        (name, used)
        for name, uses in IMPORTS.items()
        if name.startswith("dr_lib.") and not name.startswith(presentation)
        for used in uses
        if used.startswith(presentation)
    ]
    assert not arrows


def test_no_step_imports_another_and_what_steps_share_imports_none():
    arrows = []
    for name, uses in IMPORTS.items():
        package, _, rest = name.partition(".")
        folder = rest.split(".")[0]
        for used in uses:
            other = used.split(".")[1] if used.startswith("tasks.") else ""
            if package == "tasks" and other in STEPS and other != folder:
                arrows.append((name, used))
    assert not arrows
    folders = {path.name for path in (ROOT / "tasks").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == STEPS.keys() | SHARED_BY_STEPS


def test_storage_is_built_floor_upon_floor():
    arrows = []
    for name, uses in IMPORTS.items():
        if not name.startswith("storage."):
            continue
        floor = STORAGE_FLOORS[name.split(".")[1]]
        for used in uses:
            folder = used.split(".")[1] if used.startswith("storage.") else name.split(".")[1]
            below = STORAGE_FLOORS[folder] < floor or folder == name.split(".")[1]
            if not below:
                arrows.append((name, used))
    assert not arrows


def test_there_is_no_circle_of_modules():
    left = {name: set(uses) for name, uses in IMPORTS.items()}
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    assert not left, "these import one another, or lead to a circle"


def test_a_folder_is_no_drawer():
    for package, loose in LOOSE_MODULES.items():
        found = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert found <= loose, f"{package}: {found - loose} belong into a folder"
    for folder in {path.parent for path in modules()}:
        assert len(list(folder.glob("*.py"))) - 1 <= MOST_MODULES_IN_A_FOLDER, folder


def test_science_knows_no_drawing():
    presentation = ("drawing", "report")
    for path in (ROOT / "dr_lib").rglob("*.py"):
        if path.relative_to(ROOT / "dr_lib").parts[0] not in presentation:
            source = path.read_text()
            assert not any(
                f"dr_lib.{name}" in source or f"import {name}\n" in source for name in presentation
            ), path


PLACES = ("catalog", "fundus", "models", "explanations", "tables", "report", ".locks", ".scratch")
FILES = ("workspace.json", "model.json", "explanation.json", "catalog.sql", "catalog.duckdb")
ASKS_FOR_A_PATH = {"names", "walk", "exists", "read", "read_json", "write", "write_json", "remove"}


def workspace_paths(source: str) -> list[str]:
    """The texts in a module that are a path of the workspace: `models/…`, or a folder's name that
    is given to a method of `Files`.
    """
    tree = ast.parse(source)
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (node.value.startswith(tuple(f"{place}/" for place in PLACES)) or node.value in FILES)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ASKS_FOR_A_PATH:
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found += [name for name in names if name in PLACES]
    return found


@by_path
def test_paths_of_the_workspace_are_made_in_one_module(path):
    if name_of(path) != "storage.layout":
        assert not workspace_paths(path.read_text(encoding="utf-8"))


def test_paths_are_found_in_text_and_in_calls():
    source = 'f"models/{model_id}/x"; "tables/runs"; "model.json"; "fundus"'
    assert set(workspace_paths(source)) == {"models/", "tables/runs", "model.json"}
    assert workspace_paths('files.names("explanations")') == ["explanations"]


def test_the_arrows_are_read_from_the_text():
    """The reader above sees imports inside functions and refuses relative ones."""
    assert imported_packages(
        "def f():\n    from storage.tables.parts import x\n    import keras.ops"
    ) == {"storage", "keras"}
    assert imported_packages("from . import x") == {"(relative)"}
