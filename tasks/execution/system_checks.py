"""Whether a machine can run the pipeline: one finding for each thing a run depends on, with the
remedy where it is wrong.

Nothing is changed, but for one small file that is written to the workspace and removed again. Each
check takes what it looks at as arguments, so that a test can show it a machine that this one is
not.
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dr_lib.formatting import counted, size_text
from dr_lib.network import backend
from storage import Workspace
from storage.errors import one_line
from storage.files.files import free_bytes
from storage.files.proxies import THIS_MACHINE, proxies, unusable, without_password
from tasks.execution.gpu import CHOSEN, Gpu, gpus_here
from tasks.execution.pool import GPU_EXTRAS, WORKER_BASE_BYTES, Pool
from tasks.run.errors import MENDABLE, UserError
from tasks.run.settings import DaskParams

PROJECT = "dr-explain"
LEAST_DISK_BYTES = 2_000_000_000  # the demo's workspace and Prefect's history, with room to spare


@dataclass(frozen=True)
class Finding:
    """One check. what: the thing that was looked at. remedy: what to do, empty if all is well.

    is_note: the remedy is good to know; otherwise it must be followed before a run.
    """

    what: str
    found: str
    remedy: str = ""
    is_note: bool = False

    @property
    def verdict(self) -> str:
        """ok, note or mend."""
        return "ok" if not self.remedy else "note" if self.is_note else "mend"

    @property
    def row(self) -> dict[str, str]:
        """As `dr doctor` prints it."""
        return {"check": self.what, "": self.verdict, "found": self.found, "remedy": self.remedy}


def refusal(what: str, message: object) -> Finding:
    """What an error says: the fault before its first semicolon, the remedy after it."""
    found, _, remedy = str(message).partition("; ")
    return Finding(what, found, remedy or "put that right and look again")


def checked(what: str, look: Callable[[], str]) -> Finding:
    """What `look` says, or the fault and the remedy that its error names."""
    try:
        return Finding(what, look())
    except MENDABLE as error:
        return refusal(what, error)


def python_version(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """A Python that the project was made for, and the versions in constraints.txt were chosen
    for.
    """
    found = ".".join(map(str, version))
    asked = importlib.metadata.metadata(PROJECT)["Requires-Python"]
    remedy = (
        f"make the environment again with Python {asked}: rm -r .venv && make setup"
        " PYTHON=python3.12"
    )
    return Finding("Python", found, "" if found in SpecifierSet(asked) else remedy)


def packages(
    requirements: list[str] | None = None,
    version_of: Callable[[str], str] = importlib.metadata.version,
) -> Finding:
    """Every package the project asks for, in a version it allows."""
    if requirements is None:
        requirements = importlib.metadata.requires(PROJECT) or []
    needed = [
        requirement
        for requirement in map(Requirement, requirements)
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", backend.chosen()))
    ]
    wrong = []
    for requirement in needed:
        try:
            version = version_of(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if version not in requirement.specifier:
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    if wrong:
        remedy = f"pip install -c constraints.txt -e '.[{backend.chosen()}]'"
        return Finding("packages", "; ".join(wrong), remedy)
    return Finding("packages", f"{len(needed)} in the versions asked for")


def cores(workers: int, count: int | None = None) -> Finding:
    """More workers than cores take turns. workers: dask.workers, 0 for one a core. count: this
    machine's, unless given.
    """
    count = count or len(os.sched_getaffinity(0))
    if workers <= count:
        return Finding("cores", f"{count}")
    remedy = f"set dask.workers = {count}, or 0 for one a core"
    return Finding("cores", f"{count}, for {workers} workers", remedy, is_note=True)


def memory(workers: int, count: int | None = None, available: int | None = None) -> Finding:
    """A worker needs about a gibibyte before its first image."""
    workers = workers or count or len(os.sched_getaffinity(0))
    available = psutil.virtual_memory().available if available is None else available
    found = f"{size_text(available)} free, for {counted(workers, 'worker')}"
    fit = available // WORKER_BASE_BYTES
    if fit >= workers:
        return Finding("memory", found)
    remedy = f"set dask.workers = {fit}" if fit else "free some memory"
    return Finding("memory", found, f"a worker takes {size_text(WORKER_BASE_BYTES)}: {remedy}")


def disk(place: str, free: int) -> Finding:
    """Room at a place. What a run needs exactly, `dr plan` says."""
    remedy = f"free some space: less than {size_text(LEAST_DISK_BYTES)} does not last for a run"
    return Finding(
        "disk", f"{size_text(free)} free at {place}", remedy if free < LEAST_DISK_BYTES else ""
    )


def keras() -> Finding:
    """What Keras runs on, and whether float32 is float32 there."""
    return checked("Keras", _keras)


def _keras() -> str:
    found = f"{importlib.metadata.version('keras')} on {backend.name()}"
    if backend.is_float32_exact():
        return f"{found}, float32 in full precision"
    raise UserError(
        f"{found} computes float32 in fewer digits; unset the variables by which this framework is"
        " told to compute faster"
    )


def proxy_settings(environment: Mapping[str, str]) -> list[Finding]:
    """A finding for each proxy that the environment names, as it is before `ask_directly`: what
    goes through it, and what does not.
    """
    findings = []
    for name, value in sorted(proxies(environment).items()):
        found, remedy = f"{name} = {without_password(value)}", ""
        if reason := unusable(value):
            found += f" {reason}"
            remedy = "unset it, or name an http proxy: until then nothing goes through it"
        else:
            found += f", for all but {', '.join(THIS_MACHINE)} and what NO_PROXY names"
        findings.append(Finding("proxy", found, remedy, is_note=True))
    return findings


def network(host: str, warning: str) -> Finding:
    """Who can reach the servers that `dr` starts. warning: what `flows.service.network.exposed`
    says.
    """
    listens = Finding("network", f"servers listen at {host}")
    return refusal("network", warning) if warning else listens


def gpu(
    device: str | None = None, known: list[Gpu] | None = None, chosen: str | None = CHOSEN
) -> Finding:
    """The GPUs of this machine, and whether the framework computes on them.

    Parameters
    ----------
    device: what it computes on. known: what the driver knows. Both are looked for unless given.
    chosen: CUDA_VISIBLE_DEVICES, as the user set it.
    """
    known = gpus_here(None) if known is None else known
    models = ", ".join(f"{gpu.model} ({gpu.uuid})" for gpu in known)
    if not known:
        return Finding("GPU", "none; the CPU computes")
    if chosen in ("", "-1"):
        remedy = "unset it to use the GPU"
        return Finding("GPU", f"{models}, hidden by CUDA_VISIBLE_DEVICES", remedy, is_note=True)
    if (device or backend.device()) == "GPU":
        return Finding("GPU", models)
    extra = GPU_EXTRAS[backend.chosen()]
    remedy = f"pip install -c constraints.txt -e '.[{extra}]' installs the build that can"
    found = f"{models}, but {backend.chosen()} cannot use it"
    return Finding("GPU", found, remedy, is_note=True)


def may_write(place: str | Path) -> bool:
    """Whether this user may write to a folder, or make it."""
    place = Path(place)
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK)


def dask(params: DaskParams) -> Finding:
    """The scheduler of dask.address, its workers, and whether they have the same packages and
    see the same files.
    """
    return checked("Dask", lambda: _dask(params))


def _dask(params: DaskParams) -> str:
    here, found = os.getcwd(), "workers are started on this machine"
    with closing(Pool(params)) as pool:
        if params.address:
            client = pool.connect()
            found = f"{pool.workers} workers at {params.address}"
            if blind := list(client.run(os.path.isdir, here).values()).count(False):
                raise UserError(
                    f"{blind} of {pool.workers} workers do not see {here}; mount the same folders"
                    " at the same paths on every worker"
                )
            if differences := _version_differences(client.get_versions()):
                raise UserError(
                    f"workers and this process differ: {' and '.join(differences)}; install the"
                    " same versions on every worker, by the same constraints.txt"
                )
            if without := pool.without_their_gpu():
                raise UserError(without)
        return found + f", {pool.gpus} of them with a GPU" * bool(pool.gpus)


def _version_differences(versions: Mapping) -> list[str]:
    """Packages whose versions differ between this process and a worker, in words."""
    here = versions["client"]["packages"]
    differences = [
        f"{name} {here[name]} here, {worker['packages'][name]} there"
        for name in ("python", "distributed", "numpy", "cloudpickle")
        for worker in versions["workers"].values()
        if worker["packages"][name] != here[name]
    ]
    return list(dict.fromkeys(differences))


def place(workspace: Workspace) -> list[Finding]:
    """Whether the workspace can be written to and read back, and the room of its disk."""
    what = "workspace" if workspace.is_local else "object store"
    folder, free = free_bytes(workspace.files)
    if workspace.is_local and not os.path.exists(workspace.location):
        found, error = f"{workspace.location} will be made", ""
        if not may_write(folder):
            error = f"{folder} cannot be written"
    else:
        found, error = f"{workspace.location} can be written and read", _write_error(workspace)
    if not error:
        return [Finding(what, found), *([] if free is None else [disk(folder, free)])]
    remedy = "allow this user to write there, or choose another workspace"
    if not workspace.is_local:
        remedy = (
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, and that the"
            " bucket exists and may be written to"
        )
    return [Finding(what, error, remedy)]


def _write_error(workspace: Workspace) -> str:
    """Why a small file cannot be written and read back, in a line; empty if it can."""
    name, data = f".doctor-{os.getpid()}", b"can be written"
    try:
        workspace.files.write(name, data)
        read = workspace.files.read(name)
        workspace.files.remove(name)
    except Exception as error:  # a client of an object store raises what it likes
        return f"{workspace.location} cannot be written: {one_line(error)}"
    if read != data:
        return f"{workspace.location} gives back other bytes than were written"
    return ""
