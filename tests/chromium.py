"""Headless Chromium for tests of pages: opens, clicks, asks, and remembers every error and every
request.

Speaks Chrome's DevTools protocol over the websockets package that Prefect brings: a browser's
driver would be one more program to install and to keep at the browser's version. Everything that
goes wrong on a page is in `Page.troubles`.
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = "no Chromium here: apt-get install chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small for a page
    "--remote-debugging-port=0",
)
# The machine may be busy with other tests.
START_S, ANSWER_S = 120, 120
# What a page takes from a field's event to the last frame that shows its answer.
ANSWERED = """(async () => {
  const field = document.querySelector(%s);
  delete document.body.dataset.shown;
  const start = performance.now();
  field.value = %s;
  field.dispatchEvent(new Event('input', { bubbles: true }));
  while (document.body.dataset.shown === undefined) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return (performance.now() - start) / 1000;
})()"""


class PageError(AssertionError):
    """Something on a page is not as the test expects."""


@contextlib.contextmanager
def browser() -> Iterator["Page"]:
    """A page of a fresh browser, which ends with this context. Raises RuntimeError where
    Chromium does not start.
    """
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = _address(pathlib.Path(profile) / "DevToolsActivePort", process)
            with connect(
                address,
                max_size=None,
                proxy=None,
                ping_interval=None,
                compression=None,
                open_timeout=START_S,
            ) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(file: pathlib.Path, process: subprocess.Popen) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start within {START_S} s (exit code {process.poll()})")


class Page:
    """One tab. troubles: errors on the console, exceptions and failed requests, as lines.
    requests: every address asked for.
    """

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Loads a page and waits until its scripts have run. A new fragment of the same page is
        no load: use `evaluate`.
        """
        self._call("Page.navigate", url=address)
        self.wait_for(
            "document.readyState === 'complete' &&"
            f" location.href.startsWith({json.dumps(address.partition('#')[0])})"
        )

    def evaluate(self, expression: str):
        """The value of a JavaScript expression; a promise is waited for. Raises PageError where
        it throws.
        """
        found = self._call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageError(
                f"{expression}: {details.get('exception', {}).get('description', details['text'])}"
            )
        return found["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 90) -> float:
        """Seconds until the expression was true. Raises PageError if it never was."""
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            with contextlib.suppress(PageError):  # the page may not be there yet
                if self.evaluate(f"Boolean({expression})"):
                    return time.monotonic() - start
            time.sleep(0.02)
        raise PageError(
            f"not within {timeout_s:.0f} s: {expression};"
            f" {'; '.join(self.troubles) or 'no trouble reported'}"
        )

    def choose(self, selector: str, value: str) -> None:
        """Sets a form's field as a person would: with its events."""
        self.evaluate(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value ="
            f" {json.dumps(value)};for (const name of ['input', 'change']) field.dispatchEvent(new"
            " Event(name, { bubbles: true })); })()"
        )

    def first_view_s(self, address: str, pictures: str, count: int) -> float:
        """Seconds from asking for an index until its first rows and their pictures are on it."""
        self.open("about:blank")
        start = time.perf_counter()
        self.open(address)
        self.wait_for(
            f"document.body.dataset.shown && [...document.querySelectorAll('{pictures}')]"
            f".slice(0, {count}).every((one) => one.complete)"
        )
        return time.perf_counter() - start

    def filter_s(self, selector: str, value: str, runs: int) -> list[float]:
        """Seconds until an index shows the rows that a field's value leaves, so many times."""
        times = []
        for _ in range(runs):
            times.append(self.evaluate(ANSWERED % (json.dumps(selector), json.dumps(value))))
            self.evaluate(ANSWERED % (json.dumps(selector), '""'))
        return times

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str) -> None:
        """A key, such as ArrowRight."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size in CSS pixels, and whether the reader prefers dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file: str | os.PathLike) -> None:
        """What the window shows, as PNG."""
        pathlib.Path(file).write_bytes(
            base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        )

    def _call(self, method: str, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(
            json.dumps(message | ({"sessionId": self._session} if self._session else {}))
        )
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, told: dict) -> None:
        if event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.troubles.append(
                f"exception: {details.get('exception', {}).get('description', details['text'])}"
            )
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.troubles.append(
                "console:"
                f" {' '.join(str(one.get('value', one.get('description'))) for one in told['args'])}"
            )
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.troubles.append(
                f"log: {told['entry']['text']} {told['entry'].get('url', '')}".strip()
            )
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Network.loadingFailed" and not told.get("canceled"):
            self.troubles.append(f"request failed: {told['errorText']}")
        elif event == "Network.responseReceived" and told["response"]["status"] >= 400:
            self.troubles.append(f"request: {told['response']['status']} {told['response']['url']}")
