"""The command: exit codes, one-line errors, and nothing heavy imported before it is needed."""

import pathlib
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import flows.cli.main
from flows.cli.main import app
from flows.config import load_config
from flows.registry import STAGES

DEMO = pathlib.Path(__file__).parents[2] / "deployments" / "demo.toml"


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command",
    ["run", "plan", "serve", "status", "verify", "gc", "sql", "show", "synthesise", *STAGES],
)
def test_every_command_of_the_contract_explains_itself(command):
    result = dr(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("command", ["run", "preprocess", "attribute"])
def test_what_was_set_aside_is_tried_again_by_one_option_for_both_steps(command, monkeypatch):
    asked = []
    monkeypatch.setattr(flows.cli.main, "run_flow", lambda *arguments: asked.append(arguments))
    assert dr(command, DEMO, "--retry-set-aside").exit_code == 0
    ((name, config, settings),) = asked
    assert name == command
    assert load_config(config, settings).storage.retry_set_aside
    assert not load_config(config).storage.retry_set_aside


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "none.toml"),
        ("run", DEMO, "--set", "data.lmit=3"),
        ("run", DEMO, "--set", "attribution.neurons=many"),
        ("preprocess", DEMO, "--set", "data.photos=/nowhere"),
        ("synthesise", "somewhere", "--count", "0"),
        ("frobnicate",),
    ],
)
def test_wrong_usage_ends_with_2(arguments):
    assert dr(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", DEMO, "--set", "data.lmit=3"), "did you mean data.limit?"),
        (("run", DEMO, "--set", "attribution.neurons=many"), "attribution.neurons"),
        (("run", DEMO, "--set", "data.photos=/nowhere"), "no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_costs_no_heavy_import(arguments, says):
    """TensorFlow, Prefect and Dask take seconds to import; a typing mistake is answered without
    them.
    """
    program = (
        "import sys\nfrom flows.cli.main import app\ntry:\n   "
        f" app({[str(a) for a in arguments]!r})\nexcept SystemExit as end:\n    code ="
        " end.code\nheavy = {'tensorflow', 'keras', 'prefect', 'distributed', 'sklearn',"
        " 'skimage', 'matplotlib'} & set(sys.modules)\nprint(code, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2 []"
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr


def test_a_workspace_that_is_not_there_is_told_not_traced(tmp_path):
    result = dr("show", tmp_path / "none", "10_left")
    assert result.exit_code == 1
    assert "run dr attribute" in result.output
    assert "Traceback" not in result.output


def test_synthesise_draws_once_and_refuses_to_mix_sets(tmp_path):
    folder = tmp_path / "photos"
    assert dr("synthesise", folder, "--count", 3, "--largest-px", 600).exit_code == 0
    photo = folder / "train" / "1_left.jpeg"
    before = photo.read_bytes()
    photo.unlink()
    again = dr("synthesise", folder, "--count", 3, "--largest-px", 600)
    assert '"drawn_now": 1' in again.output
    assert photo.read_bytes() == before
    other = dr("synthesise", folder, "--count", 4, "--largest-px", 600)
    assert other.exit_code == 1
    assert "other settings" in other.output
