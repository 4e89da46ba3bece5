"""No proxy of the environment stands between this machine and itself, for any of the clients
that the product uses.
"""

import os
import urllib.request

import httpx
import pytest
from botocore.utils import get_environ_proxies
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from storage import open_workspace
from storage.files.proxies import ask_directly, proxies

PROXY = "http://proxy.example.org:3128"


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of proxies to these alone; what `ask_directly` changes is undone."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def of(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return of


@pytest.mark.parametrize(
    "variables",
    [
        {"http_proxy": PROXY},
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY},
        {"http_proxy": f" {PROXY}"},
        {"http_proxy": PROXY, "NO_PROXY": "hospital.example.org", "no_proxy": ""},
        {"http_proxy": PROXY, "no_proxy": "127.0.0.0/8,[::1]"},
        {"http_proxy": PROXY, "no_proxy": "::1/128"},
        {"http_proxy": PROXY, "no_proxy": "*"},
        {"http_proxy": "http://user:secret@proxy.example.org:port"},
        {"https_proxy": "socks4://proxy.example.org:1080"},
        {"ALL_PROXY": "socks5://proxy.example.org:1080"},
        {"all_proxy": "socks://proxy.example.org:1080/", "http_proxy": PROXY},
        {"socks_proxy": "socks5h://proxy.example.org:1080"},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3"])
def test_this_machine_is_asked_directly_by_every_client(environment, variables, host):
    environment(**variables)
    ask_directly("10.1.2.3")
    address = f"http://{host}:4200/api"
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL(address)) is client._transport
    assert get_proxy(parse_uri(address.replace("http", "ws"))) is None
    if host != "[::1]":  # known to the standard library by a name that httpx cannot read
        assert get_environ_proxies(address) == {}
        assert (
            urllib.request.proxy_bypass(f"{host}:4200") or "http" not in urllib.request.getproxies()
        )


def test_others_are_asked_through_the_proxy_but_for_those_that_the_user_excepted(environment):
    environment(
        HTTPS_PROXY=PROXY,
        NO_PROXY="hospital.example.org",
        ALL_PROXY="socks5://proxy.example.org:1080",
    )
    ask_directly()
    ask_directly()
    assert proxies() == {"HTTPS_PROXY": PROXY}, (
        "a proxy that Prefect's client cannot use is forgotten"
    )
    assert get_environ_proxies("https://s3.amazonaws.com")["https"] == PROXY
    assert get_environ_proxies("https://minio.hospital.example.org") == {}
    assert os.environ["NO_PROXY"].count("127.0.0.1") == 1


def test_an_object_store_on_this_machine_is_asked_directly_by_whoever_opens_the_workspace(
    environment,
):
    environment(http_proxy=PROXY)
    open_workspace("s3://bucket/retina")
    assert get_environ_proxies("http://127.0.0.1:9000/bucket") == {}


def test_without_a_proxy_nothing_is_changed(environment):
    before = dict(os.environ)
    ask_directly("10.1.2.3")
    assert dict(os.environ) == before
