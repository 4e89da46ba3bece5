"""Who can reach the servers that `dr` starts, Prefect's and that of the reports, and the password
they ask for.

Both follow Prefect's own settings, so whoever may see the one page may see the other.
"""

import ipaddress
import socket
import sys
from typing import Any

ANY = {
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
}  # addresses that stand for all of a machine's, and one where it answers


def setting(name: str) -> Any:
    """The value of a setting of Prefect's, which is imported only then."""
    import prefect.settings

    return getattr(prefect.settings, name).value()


def host() -> str:
    """Where the servers listen: Prefect's PREFECT_SERVER_API_HOST, for this machine alone unless
    set.
    """
    return setting("PREFECT_SERVER_API_HOST") or "127.0.0.1"


def password() -> str:
    """`user:password` that the servers ask for, empty for none: that of Prefect's server, or
    what its clients give.
    """
    names = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
    return next(filter(None, map(setting, names)), "")


def address(port: int, name: str = "") -> str:
    """Where this machine finds a server of ours; name: of the machine, by which others find it."""
    name = name or ANY.get(host(), host())
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def address_for_others(port: int) -> str:
    """Where a browser finds it: by this machine's name where a server listens at all addresses."""
    return address(port, socket.gethostname() if host() in ANY else "")


def listener(port: int) -> socket.socket:
    """A socket that listens there (0: at a free port). Raises OSError if it cannot."""
    family = socket.AF_INET6 if ":" in host() else socket.AF_INET
    return socket.create_server((host(), port), family=family)


def exposed(what: str) -> str:
    """What is to be said loudly where others can reach `what` without a password; empty where
    nobody can.
    """
    if password() or _is_loopback(host()):
        return ""
    return (
        f"{what} can be seen by EVERYBODY ON THE NETWORK, WITHOUT A PASSWORD"
        f" (PREFECT_SERVER_API_HOST = {host()}); set PREFECT_SERVER_API_AUTH_STRING=user:password,"
        " or unset PREFECT_SERVER_API_HOST"
    )


def warn_if_exposed(what: str) -> None:
    """Says so on the terminal."""
    if warning := exposed(what):
        print(f"dr: WARNING: {warning}", file=sys.stderr, flush=True)


def _is_loopback(name: str) -> bool:
    try:
        addresses = socket.getaddrinfo(name, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(sockaddr[0]).is_loopback for *_, sockaddr in addresses)
