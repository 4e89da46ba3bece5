"""Kills and errors at chosen points of a run, in its own processes and in its Dask workers; the
product knows nothing of it.

For workers this file is a Dask preload: it reads what to do from the environment. As a program,
`python faults.py RUNS`, it runs `dr` several times, each in a process group of its own, and prints
how each ended. The runs are forks of one process that has imported everything, since importing
takes longer than a small run.
"""

import errno
import json
import os
import pathlib
import signal
import sys

VARIABLE = "DR_TEST_FAULTS"
HERE = str(pathlib.Path(__file__).resolve())


def environment(faults: list[dict], log: pathlib.Path) -> dict[str, str]:
    """What to add to a process's environment so that its workers have these faults, and log the
    photographs they read.

    A fault: `at` read, set, mark or marked; `match`, a part of the photograph's path, the array
    file's or the ledger entry's name; `how` process, group or error; `once`, a file that is made
    when it strikes (absent: it always strikes).
    """
    return {
        VARIABLE: json.dumps({"faults": faults, "log": str(log)}),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([HERE]),
    }


def dask_setup(worker) -> None:
    """Dask calls this in every worker as it starts."""
    from zarr.storage import FsspecStore, LocalStore

    from storage.arrays.ledger import Ledger
    from storage.photos.sources import PhotoSource

    plan = json.loads(os.environ[VARIABLE])
    faults, log = plan["faults"], os.open(plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    read, mark = PhotoSource.read, Ledger.mark

    def read_with_faults(self, path):
        os.write(log, f"{path}\n".encode())
        strike(faults, "read", path)
        return read(self, path)

    def mark_with_faults(self, entry):
        strike(faults, "mark", self.name(entry.shard))
        mark(self, entry)
        strike(faults, "marked", self.name(entry.shard))

    PhotoSource.read, Ledger.mark = read_with_faults, mark_with_faults
    for kind in (LocalStore, FsspecStore):
        kind.set = setting_with_faults(kind.set, faults)


def setting_with_faults(real, faults: list[dict]):
    """A Zarr store's `set`; a local file is left with its first half when the fault strikes."""

    async def set_with_faults(self, key, value, *rest):
        if any(fault["at"] == "set" and fault["match"] in key for fault in faults) and hasattr(
            self, "root"
        ):
            torn = pathlib.Path(self.root) / key
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(value.to_bytes()[: len(value) // 2])
        strike(faults, "set", key)
        await real(self, key, value, *rest)

    return set_with_faults


def strike(faults: list[dict], at: str, what: str) -> None:
    for fault in faults:
        if fault["at"] != at or fault["match"] not in what:
            continue
        if "once" in fault:
            try:
                os.close(os.open(fault["once"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
        if fault["how"] == "error":
            raise OSError(errno.EIO, "input/output error", what)
        if fault["how"] == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def run_all(runs: list[dict]) -> list[int]:
    """Runs `dr` with each one's arguments and environment; returns exit codes, −9 for a run that
    was killed.
    """
    import tasks.execution.pool
    from flows.cli.main import app
    from flows.pipeline import FLOWS

    assert FLOWS, "imported for the forks"
    # A worker's start costs seconds, and one death is as good as three.
    tasks.execution.pool.DASK_CONFIG["distributed.scheduler.allowed-failures"] = 0
    codes = []
    for run in runs:
        child = os.fork()
        if not child:
            os.setsid()
            os.dup2(2, 1)
            os.environ.update(run["environment"])
            app(run["arguments"], prog_name="dr")
        _, status = os.waitpid(child, 0)
        codes.append(os.waitstatus_to_exitcode(status))
    return codes


if __name__ == "__main__":
    print(json.dumps(run_all(json.loads(sys.argv[1]))))
