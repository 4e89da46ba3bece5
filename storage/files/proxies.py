"""The proxies that the environment names, and which requests may go through them: never one to this
machine itself.

Prefect's client, its events, S3's client and Keras' downloads all read the usual variables
(`http_proxy`, `HTTPS_PROXY`, `ALL_PROXY`, …, `no_proxy`). A proxy cannot reach a server that
listens on this machine alone, so what is asked of it there never arrives.
"""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_SCHEMES = ("http", "https", "all", "socks", "ws", "wss")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")


def proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that name a proxy, and what they name.

    >>> proxies({"HTTP_PROXY": "http://proxy:3128", "all_proxy": "", "no_proxy": "localhost"})
    {'HTTP_PROXY': 'http://proxy:3128'}
    """
    names = {f"{scheme}_proxy" for scheme in _SCHEMES}
    return {name: value for name, value in environment.items() if name.lower() in names and value}


def unusable(proxy: str) -> str:
    """Why nothing here can go through this proxy; empty if it can.

    >>> unusable("http://proxy:3128"), unusable("proxy:3128"), unusable("socks5://proxy:1080")
    ('', '', 'speaks socks5, not http')
    >>> unusable("http://proxy:port")
    'is no address'
    """
    try:
        parts = urlsplit(proxy.strip() if "://" in proxy else f"http://{proxy.strip()}")
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        return "is no address"
    return "" if parts.scheme in ("http", "https") else f"speaks {parts.scheme}, not http"


def without_password(proxy: str) -> str:
    """A proxy's address as it may be shown.

    >>> without_password("http://me:secret@proxy:3128"), without_password("proxy:3128")
    ('http://…@proxy:3128', 'proxy:3128')
    """
    scheme, mark, rest = proxy.rpartition("://")
    _, secret, host = rest.rpartition("@")
    return f"{scheme}{mark}…@{host}" if secret else proxy


def ask_directly(*hosts: str) -> None:
    """From now on this process, and those it starts, ask this machine and `hosts` without a proxy.

    A proxy that nothing here can go through is forgotten: Prefect's client would not even start
    with it.
    """
    named = proxies()
    if not named:
        return
    for name, value in named.items():
        if unusable(value):
            del os.environ[name]
        else:
            os.environ[name] = value.strip()
    given = [
        entry.strip().strip("[]")
        for name in _EXCEPTIONS
        for entry in os.environ.get(name, "").split(",")
    ]
    excepted = dict.fromkeys([*filter(_readable, given), *THIS_MACHINE, *hosts])
    os.environ.update(dict.fromkeys(_EXCEPTIONS, "*" if "*" in given else ",".join(excepted)))


def _readable(entry: str) -> bool:
    """Whether Prefect's client can read this entry of `no_proxy`; of a range of IPv6 addresses
    it makes a stack trace.
    """
    if entry.count(":") < 2:
        return bool(entry)
    try:
        ipaddress.IPv6Address(entry)
    except ValueError:
        return False
    return True
