"""The command: exit codes, one-line errors, and nothing heavy imported before it is needed."""

import os
import pathlib
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import flows.cli.main
from flows.cli.main import app
from flows.config import load_config
from flows.registry import STEPS

DEMO = pathlib.Path(__file__).parents[2] / "deployments" / "demo.toml"


def dr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "plan",
        "serve",
        "status",
        "verify",
        "gc",
        "sql",
        "show",
        "compare",
        "export",
        "synthesise",
        *STEPS,
    ],
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
    ((names, config, settings),) = asked
    assert names == [command]
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
        (("run", DEMO, "--set", "data.photos=/nowhere"), "is not there"),
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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_that_is_not_utf8_is_printed_to_all_the_same(tmp_path, encoding):
    (tmp_path / "wörk").mkdir()
    program = (
        "import sys\nfrom flows.cli import main as cli, printing\ncli.app = lambda: (printing.print_rows([{'κ':"
        " '0.8 (0.7–0.9) × ≥ é', 'path': sys.argv[1]}]), print('–', file=sys.stderr))\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "wörk")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(DEMO.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode(encoding)
    shown = {
        "ascii": "0.8 (0.7-0.9) x >= \\xe9",
        "cp1252": "0.8 (0.7–0.9) × >= é",
        "utf-8": "0.8 (0.7–0.9) × ≥ é",
    }
    assert shown[encoding] in printed
    assert ("w\\xf6rk" if encoding == "ascii" else "wörk") in printed
    assert done.stderr.decode(encoding).strip() == ("-" if encoding == "ascii" else "–")


@pytest.mark.parametrize(
    "command",
    [(), *((name,) for name in ("run", "plan", "serve", "status", "sql", "show", "synthesise"))],
)
def test_help_is_printed_to_a_terminal_that_knows_ascii_only(command):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *command, "--help"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(DEMO.parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage" in done.stdout


def test_a_backend_of_keras_that_cannot_serve_is_wrong_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for command in ("run", "plan", "train"):
        result = dr(command, DEMO, "--set", f"data.photos={tmp_path}")
        assert result.exit_code == 2
        assert "KERAS_BACKEND = torch" in result.output


def readers() -> dict[str, list[str]]:
    """Every command that is given a workspace: its other arguments, and the options by which it
    would write.
    """
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        if any(one.name == "workspace" for one in command.params):
            needed = [
                word
                for one in command.params
                if one.required and one.name != "workspace"
                for word in (
                    [one.opts[0], "coco"] if one.opts[0] == "--regions" else ["from photos"]
                )
            ]
            writing = {"--repair", "--delete-old"} & {
                opt for one in command.params for opt in one.opts
            }
            found[name] = [*needed, *writing]
    return found


@pytest.mark.parametrize("place", ["absent", "empty", "photos"])
@pytest.mark.parametrize("name", readers())
def test_a_workspace_that_is_not_there_is_one_line_and_is_not_made(tmp_path, name, place):
    """Neither is a folder of something else a workspace."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos" / "train").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    result = dr(name, tmp_path / place, *readers()[name])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"dr: there is no workspace at {tmp_path / place}: check the place")
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_all_commands_that_read_a_workspace_are_tried_on_one_that_is_not_there():
    assert set(readers()) >= {"status", "verify", "gc", "sql", "show", "compare", "export"}


@pytest.mark.parametrize("place", ["memory://nowhere/dr", "unknown://bucket/dr"])
def test_a_workspace_at_a_url_that_holds_none_is_one_line(place):
    result = dr("status", place)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert place in line
    assert "check the place" in line


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
