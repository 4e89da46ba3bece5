"""A run's own Prefect server lives as long as the run, whatever becomes of it in between."""

import os
import signal
import sys
import time
import urllib.error
import urllib.request

import pytest

import flows.service.server
from flows.service.server import ServerError, history, prefect_server
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
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def stand_in(monkeypatch):
    """Starting Prefect's server takes seconds; what is shown here is that one is started, again
    and stopped.
    """
    monkeypatch.setattr(
        flows.service.server, "_command", lambda port: [sys.executable, "-c", STAND_IN, str(port)]
    )
    monkeypatch.setattr(flows.service.server, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    from prefect.settings import PREFECT_API_URL, temporary_settings

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
