"""One holder at a time, named to the others; a dead one does not hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage import open_workspace
from storage.errors import WorkspaceLocked

HOLDER = """
import sys, time
from storage import open_workspace
with open_workspace(sys.argv[1]).lock("run"):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(location: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, location]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_holds_the_lock_and_a_killed_one_holds_it_no_longer(ws):
    with start_holder(ws.location) as process:
        with (
            pytest.raises(
                WorkspaceLocked, match=rf"is in use \(run\): process {process.pid} on "
            ) as caught,
            ws.lock("run"),
        ):
            pass
        assert "\n" not in str(caught.value)
        with ws.lock("other"):
            pass
        process.kill()
        process.wait()
        with ws.lock("run"):
            pass


def test_a_lock_is_free_after_its_block_even_when_that_raises(ws):
    with pytest.raises(KeyboardInterrupt), ws.lock("run"):
        raise KeyboardInterrupt
    with ws.lock("run"), pytest.raises(WorkspaceLocked), ws.lock("run"):
        pass


@pytest.fixture
def remote():
    ws = open_workspace("memory://lock-test")
    yield ws
    ws.files.remove_tree("")


def test_a_remote_lock_holds_too_and_is_removed(remote):
    with remote.lock("run"):
        with (
            pytest.raises(
                WorkspaceLocked,
                match=f"process {os.getpid()} on .*remove memory://lock-test/.locks/run.lock",
            ),
            remote.lock("run"),
        ):
            pass
        assert remote.files.exists(".locks/run.lock")
    assert not remote.files.exists(".locks/run.lock")


@pytest.mark.parametrize(
    "change",
    [{"born": 1.0}, {"pid": 2**22 + 1, "born": 1.0}],
    ids=["number reused", "no such process"],
)
def test_a_dead_runs_remote_lock_is_taken_over(remote, change):
    with remote.lock("run"):
        holder = json.loads(remote.files.read(".locks/run.lock"))
    remote.files.write_json(".locks/run.lock", {**holder, **change})
    with remote.lock("run"):
        assert remote.files.read_json(".locks/run.lock")["pid"] == os.getpid()


def test_a_lock_held_on_another_machine_is_respected(remote):
    with remote.lock("run"):
        holder = remote.files.read_json(".locks/run.lock")
    remote.files.write_json(".locks/run.lock", {**holder, "host": "elsewhere"})
    with pytest.raises(WorkspaceLocked, match="on elsewhere"), remote.lock("run"):
        pass
