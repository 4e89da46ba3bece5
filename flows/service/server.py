"""One Prefect server for a run: the one `PREFECT_API_URL` names, or else one of our own on this
machine.

A run's own server has a free port and ends with it. `dr serve` has its server at Prefect's usual
port, where a browser finds it again tomorrow, and uses one that runs there already.
"""

import contextlib
import ctypes
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
from collections.abc import Iterator
from typing import IO

from storage.errors import after_failure
from tasks.run.settings import ScheduleParams

START_TIMEOUT_S = (
    300  # a machine busy with training takes minutes for what is done in seconds otherwise
)
SECONDS_BETWEEN_LOOKS = 1
_PR_SET_PDEATHSIG = 1

# Telemetry stays off unless asked for, and the terminal belongs to our own progress bar: Prefect's
# page has the rest.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class ServerError(Exception):
    """The Prefect server did not start; the message says what it printed."""


def be_quiet() -> None:
    """Leaves the terminal to our own words; before Prefect is first imported, or it has set up
    its logging.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def prefect_server(port: int = 0, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Yields the API's address. A server started here is stopped on leaving; its history stays in
    PREFECT_HOME.

    port: where a server of our own listens (0: at a free port); one that answers there already is
    used. environment: variables for a server that is started here.
    """
    be_quiet()
    from prefect.settings import PREFECT_API_URL

    given = PREFECT_API_URL.value()  # from the environment or the user's Prefect profile
    if given:
        with given_server() as api:
            yield api
        return
    there = f"http://127.0.0.1:{port}/api"
    if port and _answers(f"{there}/health"):
        with _used(there):
            yield there
        return
    with (
        tempfile.TemporaryFile() as output,
        _own_server(output, port, environment or {}) as api,
        _used(api),
    ):
        yield api


@contextlib.contextmanager
def given_server() -> Iterator[str]:
    """Yields the address of the server that PREFECT_API_URL or the user's profile names. Raises
    ServerError if none answers.
    """
    be_quiet()
    from prefect.settings import PREFECT_API_URL

    given = PREFECT_API_URL.value()
    if not given:
        raise ServerError(
            "PREFECT_API_URL names no Prefect server; set it, such as to http://127.0.0.1:4200/api"
        )
    if not _answers(f"{given}/health"):
        raise ServerError(
            f"no Prefect server answers at {given}; start it, or unset PREFECT_API_URL to have one"
            " for this run"
        )
    yield given


@contextlib.contextmanager
def _used(api: str) -> Iterator[None]:
    """Inside, Prefect's client, and processes that are started, use this server."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        try:
            yield
        finally:
            with after_failure():
                # the last lines of a run, before the server that keeps them is gone
                APILogHandler().flush()


def service_port() -> int:
    """Where the server of `dr serve` listens: Prefect's PREFECT_SERVER_API_PORT, 4200 unless
    set.
    """
    be_quiet()
    from prefect.settings import PREFECT_SERVER_API_PORT

    return PREFECT_SERVER_API_PORT.value()


def history(schedule: ScheduleParams) -> dict[str, str]:
    """Settings by which a server clears the history of runs that ended more than
    schedule.keep_days ago, once an hour.
    """
    if not schedule.keep_days:
        return {}
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(schedule.keep_days * 24 * 3600),
    }


@contextlib.contextmanager
def _own_server(output: IO[bytes], port: int, environment: dict[str, str]) -> Iterator[str]:
    """Yields the address of a server of this run's own. One that dies meanwhile is started again at
    the same address.

    Its history is in a file, and Prefect's client asks again for a while: so the run never notices.
    Without a server it would stand still for minutes, and then fail. output: a file, since a full
    pipe would stop the server.
    """
    port = port or _free_port()
    api = f"http://127.0.0.1:{port}/api"
    servers, over = [_start(port, output, environment)], threading.Event()

    def keep() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            if servers[-1].poll() is not None:
                servers.append(_start(port, output, environment))

    # Linux ends a process with the thread that started it, so this thread lives until the server is
    # stopped.
    keeper = threading.Thread(target=keep, name="keeps the Prefect server", daemon=True)
    try:
        _wait_until_healthy(servers[-1], f"{api}/health", output)
        keeper.start()
        yield api
    finally:
        over.set()
        if keeper.ident:
            keeper.join()
        with after_failure():
            _stop(servers[-1])


def _start(port: int, output: IO[bytes], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        _command(port),
        stdout=output,
        stderr=subprocess.STDOUT,
        env={
            **environment,
            **os.environ,
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        },
        # Ctrl-C reaches the run alone: it still has to report its end to the server
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _command(port: int) -> list[str]:
    # For this machine alone, unless somebody asks for more in Prefect's own variable: in a
    # container, or behind a proxy.
    host = os.environ.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
    return [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]


def _end_with_parent() -> None:
    """Asks Linux to end this process when the run that started it dies, even by kill -9;
    elsewhere it would live on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(server: subprocess.Popen, address: str, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output.seek(0)
            last_line = output.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ServerError(
                f"the Prefect server ended at once with code {server.returncode}:"
                f" {' '.join(last_line)}"
            )
        if _answers(address):
            return
        time.sleep(0.1)
    raise ServerError(
        f"the Prefect server did not answer within {START_TIMEOUT_S} s; start one with `prefect"
        " server start` and set PREFECT_API_URL"
    )


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def _stop(server: subprocess.Popen) -> None:
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
