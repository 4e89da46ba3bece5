"""Every benchmark runs through on next to nothing, so that it is not found broken when its numbers
are wanted.

What they start as processes of their own runs here instead: each would import TensorFlow and start
a Prefect server.
"""

import contextlib
import importlib
import io
import json
import math
import pathlib
import sys
import types

import dask
import pytest
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

import dr_lib.network.backend
import dr_lib.network.model
import flows.service.server
import tasks.attribute.step
from dr_lib.network.model import BACKBONES
from dr_lib.network.small import small_trunk
from flows.cli.main import app
from tasks.attribute.step import attribute
from tasks.run.session import Session
from tests import chromium
from tests.flows.explainable import image_ids, prepare, write_config
from tests.flows.inline import InlinePool, run_here

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


def as_it_is(function):
    """In the place of compiling a function, which takes longer than a few calls of it."""
    return function


@pytest.fixture(scope="module")
def explained(tmp_path_factory, tiny_trunk):
    """The file of a configuration whose workspace has fundi, a model and explanations. Not to be
    written to.
    """
    folder = tmp_path_factory.mktemp("benchmarks")
    config_file = write_config(folder, size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dr_lib.network.backend, "compiled", as_it_is)
        config, workspace = prepare(config_file, image_ids(5))  # one of each stage
        run_here(patch, tasks.attribute.step)
        attribute(Session(workspace, InlinePool()), config.recipe, config.storage)
    return config_file


@pytest.fixture
def benchmark(monkeypatch, tiny_trunk, capsys):
    """Runs a benchmark as its program would be called; returns its exit code and what it
    printed.
    """
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(dr_lib.network.backend, "compiled", as_it_is)

    def run(name: str, *arguments: object, **constants: object) -> tuple[int, str]:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return module.main() or 0, capsys.readouterr().out

    return run


@pytest.fixture
def one_server(monkeypatch, prefect_server):
    """The session's Prefect server stands for those that benchmarks start."""
    monkeypatch.setattr(
        flows.service.server,
        "prefect_server",
        lambda **options: contextlib.nullcontext(PREFECT_API_URL.value()),
    )


@pytest.fixture
def workers(tiny_trunk, warm_start):
    """Dask's workers are quick to start, and have the trunk that this process has."""
    with dask.config.set({**warm_start, "distributed.worker.preload": ["tests.flows.kills"]}):
        yield


def test_attribution(benchmark, monkeypatch):
    parts, sides = (
        importlib.import_module("attribution_parts"),
        importlib.import_module("attribution_sides"),
    )

    class SideHere(sides.Side):
        def _start(self):
            self.process = types.SimpleNamespace(is_alive=lambda: True)
            self.side = importlib.import_module(self.module).Side(**self.setup)

        def ask(self, question, **arguments):
            if self.process is None:
                self._start()
            return getattr(self.side, question)(**arguments)

        def close(self):
            self.process = None

    engine = importlib.import_module("attribution_engine")
    rate = engine.matrix_rate
    monkeypatch.setattr(engine, "matrix_rate", lambda: rate(64))
    monkeypatch.setattr(parts, "Side", SideHere)
    few = (
        "--layers",
        "stem",
        "--points",
        2,
        "--neurons",
        2,
        "--eyes",
        1,
        "--share-eyes",
        1,
        "--longest",
        8,
        "--reference",
        8,
    )
    few += ("--captum-neurons", 1, "--max-points", 16, "--memory-points", 2, 4)
    code, said = benchmark("attribution", "--quick", "--without-captum", *few)
    assert (code, "FAILED" in said) == (0, False), said


def test_device(benchmark, explained, tmp_path):
    few = ("--eyes", 1, "--layers", "stem", "--steps", 6, "--without-captum")
    written = tmp_path / "device.json"
    workspace = explained.parent / "workspace"
    code, said = benchmark("device", workspace, *few, "--json", written)
    assert code == 0
    assert "complete eye" in said
    assert json.loads(written.read_text())["parts"]["stem"]["share"] > 0


def test_codecs(benchmark, explained):
    code, said = benchmark("codecs", explained.parent / "workspace", "--images", 1, "--repeats", 1)
    assert code == 0
    assert "open_zarr" in said


@pytest.mark.skipif(chromium.CHROMIUM is None, reason=chromium.MISSING)
def test_gallery(benchmark):
    code, said = benchmark(
        "gallery", "--eyes", 40, "--runs", 1, FIRST_VIEW_S=math.inf, FILTER_S=math.inf
    )
    assert code == 0
    assert said.startswith("40 eyes")


def test_localisation(benchmark, tmp_path, drawn_photos, monkeypatch):
    def small(backbone, weights, dense, size):
        return dr_lib.network.model.ModelParams("small", weights, dense, size)

    monkeypatch.setitem(BACKBONES, "small", small_trunk((8, 8, 8)))  # Grad-CAM looks at mixed2
    weights = tmp_path / "small.weights.h5"
    dr_lib.network.model.build(small("", "none", (8,), 32)).save_weights(weights)
    places = (
        "--photos",
        drawn_photos / "train",
        "--masks",
        drawn_photos / "masks",
        "--overlays",
        tmp_path / "overlays",
    )
    sizes = (
        "--limit",
        3,
        "--size",
        32,
        "--dense",
        8,
        "--layers",
        "stem",
        "--cams",
        "mixed2",
        "--points",
        2,
        "--poses",
        1,
        "--sigma",
        1,
    )
    code, _ = benchmark(
        "localisation", tmp_path / "out.csv", weights, *places, *sizes, ModelParams=small
    )
    assert code == 0
    assert "pixel_auc" in (tmp_path / "out.csv").read_text()
    assert list((tmp_path / "overlays").iterdir())


@pytest.mark.filterwarnings(
    "ignore:Logger 'prefect.task_runs':UserWarning"
)  # its steps are in no flow
def test_memory(one_server, workers, capsys):
    importlib.import_module("tests.benchmarks.memory").measure(4)
    assert len(capsys.readouterr().out.splitlines()[-1].split()) == 5


def test_preprocess(benchmark, drawn_photos):
    code, said = benchmark(
        "preprocess", drawn_photos / "train", "--repeats", 1, "--limit", 2, "--size", 64
    )
    assert code == 0
    assert "median" in said


def test_queries(benchmark):
    code, said = benchmark("queries", "--images", 64, "--repeats", 1, TARGET_S=math.inf)
    assert code == 0
    assert "all twenty" in said


def test_rehearsal(benchmark, one_server, workers, tmp_path, monkeypatch):
    notes = {"REHEARSAL_NOTES": str(tmp_path / "notes"), "REHEARSAL_REAL": "2"}
    for name in (
        *notes,
        "DASK_DISTRIBUTED__WORKER__PRELOAD",
        "PREFECT_HOME",
        "XDG_CACHE_HOME",
        "PREFECT_API_URL",
    ):
        monkeypatch.setenv(name, "")  # set there, and put back here
    with dask.config.set(
        {
            "distributed.nanny.environ": notes,
            "distributed.worker.preload": ["tests.flows.kills", "tests.benchmarks.stub_engine"],
        }
    ):
        sizes = (
            "--images",
            6,
            "--size",
            32,
            "--real",
            2,
            "--shard-images",
            2,
            "--tables",
            "--folder",
            tmp_path,
        )
        code, said = benchmark("rehearsal", *sizes)
    assert code == 0
    assert "once more: 0 new images" in said


def test_schemes(benchmark, explained, tmp_path):
    code, said = benchmark(
        "schemes", explained.parent / "workspace", tmp_path, "--eyes", 1, "--maps", 1, "--grid", 16
    )
    assert code == 0
    assert "gauss_legendre" in said


def test_throughput(benchmark, explained, one_server, workers):
    module = importlib.import_module("tests.benchmarks.throughput")

    class Bare:
        """A bare process, which is this one."""

        def __init__(self, command, **options):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                module.main(command[3:])
            self.communicate = lambda: (said.getvalue(), None)

    def dr(command, **options):
        ended = CliRunner().invoke(app, command[3:])
        return types.SimpleNamespace(returncode=ended.exit_code, stderr=ended.output)

    here = types.SimpleNamespace(run=dr, Popen=Bare, PIPE=None, DEVNULL=None)
    code, said = benchmark(
        "throughput", explained, "--images", 2, "--workers", 1, "--repeats", 1, subprocess=here
    )
    assert code == 0
    assert "times as fast" in said


def test_training(benchmark, explained):
    arguments = (explained.parent / "workspace", "--backbone", "small", "--steps", 2)
    code, said = benchmark("training", *arguments, BLOCK=2, LEFT_OUT=1)
    assert code == 0
    assert "tf.data" in said
