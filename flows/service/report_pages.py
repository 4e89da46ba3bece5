"""Reports for a browser while `dr serve` runs: a page of http may not link to a file, so Prefect's
page links to here.

Read-only; only `report/` of a workspace in a local folder, nothing else of it.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from storage.files.files import is_url
from tasks.run.artifacts import REPORT_ADDRESS, SERVED_REPORT

PORT = 4201  # beside Prefect's


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *told) -> None:
        """Says nothing: the terminal has the runs' own words."""


@contextlib.contextmanager
def report_pages(workspace: str) -> Iterator[str]:
    """Yields the address of the workspace's reports, empty for one in an object store; tells it
    to the runs started inside.
    """
    if is_url(workspace):
        yield ""
        return
    folder = os.path.abspath(os.path.join(workspace, "report"))
    handler = functools.partial(_Pages, directory=folder)
    host = os.environ.get(
        "PREFECT_SERVER_API_HOST", "127.0.0.1"
    )  # whoever may see Prefect's page may see the reports
    try:
        server = ThreadingHTTPServer((host, PORT), handler)
    except OSError:  # somebody else has the port
        server = ThreadingHTTPServer((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, name="serves the reports", daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    os.environ.update({SERVED_REPORT: folder, REPORT_ADDRESS: address})
    try:
        yield address
    finally:
        for name in (SERVED_REPORT, REPORT_ADDRESS):
            os.environ.pop(name, None)
        server.shutdown()
        thread.join()
        server.server_close()
