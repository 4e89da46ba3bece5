"""One Prefect server for a run: the one `PREFECT_API_URL` names, or else one of our own on this
machine.

A run's own server has a free port and ends with it. `dr serve` has its server at Prefect's usual
port, where a browser finds it again tomorrow, and uses one that runs there already.
"""

import contextlib
import ctypes
import errno
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from base64 import b64encode
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from flows.service import network
from flows.service.server_end import REMEDIES, ServerError, cause_of_end
from storage.errors import after_failure, one_line
from storage.files.proxies import THIS_MACHINE, ask_directly, without_password
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


def prepare_prefect() -> None:
    """To be called before Prefect is first imported: leaves the terminal to our own words, and has
    servers on this machine asked without a proxy.

    Raises ServerError where Prefect cannot read its settings.
    """
    ask_directly()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # A home that cannot be made is reported where it matters.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
    try:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # its own account of a wrong setting, over several lines
            from prefect.settings import get_current_settings

            get_current_settings()
    except Exception as error:
        raise ServerError(f"Prefect cannot read its settings: {_unreadable(error)}") from None


def _unreadable(error: Exception) -> str:
    """Which of Prefect's settings is wrong, as far as its error tells."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return (
            f"{one_line(error)}; mend Prefect's variables or the file profiles.toml in PREFECT_HOME"
        )
    first = error.errors()[0]
    value, setting = str(first["input"]), ".".join(map(str, first["loc"]))
    names = [
        name for name, given in os.environ.items() if name.startswith("PREFECT_") and given == value
    ]
    return f"{' or '.join(names) or setting} = {value}: {first['msg']}; mend or unset it"


@contextlib.contextmanager
def prefect_server(port: int = 0, meanwhile: Callable[[], object] = lambda: None) -> Generator[str]:
    """The server that PREFECT_API_URL names; without one, a server of our own that is stopped on
    leaving. Its history stays in PREFECT_HOME.

    Parameters
    ----------
    port: where a server of our own listens (0: at a free port); one that answers there already is
        used.
    meanwhile: called in the seconds that such a server takes to start.

    Yields
    ------
    The API's address.

    Raises
    ------
    ServerError: if a server cannot be reached or started; the message says what to do.
    """
    prepare_prefect()
    if network.setting("PREFECT_API_URL"):  # from the environment or the user's Prefect profile
        yield given_server()
        return
    ask_directly(network.host())
    api = f"{network.address(port)}/api"
    if port and _answers(f"{api}/health"):
        server_version(api)  # raises where it does not let us in
        with _as_api(api):
            yield api
        return
    _check_home()
    own_port = _usable_port(port)
    api = f"{network.address(own_port)}/api"
    network.warn_if_exposed("Prefect's page, and whatever it can start,")
    with (
        tempfile.TemporaryFile() as output,
        _own_server(output, own_port, meanwhile),
        _as_api(api),
    ):
        yield api


def given_server() -> str:
    """The address of the server that PREFECT_API_URL or the user's profile names. Raises
    ServerError if none answers.
    """
    prepare_prefect()
    given = network.setting("PREFECT_API_URL")
    if not given:
        raise ServerError(
            "PREFECT_API_URL names no Prefect server; set it, such as to http://127.0.0.1:4200/api"
        )
    server_version(given)
    return given


def server_version(api: str) -> str:
    """The version of Prefect that a server runs.

    Parameters
    ----------
    api: the server's address, such as http://127.0.0.1:4200/api.

    Raises
    ------
    ServerError: if no server answers there, or it does not accept our password.
    """
    password = network.password()
    known = {"Authorization": f"Basic {b64encode(password.encode()).decode()}"} if password else {}
    try:
        return _read(f"{api}/admin/version", **known).decode().strip().strip('"')
    except OSError as error:
        if getattr(error, "code", None) in (401, 403):
            asks = "takes another password" if password else "asks for a password"
            raise ServerError(
                f"the Prefect server at {api} {asks}; set PREFECT_API_AUTH_STRING=user:password"
            ) from None
        raise ServerError(
            f"no Prefect server answers at {api}{_proxy_words(api)}; start it (prefect server"
            " start), or unset PREFECT_API_URL to have one for each run"
        ) from None


def _proxy_words(address: str) -> str:
    """The proxy on the way to an address, in words; empty where there is none."""
    request = urllib.request.Request(address)
    proxy = urllib.request.getproxies().get(request.type)
    if not proxy or urllib.request.proxy_bypass(request.host):
        return ""
    return (
        f" through the proxy {without_password(proxy)} (to ask it directly, add"
        f" {request.host.partition(':')[0]} to NO_PROXY)"
    )


@contextlib.contextmanager
def _as_api(api: str) -> Generator[None]:
    """Inside, Prefect's client, and processes that are started, use this server."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    known = {PREFECT_API_AUTH_STRING: network.password()} if network.password() else {}
    with temporary_settings({PREFECT_API_URL: api, **known}):
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
    prepare_prefect()
    return network.setting("PREFECT_SERVER_API_PORT")


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


def _check_home() -> None:
    """Raises ServerError where the server could not keep its history, before it tries for half a
    minute.
    """
    home = Path(network.setting("PREFECT_HOME"))
    if str(home) not in str(network.setting("PREFECT_API_DATABASE_CONNECTION_URL")):
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise ServerError(
            f"Prefect's folder {home} cannot be written ({error.strerror}); set PREFECT_HOME to a"
            " folder of your own"
        ) from None


def _usable_port(port: int) -> int:
    """The port, or a free one for 0. Raises ServerError where no server can listen."""
    try:
        if port > 65535:
            raise OSError(errno.ERANGE, "no such port")
        with network.listener(port) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        known, name = REMEDIES["port"], errno.errorcode.get(error.errno or 0, "")
        reason = known.get(name, known["other"])
        words = reason.format(host=network.host(), port=port, error=error)
        raise ServerError(f"the Prefect server cannot start; {words}") from None


@contextlib.contextmanager
def _own_server(output: IO[bytes], port: int, meanwhile: Callable[[], object]) -> Generator[None]:
    """Runs a server of this run's own. One that dies meanwhile is started again at the same
    address.

    Its history is in a file, and Prefect's client asks again for a while: so the run never notices.
    Without a server it would stand still for minutes, and then fail. output: a file, since a full
    pipe would stop the server.
    """
    servers, over = [_start(port, output)], threading.Event()

    def keep() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            if servers[-1].poll() is not None:
                servers.append(_start(port, output))

    # Linux ends a process with the thread that started it, so this thread lives until the server is
    # stopped.
    keeper = threading.Thread(target=keep, name="keeps the Prefect server", daemon=True)
    try:
        meanwhile()
        _wait_until_healthy(servers[-1], f"{network.address(port)}/api/health", output)
        keeper.start()
        yield
    finally:
        over.set()
        if keeper.ident:
            keeper.join()
        with after_failure():
            _stop(servers[-1])


def _start(port: int, output: IO[bytes]) -> subprocess.Popen:
    return subprocess.Popen(
        _command(port),
        stdout=output,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            # Also where only the clients' password is set: what they send, a server of ours asks
            # for.
            **(
                {"PREFECT_SERVER_API_AUTH_STRING": network.password()} if network.password() else {}
            ),
            "PREFECT_API_URL": f"{network.address(port)}/api",
            "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        },
        # Ctrl-C reaches the run alone: it still has to report its end to the server
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _command(port: int) -> list[str]:
    command = [sys.executable, "-m", "prefect", "server", "start"]
    return [*command, "--host", network.host(), "--port", str(port)]


def _end_with_parent() -> None:
    """Asks Linux to end this process when the run that started it dies, even by kill -9;
    elsewhere it would live on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_healthy(server: subprocess.Popen, address: str, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(
                f"the Prefect server ended at once with code {server.returncode}:"
                f" {cause_of_end(output)}"
            )
        if _answers(address):
            return
        time.sleep(0.1)
    raise ServerError(
        f"the Prefect server did not answer within {START_TIMEOUT_S} s: {cause_of_end(output)}"
    )


def _answers(address: str) -> bool:
    try:
        _read(address)
    except OSError:
        return False
    return True


def _read(url: str, **headers: str) -> bytes:
    # The standard library knows `[::1]` by a name in NO_PROXY that Prefect's client cannot read, so
    # this machine is asked directly here.
    handlers = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in THIS_MACHINE else []
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.build_opener(*handlers).open(request, timeout=5) as answer:
        return answer.read()


def _stop(server: subprocess.Popen) -> None:
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
