"""A run's own Prefect server lives as long as the run, whatever becomes of it in between."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_HOST,
    temporary_settings,
)

import flows.service.server
from flows.service import network
from flows.service.server import given_server, history, prefect_server
from flows.service.server_end import ServerError
from tasks.run.settings import ScheduleParams

# Answers as Prefect's server does when asked how it is, and says who it is.
STAND_IN = """
import http.server, os, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *told):
        pass
http.server.HTTPServer((sys.argv[2], int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Starting Prefect's server takes seconds; what is shown here is that one is started, again
    and stopped.
    """
    monkeypatch.setattr(
        flows.service.server,
        "_command",
        lambda port: [sys.executable, "-c", STAND_IN, str(port), network.host()],
    )
    monkeypatch.setattr(flows.service.server, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def pid_of(api: str) -> int | None:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
            return int(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_is_killed_is_started_again_at_its_address_and_ends_with_the_run(stand_in):
    with prefect_server() as api:
        first = pid_of(api)
        for _ in range(2):
            before = pid_of(api)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: pid_of(api) not in (None, before))
        last = pid_of(api)
        assert len({first, last, os.getpid()}) == 3
    assert pid_of(api) is None


def test_what_takes_long_as_well_is_done_while_the_server_starts(stand_in, monkeypatch):
    done, look = [], flows.service.server._wait_until_healthy
    monkeypatch.setattr(
        flows.service.server,
        "_wait_until_healthy",
        lambda *told: (done.append("wait"), look(*told)),
    )
    with prefect_server(meanwhile=lambda: done.append("meanwhile")):
        assert done == ["meanwhile", "wait"]


def test_a_server_that_cannot_start_is_one_line(stand_in, monkeypatch):
    monkeypatch.setattr(
        flows.service.server,
        "_command",
        lambda port: [sys.executable, "-c", "raise SystemExit('no room')"],
    )
    with (
        pytest.raises(ServerError, match=r"the Prefect server ended at once with code 1: no room"),
        prefect_server(),
    ):
        pass


# The last lines of what Prefect's server printed, in each case as it was seen.
ENDS = {
    "sqlite3.OperationalError: unable to open database file\n\nThe above exception was the direct cause\nsqlalchemy.exc.OperationalError: (sqlite3.OperationalError) unable to open database file\n(Background on this error at: https://sqlalche.me/e/20/e3q8)\n\nApplication startup failed. Exiting.\nServer stopped!": (
        "unable to open database file",
        "set PREFECT_HOME",
    ),
    "sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) file is not a database\nServer stopped!": (
        "file is not a database",
        "move it away",
    ),
    "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full\nServer stopped!": (
        "disk is full",
        "free some space",
    ),
    "alembic.util.exc.CommandError: Can't locate revision identified by 'abc'\nServer stopped!": (
        "Can't locate revision",
        "another version of Prefect",
    ),
    "ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 5432)\nServer stopped!": (
        "Connect call failed",
        "set PREFECT_API_DATABASE_CONNECTION_URL",
    ),
    "Port 4200 is already in use. Please specify a different port with the `--port`\nflag.": (
        "Port 4200 is already in use",
        "PREFECT_SERVER_API_PORT",
    ),
    "": ("it printed nothing", ""),
}


@pytest.mark.parametrize(("printed", "told"), ENDS.items())
def test_a_server_that_ends_at_once_is_told_with_its_cause_and_the_remedy(
    stand_in, monkeypatch, tmp_path, printed, told
):
    script = f"print({printed!r}); raise SystemExit(3)"
    monkeypatch.setattr(
        flows.service.server, "_command", lambda port: [sys.executable, "-c", script]
    )
    with pytest.raises(ServerError) as error, prefect_server():
        pass
    line = str(error.value)
    assert "\n" not in line
    assert all(words in line for words in told)
    (log,) = tmp_path.glob("prefect-server-*.log")
    assert str(log) in line
    assert log.read_text(encoding="utf-8").strip() == printed


@pytest.fixture
def no_server(stand_in, monkeypatch):
    """What stops a server is seen before one is started."""
    monkeypatch.setattr(
        flows.service.server, "_start", lambda *told: pytest.fail("a server is started")
    )


def test_a_port_that_is_taken_is_told_before_the_start(no_server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        other.settimeout(0)
        with (
            pytest.raises(ServerError, match=f"port {port} is taken.*PREFECT_SERVER_API_PORT"),
            prefect_server(port),
        ):
            pass


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("203.0.113.7", 0, "this machine has no address 203.0.113.7"),
        ("no such host", 0, "this machine has no address no such host"),
        ("127.0.0.1", 70000, "there is no port 70000"),
    ],
)
def test_a_place_where_nothing_can_listen_is_told_before_the_start(
    no_server, monkeypatch, host, port, told
):
    monkeypatch.setattr(flows.service.server, "_answers", lambda address: False)
    with (
        temporary_settings({PREFECT_SERVER_API_HOST: host}),
        pytest.raises(ServerError, match=told),
        prefect_server(port),
    ):
        pass


def test_a_home_that_cannot_be_written_is_told_before_the_start(no_server, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    home = tmp_path / "file" / "prefect"
    settings = {
        PREFECT_HOME: home,
        PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{home}/prefect.db",
    }
    with (
        temporary_settings(settings),
        pytest.raises(
            ServerError, match=r"cannot be written \(Not a directory\); set PREFECT_HOME"
        ),
        prefect_server(),
    ):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_server_on_this_machine_is_found_at_once_whatever_proxy_there_is(
    stand_in, monkeypatch, capfd, host, proxy
):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(
        proxy, "socks5://127.0.0.1:9" if proxy == "ALL_PROXY" else "http://127.0.0.1:9"
    )
    monkeypatch.setattr(flows.service.server, "START_TIMEOUT_S", 60)
    with temporary_settings({PREFECT_SERVER_API_HOST: host}), prefect_server() as api:
        assert pid_of(api)
        httpx.get(f"{api}/health").raise_for_status()
    assert ("WARNING" in capfd.readouterr().err) is (host == "0.0.0.0"), (
        "it is open to the network without a password"
    )


def test_a_given_server_that_a_proxy_hides_is_told_with_the_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with (
        temporary_settings({PREFECT_API_URL: "http://prefect.example.org:4200/api"}),
        pytest.raises(
            ServerError,
            match=r"through the proxy http://…@127.0.0.1:9 .*add prefect.example.org to NO_PROXY",
        ),
    ):
        given_server()


@pytest.mark.parametrize("given", [PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING])
def test_a_server_of_ours_and_its_clients_have_one_password(stand_in, monkeypatch, given):
    tells = STAND_IN.replace("str(os.getpid())", "os.environ['PREFECT_SERVER_API_AUTH_STRING']")
    monkeypatch.setattr(
        flows.service.server,
        "_command",
        lambda port: [sys.executable, "-c", tells, str(port), network.host()],
    )
    with temporary_settings({given: "dr:secret"}), prefect_server() as api:
        assert PREFECT_API_AUTH_STRING.value() == "dr:secret"
        with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
            assert answer.read() == b"dr:secret"


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ({}, "asks for a password"),
        ({PREFECT_API_AUTH_STRING: "dr:wrong"}, "takes another password"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_one_line(ours, says):
    class Locked(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith("/health") else 401)
            self.end_headers()

        def log_message(self, *told):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Locked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = f"http://127.0.0.1:{server.server_port}/api"
    with (
        temporary_settings({PREFECT_API_URL: api, **ours}),
        pytest.raises(ServerError, match=f"{says}; set PREFECT_API_AUTH_STRING"),
    ):
        given_server()
    server.shutdown()
    server.server_close()


def test_a_setting_that_prefect_cannot_read_is_one_line(tmp_path):
    environment = {**os.environ, "PREFECT_SERVER_API_PORT": "many", "PREFECT_HOME": str(tmp_path)}
    program = (
        "from flows.service.server import ServerError, prepare_prefect\ntry:\n    prepare_prefect()\nexcept"
        " ServerError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith(
        "Prefect cannot read its settings: PREFECT_SERVER_API_PORT = many: "
    )
    assert done.stdout.count("\n") == 1


def test_a_server_of_ours_clears_its_history_by_the_setting(monkeypatch):
    from prefect.settings import Settings

    for name, value in history(ScheduleParams(keep_days=30)).items():
        monkeypatch.setenv(name, value)
    cleared = Settings().server.services.db_vacuum
    assert cleared.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert cleared.retention_period.days == 30
    assert history(ScheduleParams(keep_days=0)) == {}


def test_dr_serve_uses_a_server_that_answers_at_its_port(stand_in):
    with prefect_server() as api:
        port = int(api.split(":")[2].split("/")[0])
        before = pid_of(api)
        with prefect_server(port) as used:
            assert used == api
        assert pid_of(api) == before, "it is not ours to end"
