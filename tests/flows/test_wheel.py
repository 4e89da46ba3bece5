"""An install that is not editable holds what the checkout holds, and runs away from it."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

import tasks.train.model_record
from dr_lib.drawing.figures import jpeg
from flows.config import PROFILES, load_config, profiles
from tests.unit.fundus_drawing import Eye

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ("flows", "tasks", "storage", "dr_lib", "deployments")


def pip(*arguments):
    command = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy, since building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        shutil.copytree(
            ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip(
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        folder / "source",
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def run_installed(wheel):
    """Runs a program of an environment that has the wheel and the packages of this one, in a
    folder of its own.
    """
    home = wheel.parent / "environment"
    venv.create(home)
    pip("--python", home / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    # Afterwards: pip would take the checkout, which is installed there as editable, for the wheel.
    (site,) = home.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    )

    def run(program, *arguments, folder, **variables):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        command = [home / "bin" / program, *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment | variables, capture_output=True, text=True
        )

    return run


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    """Whatever folders they are moved to; templates, assets and profiles too."""
    here = {
        str(path.relative_to(ROOT))
        for name in SHIPPED
        for path in (ROOT / name).rglob("[!.]*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as file:
        there = {name for name in file.namelist() if ".dist-info/" not in name}
    assert there == here
    assert {"tasks/__init__.py", "deployments/kaggle.toml"} < here


def test_the_installed_program_runs_a_step_of_a_profile_away_from_the_checkout(
    run_installed, tmp_path, prefect_server
):
    from prefect.settings import PREFECT_API_URL

    (tmp_path / "photos" / "train").mkdir(parents=True)
    names = ["1_left", "1_right"]
    for number, name in enumerate(names):
        eye = Eye(
            height=300,
            width=400,
            centre_y=149.5,
            centre_x=199.5,
            diameter=250.0,
            angle=9.0 * number,
        )
        (tmp_path / "photos" / "train" / f"{name}.jpeg").write_bytes(jpeg(eye.draw(), 90))
    (tmp_path / "photos" / "trainLabels.csv").write_text("image,level\n1_left,0\n1_right,2\n")

    found = run_installed(
        "python",
        "-c",
        "import flows, tasks; print(flows.__file__, tasks.__file__)",
        folder=tmp_path,
    )
    assert str(ROOT) not in found.stdout
    told = run_installed("dr", "--help", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    settings = ("--set", "data.photos=photos", "--set", "workspace=here")
    done = run_installed(
        "dr",
        "ingest",
        "kaggle",
        *settings,
        folder=tmp_path,
        PREFECT_API_URL=PREFECT_API_URL.value(),
    )
    assert done.returncode == 0, done.stderr
    assert "2 photographs of 1 patients" in done.stdout
    assert (tmp_path / "here" / "catalog" / "photos.parquet").exists()


def test_a_profile_goes_by_its_name_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert profiles() == ["demo", "kaggle", "strong", "synthetic"]
    for name in profiles():
        assert load_config(name) == load_config(PROFILES / f"{name}.toml")
    (tmp_path / "strong").mkdir()
    assert load_config("strong").workspace == "workspaces/strong"
    (tmp_path / "demo").write_text('workspace = "mine"\n[data]\nphotos = "p"\n')
    assert load_config("demo").workspace == "mine"


def test_an_installed_copy_has_not_the_commit_of_the_repository_around_it(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    copy = tmp_path / "lib" / "model_record.py"
    copy.parent.mkdir()
    copy.touch()
    for command in (
        ["init", "--quiet"],
        ["commit", "--quiet", "--allow-empty", "--message", "another project"],
    ):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(tasks.train.model_record, "__file__", str(copy))
    assert tasks.train.model_record.git_commit() is None
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    assert tasks.train.model_record.git_commit().endswith("-dirty")
