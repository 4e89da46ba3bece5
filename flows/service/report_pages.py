"""Reports for a browser while `dr serve` runs: a page of http may not link to a file, so Prefect's
page links to here.

Read-only; only the files in `report/` of a workspace in a local folder, nothing else of it, and no
list of what there is. Asks for the password of Prefect's server where that has one.
"""

import base64
import contextlib
import hmac
import os
import threading
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from flows.service import network
from storage.files.files import is_url
from storage.layout import REPORT
from tasks.run.artifacts import REPORT_ADDRESS, SERVED_REPORT

PORT = 4201  # beside Prefect's
ASK = {"WWW-Authenticate": 'Basic realm="The password of Prefect\'s server", charset="UTF-8"'}


class _Reports(StaticFiles):
    """The files in the folder `directory`, none that a link leads out of it to; `/` is the newest
    report. password: `user:password`, empty for none.
    """

    def __init__(self, directory: str, password: str) -> None:
        super().__init__(directory=directory, html=True, check_dir=False)
        self.folder, self.password = Path(directory), password

    async def check_config(self) -> None:
        """The folder may be absent: it is made with the first report."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not self._may_read(Request(scope).headers.get("Authorization", "")):
            return Response(status_code=401, headers=ASK)
        if path == "." and (newest := self._newest()):
            return RedirectResponse(f"/{newest}/index.html")
        return await super().get_response(path, scope)

    def _may_read(self, authorization: str) -> bool:
        wanted = base64.b64encode(self.password.encode())
        scheme, _, given = authorization.partition(" ")
        matches = hmac.compare_digest(given.strip().encode(), wanted)
        return not self.password or (scheme.lower() == "basic" and matches)

    def _newest(self) -> str:
        """The folder of the report that was made last; empty before the first."""
        names = [page.parent.name for page in self.folder.glob("*/index.html")]
        pages = {name: self.lookup_path(f"{name}/index.html")[1] for name in names}
        times = {name: page.st_mtime for name, page in pages.items() if page}
        return max(times, key=times.__getitem__, default="")


@contextlib.contextmanager
def report_pages(workspace: str) -> Generator[str]:
    """Yields the address of the workspace's reports, empty for one in an object store; tells it
    to the runs started inside.
    """
    if is_url(workspace):
        yield ""
        return
    folder = os.path.abspath(os.path.join(workspace, REPORT))
    network.warn_if_exposed("the reports, with patients' photographs,")
    try:
        listener = network.listener(PORT)
    except OSError:  # another program has the port
        listener = network.listener(0)
    address = network.address_for_others(listener.getsockname()[1])
    application = Starlette(routes=[Mount("/", _Reports(folder, network.password()))])
    options = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,  # s; a browser may be slow to take a picture
    )
    server = uvicorn.Server(options)
    thread = threading.Thread(
        target=server.run, args=([listener],), name="serves the reports", daemon=True
    )
    thread.start()
    os.environ.update({SERVED_REPORT: folder, REPORT_ADDRESS: address})
    try:
        yield address
    finally:
        for name in (SERVED_REPORT, REPORT_ADDRESS):
            os.environ.pop(name, None)
        server.should_exit = True
        thread.join()
