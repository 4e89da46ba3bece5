"""`dr doctor`: every check fails for its reason, in one line, with the remedy; a sound machine
passes.
"""

import http.server
import importlib.metadata
import pathlib
import shutil
import threading

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_HOST,
    temporary_settings,
)
from typer.testing import CliRunner

from flows.cli.main import app
from flows.service.doctor import prefect
from storage import open_workspace
from tasks.execution import system_checks as machine
from tasks.execution.gpu import Gpu
from tasks.execution.pool import WORKER_BASE_BYTES
from tasks.run.settings import DaskParams

GIB = WORKER_BASE_BYTES


def installed(**versions):
    def version_of(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return version_of


@pytest.mark.parametrize(
    ("finding", "verdict", "found", "remedy"),
    [
        (lambda: machine.python_version((3, 11, 4)), "ok", "3.11.4", ""),
        (lambda: machine.python_version((3, 12, 1)), "ok", "3.12.1", ""),
        (lambda: machine.python_version((3, 13, 0)), "ok", "3.13.0", ""),
        (lambda: machine.python_version((3, 10, 13)), "mend", "3.10.13", "PYTHON=python3.12"),
        (lambda: machine.python_version((3, 14, 0)), "mend", "3.14.0", ">=3.11"),
        (
            lambda: machine.packages(["zarr>=3.1.6,<3.2"], installed(zarr="3.1.7")),
            "ok",
            "1 in the versions",
            "",
        ),
        (
            lambda: machine.packages(["zarr>=3.1.6,<3.2"], installed(zarr="3.2.0")),
            "mend",
            "zarr 3.2.0, not <3.2,>=3.1.6",
            "pip",
        ),
        (
            lambda: machine.packages(["zarr>=3.1.6"], installed()),
            "mend",
            "zarr is not installed",
            "constraints.txt",
        ),
        (lambda: machine.packages(['jax>=9; extra == "jax"'], installed()), "ok", "0 in", ""),
        (lambda: machine.cores(0, 4), "ok", "4", ""),
        (lambda: machine.cores(9, 4), "note", "4, for 9 workers", "dask.workers = 4"),
        (lambda: machine.memory(2, available=3 * GIB), "ok", "3.2 GB free, for 2 workers", ""),
        (lambda: machine.memory(0, count=1, available=2 * GIB), "ok", "for 1 worker", ""),
        (lambda: machine.memory(8, available=3 * GIB), "mend", "for 8 workers", "dask.workers = 3"),
        (lambda: machine.memory(1, available=GIB // 2), "mend", "536.9 MB", "free some memory"),
        (lambda: machine.disk("/data", 10**9), "mend", "1.0 GB free at /data", "free some space"),
        (lambda: machine.disk("/data", 10**12), "ok", "1,000.0 GB", ""),
        (lambda: machine.gpu(0, []), "ok", "CPU", ""),
        (lambda: machine.gpu("CPU", []), "ok", "none; the CPU computes", ""),
        (lambda: machine.keras(), "ok", "on ", ""),
        (lambda: machine.network("127.0.0.1", ""), "ok", "127.0.0.1", ""),
        (
            lambda: machine.network("0.0.0.0", "EVERYBODY; set a password"),
            "mend",
            "EVERYBODY",
            "set a password",
        ),
        (
            lambda: machine.proxy_settings({"http_proxy": "http://me:secret@proxy:3128"})[0],
            "ok",
            "http://…@proxy:3128, for all but",
            "",
        ),
        (
            lambda: machine.proxy_settings({"ALL_PROXY": "socks5://proxy:1080"})[0],
            "note",
            "speaks socks5",
            "unset it",
        ),
        (lambda: machine.dask(DaskParams()), "ok", "this machine", ""),
        (
            lambda: machine.dask(DaskParams(address="nonsense")),
            "mend",
            "dask.address",
            "tcp://host:8786",
        ),
    ],
)
def test_a_check_says_what_it_found_and_what_to_do(finding, verdict, found, remedy):
    one = finding()
    assert one.verdict == verdict
    assert found in one.found
    assert remedy in one.remedy
    assert bool(one.remedy) == (verdict != "ok")
    assert "\n" not in one.found + one.remedy


@pytest.mark.parametrize(
    ("settings", "found", "remedy"),
    [
        (
            {PREFECT_HOME: pathlib.Path(__file__) / "home"},
            "cannot be written",
            "PREFECT_HOME",
        ),
        (
            {PREFECT_API_URL: "http://127.0.0.1:9/api"},
            "no Prefect server answers at",
            "unset PREFECT_API_URL",
        ),
    ],
)
def test_a_prefect_that_cannot_be_used_is_told(settings, found, remedy):
    with temporary_settings(settings, restore_defaults={PREFECT_API_URL}):
        finding = prefect()
    assert finding.verdict == "mend"
    assert found in finding.found
    assert remedy in finding.remedy


H100 = Gpu("GPU-8a", "NVIDIA H100")


def test_a_gpu_that_the_framework_cannot_use_and_one_that_is_hidden_are_told_apart():
    assert ".[gpu]" in machine.gpu("CPU", [H100], chosen=None).remedy
    assert "unset it" in machine.gpu("CPU", [H100], chosen="").remedy
    usable = machine.gpu("GPU", [H100, H100], chosen=None)
    assert (usable.verdict, usable.found) == ("ok", ", ".join(["NVIDIA H100 (GPU-8a)"] * 2))


@pytest.mark.parametrize(
    ("theirs", "verdict"), [("3.8.1", "ok"), ("3.9.0", "mend"), ("2.20.4", "mend")]
)
def test_a_server_of_another_version_is_told(theirs, verdict):
    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'"{theirs}"'.encode())

        def log_message(self, *told):
            """Says nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Old)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    api = f"http://127.0.0.1:{server.server_port}/api"
    with temporary_settings({PREFECT_API_URL: api}):
        one = prefect(version="3.8.8")
    thread.join()
    server.server_close()
    assert (one.verdict, theirs in one.found) == (verdict, True)


def test_a_server_that_asks_for_a_password_is_asked_with_it_or_told():
    class Locked(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Authorization") == "Basic ZHI6c2VjcmV0"  # dr:secret
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b'"3.8.8"' * known)

        def log_message(self, *told):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Locked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = f"http://127.0.0.1:{server.server_port}/api"
    with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: "dr:secret"}):
        assert prefect(version="3.8.8").verdict == "ok"
    with temporary_settings({PREFECT_API_URL: api}):
        told = prefect(version="3.8.8")
    server.shutdown()
    server.server_close()
    assert (told.verdict, "asks for a password" in told.found) == ("mend", True)
    assert "PREFECT_API_AUTH_STRING" in told.remedy


def test_a_backend_that_cannot_serve_and_a_server_open_to_all_are_told(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with temporary_settings({PREFECT_SERVER_API_HOST: "0.0.0.0"}):
        result = doctor()
    assert result.exit_code == 1
    assert "KERAS_BACKEND = torch" in result.output
    assert "WITHOUT A PASSWORD" in result.output
    assert "2 to mend: Keras, network" in result.output


def test_workers_with_other_packages_are_told():
    told = {
        "client": {
            "packages": {
                "python": "3.11.7",
                "distributed": "2026.8.0",
                "numpy": "2.4.6",
                "cloudpickle": "3",
            }
        },
        "workers": {
            "tcp://a": {
                "packages": {
                    "python": "3.11.7",
                    "distributed": "2026.8.0",
                    "numpy": "2.4.6",
                    "cloudpickle": "3",
                }
            },
            "tcp://b": {
                "packages": {
                    "python": "3.11.7",
                    "distributed": "2026.8.0",
                    "numpy": "2.1.0",
                    "cloudpickle": "3",
                }
            },
        },
    }
    assert machine._version_differences(told) == ["numpy 2.4.6 here, 2.1.0 there"]


def test_a_workspace_is_looked_at_without_leaving_anything(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "not-yet"):
        assert [one.verdict for one in machine.place(open_workspace(tmp_path / name))] == [
            "ok",
            "ok",
        ]
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_workspace_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (one,) = machine.place(open_workspace(tmp_path / "file" / "workspace"))
    assert one.verdict == "mend"
    assert "cannot be written" in one.found


def test_an_object_store_that_refuses_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (one,) = machine.place(open_workspace("s3://nowhere/dr"))
    assert (one.what, one.verdict) == ("object store", "mend")
    assert "AWS_ENDPOINT_URL" in one.remedy


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_a_sound_machine_and_configuration_pass(tmp_path, drawn_photos, tiny_config):
    result = doctor(tiny_config(drawn_photos))
    assert result.exit_code == 0, result.output
    assert "mend" not in result.output
    assert "40 in" in result.output
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.lmit=3"], "did you mean data.limit?"),
        (["data.photos=/nowhere"], "/nowhere is not there: set data.photos"),
        (["schedule.cron=99 * * * *"], "cron's five fields"),
        (["model.backbone_weights=/nowhere.h5"], "no such file"),
        (["dask.address=nonsense"], "tcp://host:8786"),
    ],
)
def test_what_must_be_mended_ends_with_1(drawn_photos, tiny_config, settings, says):
    result = doctor(
        tiny_config(drawn_photos), *(part for setting in settings for part in ("--set", setting))
    )
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output


def test_labels_that_cannot_be_used_are_told(tmp_path, drawn_photos, tiny_config):
    photos = tmp_path / "photos"
    shutil.copytree(drawn_photos, photos)
    (photos / "trainLabels.csv").write_text("eye;grade\n1_left;0\n")
    result = doctor(tiny_config(photos))
    assert result.exit_code == 1
    assert "labels" in result.output
    assert "its first line is" in " ".join(result.output.split())


def test_photographs_that_are_not_there_are_told(tmp_path, tiny_config):
    (tmp_path / "empty").mkdir()
    result = doctor(tiny_config(tmp_path / "empty"))
    assert result.exit_code == 1
    assert "photographs" in result.output
