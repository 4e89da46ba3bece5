"""Reports for a browser while `dr serve` runs: a page of http may not link to a file, so Prefect's
page links to here.

Read-only; only the files in `report/` of a workspace in a local folder, nothing else of it, and no
list of what there is. Asks for the password of Prefect's server where that has one.
"""

import base64
import contextlib
import functools
import hmac
import http
import os
import socket
import sys
import threading
from collections.abc import Generator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from flows.service import network
from storage.files.files import is_url
from storage.layout import REPORT
from tasks.run.artifacts import REPORT_ADDRESS, SERVED_REPORT

PORT = 4201  # beside Prefect's


class _Pages(SimpleHTTPRequestHandler):
    """Answers GET and HEAD alone; both come through `send_head`. password: `user:password`,
    empty for none.
    """

    def __init__(self, *request, directory: str, password: str):
        self.password = password
        super().__init__(*request, directory=directory)

    def send_head(self):
        if not self._may_read():
            self.send_response(http.HTTPStatus.UNAUTHORIZED)
            self.send_header(
                "WWW-Authenticate",
                'Basic realm="The password of Prefect\'s server", charset="UTF-8"',
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        root, place = Path(self.directory), Path(self.translate_path(self.path))
        if not all(_stays_inside(root, place / name) for name in ("", "index.html", "index.htm")):
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return None
        if place == root and (newest := _newest_report(root)):
            self.send_response(http.HTTPStatus.FOUND)
            self.send_header("Location", f"/{newest}/index.html")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return super().send_head()

    def list_directory(self, path) -> None:
        """A folder without a page of its own is no page at all."""
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal has the runs' own words."""

    def _may_read(self) -> bool:
        if not self.password:
            return True
        wanted = base64.b64encode(self.password.encode())
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), wanted)


def _stays_inside(root: Path, place: Path) -> bool:
    """Whether no link on the way to `place` leads out of `root`."""
    try:
        return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a null byte, which no path has
        return False


def _newest_report(root: Path) -> str:
    """The folder of the report that was made last; empty before the first."""
    pages = [page for page in root.glob("*/index.html") if _stays_inside(root, page)]
    return max(pages, key=lambda page: page.stat().st_mtime).parent.name if pages else ""


class _Server(ThreadingHTTPServer):
    """On IPv6 too, where that is what the host is."""

    def __init__(self, host: str, port: int, handler):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family, address = found[0], found[-1]
        super().__init__(cast("tuple[str, int]", address), handler)


@contextlib.contextmanager
def report_pages(workspace: str) -> Generator[str]:
    """Yields the address of the workspace's reports, empty for one in an object store; tells it
    to the runs started inside.
    """
    if is_url(workspace):
        yield ""
        return
    folder = os.path.abspath(os.path.join(workspace, REPORT))
    if warning := network.exposed("the reports, with patients' photographs,"):
        print(f"dr: WARNING: {warning}", file=sys.stderr, flush=True)
    handler = functools.partial(_Pages, directory=folder, password=network.password())
    try:
        server = _Server(network.host(), PORT, handler)
    except OSError:  # somebody else has the port
        server = _Server(network.host(), 0, handler)
    thread = threading.Thread(target=server.serve_forever, name="serves the reports", daemon=True)
    thread.start()
    address = network.address(server.server_port)
    os.environ.update({SERVED_REPORT: folder, REPORT_ADDRESS: address})
    try:
        yield address
    finally:
        for name in (SERVED_REPORT, REPORT_ADDRESS):
            os.environ.pop(name, None)
        server.shutdown()
        thread.join()
        server.server_close()
