"""Whether a machine can run the pipeline: one finding for each thing a run depends on, with the
remedy where it is wrong.

Looks and touches nothing, but for one small file that is written to the workspace and removed
again. Each check takes what it looks at as arguments, so that a test can show it a machine that
this one is not.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dr_lib.formatting import size_text
from dr_lib.network import backend
from storage import Workspace
from storage.files.disk_space import free_bytes
from storage.files.proxies import THIS_MACHINE, unusable, without_password
from storage.files.proxies import proxies as named_proxies
from tasks.execution.pool import WORKER_BASE_BYTES, Pool
from tasks.run.errors import UserError
from tasks.run.settings import DaskParams

Verdict = Literal["ok", "note", "mend"]
PROJECT = "dr-explain"
LEAST_DISK_BYTES = 2_000_000_000  # the demo's workspace and Prefect's history, with room to spare


@dataclass(frozen=True)
class Finding:
    """One check. verdict: `mend` must be mended before a run, `note` is good to know; both come
    with a remedy.
    """

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""

    @property
    def row(self) -> dict[str, str]:
        """As `dr doctor` prints it."""
        return {"check": self.what, "": self.verdict, "found": self.found, "remedy": self.remedy}


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """A Python that the project was made for, and the versions in constraints.txt were chosen
    for.
    """
    found, asked = (
        ".".join(map(str, version)),
        importlib.metadata.metadata(PROJECT)["Requires-Python"],
    )
    if found in SpecifierSet(asked):
        return Finding("Python", "ok", found)
    remedy = (
        f"make the environment again with Python {asked}: rm -r .venv && make setup"
        " PYTHON=python3.12"
    )
    return Finding("Python", "mend", found, remedy)


def packages(
    requirements: list[str] | None = None,
    version_of: Callable[[str], str] = importlib.metadata.version,
) -> Finding:
    """Every package the project asks for, in a version it allows."""
    wrong = []
    asked = [
        Requirement(text)
        for text in (
            importlib.metadata.requires(PROJECT) or [] if requirements is None else requirements
        )
    ]
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in asked:
        try:
            found = version_of(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is not installed")
            continue
        if found not in one.specifier:
            wrong.append(f"{one.name} {found}, not {one.specifier}")
    if wrong:
        return Finding("packages", "mend", "; ".join(wrong), "pip install -c constraints.txt -e .")
    return Finding("packages", "ok", f"{len(asked)} in the versions asked for")


def cores(workers: int, count: int | None = None) -> Finding:
    """More workers than cores take turns. workers: dask.workers, 0 for one a core. count: this
    machine's, unless given.
    """
    count = count or len(os.sched_getaffinity(0))
    if workers > count:
        return Finding(
            "cores",
            "note",
            f"{count}, for {workers} workers",
            f"set dask.workers = {count}, or 0 for one a core",
        )
    return Finding("cores", "ok", f"{count}")


def memory(workers: int, count: int | None = None, available: int | None = None) -> Finding:
    """A worker needs about a gibibyte before its first image."""
    workers = workers or count or len(os.sched_getaffinity(0))
    available = psutil.virtual_memory().available if available is None else available
    found = f"{size_text(available)} free, for {workers} worker{'s' * (workers != 1)}"
    fit = available // WORKER_BASE_BYTES
    if fit < 1:
        return Finding(
            "memory",
            "mend",
            found,
            f"a worker alone takes {size_text(WORKER_BASE_BYTES)}: free some memory",
        )
    if fit < workers:
        return Finding(
            "memory",
            "mend",
            found,
            f"a worker takes {size_text(WORKER_BASE_BYTES)}: set dask.workers = {fit}",
        )
    return Finding("memory", "ok", found)


def disk(place: str, free: int) -> Finding:
    """Room at a place. What a run needs exactly, `dr plan` says."""
    found = f"{size_text(free)} free at {place}"
    if free < LEAST_DISK_BYTES:
        return Finding(
            "disk",
            "mend",
            found,
            f"free some space: less than {size_text(LEAST_DISK_BYTES)} does not last for a run",
        )
    return Finding("disk", "ok", found)


def keras() -> Finding:
    """The backend that Keras runs on. What a user's keras.json says decides nothing."""
    try:
        found = backend.name()
    except backend.BackendError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("Keras", "mend", what, remedy)
    return Finding("Keras", "ok", f"{importlib.metadata.version('keras')} on {found}")


def proxies(environment: Mapping[str, str]) -> list[Finding]:
    """A finding a proxy that the environment names, as it is before `ask_directly`: what goes
    through it, and what does not.
    """
    found = []
    for name, value in sorted(named_proxies(environment).items()):
        shown = f"{name} = {without_password(value)}"
        if reason := unusable(value):
            remedy = "unset it, or name an http proxy: until then nothing goes through it"
            found.append(Finding("proxy", "note", f"{shown} {reason}", remedy))
        else:
            found.append(
                Finding(
                    "proxy",
                    "ok",
                    f"{shown}, for all but {', '.join(THIS_MACHINE)} and what NO_PROXY names",
                )
            )
    return found


def network(host: str, warning: str) -> Finding:
    """Who can reach the servers that `dr` starts. warning: what `flows.service.network.exposed`
    says.
    """
    if warning:
        what, _, remedy = warning.partition("; ")
        return Finding("network", "mend", what, remedy)
    return Finding("network", "ok", f"servers listen at {host}")


def gpu(seen: int | None = None, present: list[str] | None = None) -> Finding:
    """seen: how many the framework can compute on. present: those the driver knows; both are
    looked for unless given.
    """
    present = _driver_knows() if present is None else present
    seen = len(backend.accelerators()) if seen is None else seen
    if seen:
        return Finding(
            "GPU", "ok", f"{seen} usable" + (f": {', '.join(present)}" if present else "")
        )
    if present and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding(
            "GPU",
            "note",
            f"{', '.join(present)}, hidden by CUDA_VISIBLE_DEVICES",
            "unset it to use the GPU",
        )
    if present:
        remedy = "pip install -c constraints.txt -e '.[gpu]' installs the build that can"
        return Finding("GPU", "note", f"{', '.join(present)}, but TensorFlow cannot use it", remedy)
    return Finding("GPU", "ok", "none; the CPU computes")


def _driver_knows() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [line.strip() for line in told.stdout.splitlines() if line.strip()]
        if told.returncode == 0
        else []
    )


def prefect(api: str | None, home: str, version: str = "", password: str = "") -> Finding:
    """api: the server of PREFECT_API_URL, or None for one that `dr` starts itself and keeps in the
    folder `home`.

    password: `user:password` for that server.
    """
    version = version or importlib.metadata.version("prefect")
    if not api:
        folder = home
        while not os.path.exists(folder):
            folder = os.path.dirname(folder) or "."
        if not _may_fill(folder):
            return Finding(
                "Prefect",
                "mend",
                f"{home} cannot be written",
                "set PREFECT_HOME to a folder of your own",
            )
        return Finding(
            "Prefect", "ok", f"{version}; a server is started for each run, its history in {home}"
        )
    asked = urllib.request.Request(f"{api}/admin/version")
    if password:
        asked.add_header("Authorization", f"Basic {b64encode(password.encode()).decode()}")
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            theirs = answer.read().decode().strip().strip('"')
    except OSError as error:
        if getattr(error, "code", None) == 401:
            return Finding(
                "Prefect",
                "mend",
                f"{api} asks for a password",
                "set PREFECT_API_AUTH_STRING=user:password",
            )
        remedy = (
            "start it (prefect server start), or unset PREFECT_API_URL to have one for each run"
        )
        return Finding(
            "Prefect",
            "mend",
            f"no server answers at {api}: {getattr(error, 'reason', error)}",
            remedy,
        )
    if _minor(theirs) != _minor(version):
        return Finding(
            "Prefect",
            "mend",
            f"server {theirs} at {api}, but {version} here",
            f"pip install prefect=={version} there",
        )
    return Finding("Prefect", "ok", f"server {theirs} at {api}")


def _may_fill(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.+]", version)[:2])


def dask(params: DaskParams) -> Finding:
    """The scheduler of dask.address, its workers, and whether they have the same packages and
    see the same files.
    """
    if not params.address:
        return Finding("Dask", "ok", "workers are started on this machine")
    with closing(Pool(params)) as pool:
        try:
            client = pool.connect()
        except UserError as error:
            what, _, remedy = str(error).partition("; ")
            return Finding("Dask", "mend", what, remedy)
        here = os.getcwd()
        blind = [address for address, sees in client.run(os.path.isdir, here).items() if not sees]
        if blind:
            found = f"{len(blind)} of {pool.workers} workers do not see {here}"
            return Finding(
                "Dask", "mend", found, "mount the same folders at the same paths on every worker"
            )
        strange = _strange_versions(client.get_versions())
        if strange:
            remedy = "pip install -c constraints.txt -e . on every worker"
            return Finding(
                "Dask", "mend", f"workers and this process differ: {'; '.join(strange)}", remedy
            )
        return Finding("Dask", "ok", f"{pool.workers} workers at {params.address}")


def _strange_versions(told: Mapping) -> list[str]:
    """Packages whose versions differ between this process and a worker, in words."""
    mine = told["client"]["packages"]
    theirs = [one["packages"] for one in told["workers"].values()]
    return [
        f"{name} {mine[name]} here, {other[name]} there"
        for name in ("python", "distributed", "numpy", "cloudpickle")
        for other in theirs[:1] + [one for one in theirs[1:] if one[name] != theirs[0][name]]
        if other.get(name) != mine.get(name)
    ]


def place(workspace: Workspace) -> list[Finding]:
    """Whether the workspace can be written to and read back, and the room of its disk."""
    name = f".doctor-{os.getpid()}"
    what = "workspace" if workspace.is_local else "object store"
    if workspace.is_local and not os.path.exists(workspace.location):
        folder, free = free_bytes(workspace.files)
        if not _may_fill(folder):
            return [
                Finding(
                    what,
                    "mend",
                    f"{folder} cannot be written",
                    "choose another workspace, or allow this user to write there",
                )
            ]
        return [
            Finding(what, "ok", f"{workspace.location} will be made"),
            *([] if free is None else [disk(folder, free)]),
        ]
    try:
        workspace.files.write(name, b"can be written")
        read = workspace.files.read(name)
        workspace.files.remove(name)
    except Exception as error:  # a client of an object store raises what it likes
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "allow this user to write there, or choose another workspace"
        if not workspace.is_local:
            remedy = (
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, and that the"
                " bucket exists and may be written to"
            )
        return [Finding(what, "mend", f"{workspace.location} cannot be written: {first}", remedy)]
    if read != b"can be written":
        return [
            Finding(
                what,
                "mend",
                f"{workspace.location} gives back other bytes than were written",
                "choose another place",
            )
        ]
    found = [Finding(what, "ok", f"{workspace.location} can be written and read")]
    folder, free = free_bytes(workspace.files)
    return found + ([disk(folder, free)] if free is not None else [])
