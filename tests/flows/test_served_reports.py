"""The reports that `dr serve` shows to browsers: to whom, and which files."""

import base64
import contextlib
import os
import pathlib
import socket
import urllib.error
import urllib.request

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_HOST,
    temporary_settings,
)

from flows.service.report_pages import report_pages

ASKS = (  # what makes a browser ask
    b'Basic realm="The password of Prefect\'s server", charset="UTF-8"'
)
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def workspace(tmp_path) -> pathlib.Path:
    """Two reports, the second one newer, beside what is nobody's business; links out of the
    reports and within them.
    """
    report = tmp_path / "eyes" / "report"
    for age, name in ((100, "first"), (0, "second")):
        (report / name / "assets").mkdir(parents=True)
        (report / name / "index.html").write_text(f"<html>{name}", encoding="utf-8")
        (report / name / "assets" / "eye.png").write_bytes(b"an eye")
        made = (report / name / "index.html").stat().st_mtime - age
        os.utime(report / name / "index.html", (made, made))
    (tmp_path / "eyes" / "models").mkdir()
    (tmp_path / "eyes" / "models" / "secret").write_text("a secret", encoding="utf-8")
    (report / "models").symlink_to(tmp_path / "eyes" / "models")
    (report / "secret").symlink_to(tmp_path / "eyes" / "models" / "secret")
    (report / "linked").mkdir()
    (report / "linked" / "index.html").symlink_to(tmp_path / "eyes" / "models" / "secret")
    (report / "within").symlink_to(report / "first")
    return tmp_path / "eyes"


def asked(address: str, password: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(address, method=method)
    if password is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    try:
        with DIRECTLY.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("WWW-Authenticate", "").encode()


@contextlib.contextmanager
def served(workspace, **settings):
    names = {
        "host": PREFECT_SERVER_API_HOST,
        "password": PREFECT_SERVER_API_AUTH_STRING,
        "ours": PREFECT_API_AUTH_STRING,
    }
    with (
        temporary_settings(
            {names[name]: value for name, value in settings.items()},
            restore_defaults=set(names.values()),
        ),
        report_pages(str(workspace)) as address,
    ):
        yield address


def test_the_pages_and_pictures_of_reports_are_shown_and_the_newest_comes_first(workspace):
    with served(workspace) as address:
        assert asked(f"{address}/first/index.html") == (200, b"<html>first")
        assert asked(f"{address}/first/") == (200, b"<html>first")
        assert asked(f"{address}/within/assets/eye.png") == (200, b"an eye")
        assert asked(address) == (200, b"<html>second")


@pytest.mark.parametrize(
    "path",
    [
        "/first/assets/",
        "/first/assets",
        "/models/",
        "/models/secret",
        "/secret",
        "/linked/",
        "/linked/index.html",
        "/../models/secret",
        "/%2e%2e/models/secret",
        "/..%2fmodels%2fsecret",
        "/first/%00",
        "/none",
    ],
)
def test_no_folder_is_listed_and_no_link_leads_out(workspace, path):
    with served(workspace) as address:
        assert asked(address + path) == (404, b"")


def test_before_the_first_report_there_is_nothing_to_see(tmp_path):
    with served(tmp_path / "not-yet") as address:
        assert asked(address) == (404, b"")


@pytest.mark.parametrize(
    "given", [{"password": "dr:früh: 1"}, {"ours": "dr:früh: 1"}], ids=["server's", "client's"]
)
def test_the_reports_ask_for_the_password_of_prefects_server(workspace, given):
    with served(workspace, **given) as address:
        for path in ("/", "/first/index.html", "/first/assets/eye.png", "/none"):
            for wrong in (None, "", "dr", "dr:", "dr:früh", "other:früh: 1"):
                assert asked(address + path, wrong) == (401, ASKS)
            assert asked(address + path, method="HEAD") == (401, ASKS)
        assert asked(f"{address}/first/index.html", "dr:früh: 1") == (200, b"<html>first")


@pytest.mark.parametrize(
    ("settings", "loud"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "127.0.0.2"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "password": "dr:secret"}, False),
    ],
    ids=str,
)
def test_reports_that_the_network_can_see_without_a_password_say_so_loudly(
    workspace, capfd, settings, loud
):
    with served(workspace, **settings) as address:
        here = address.replace(socket.gethostname(), "127.0.0.1")
        assert asked(f"{here}/first/index.html", "dr:secret") == (200, b"<html>first")
    said = capfd.readouterr().err
    assert ("WARNING" in said and "PREFECT_SERVER_API_AUTH_STRING" in said) is loud


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2"])
def test_the_address_of_reports_names_the_machine_where_others_can_see_them(
    workspace, monkeypatch, host
):
    monkeypatch.setattr(socket, "gethostname", lambda: "clinic-server")
    name = {"0.0.0.0": "clinic-server"}.get(host, host)
    with served(workspace, host=host) as address:
        assert address.startswith(f"http://{name}:")


def test_reports_are_served_on_ipv6_too(workspace):
    try:
        with served(workspace, host="::1") as address:
            assert address.startswith("http://[::1]:")
            assert asked(address) == (200, b"<html>second")
    except OSError:
        pytest.skip("this machine has no IPv6")
