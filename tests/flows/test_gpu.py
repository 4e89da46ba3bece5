"""GPUs on a faked machine: which there are, which one run takes, who waits, what a kill leaves. No
GPU is needed or used.
"""

import os
import signal
import stat
import threading

import pytest

from tasks.execution import gpu
from tasks.execution.gpu import Gpu, gpus_here, take_gpus

A, B = Gpu("GPU-8a", "NVIDIA H100"), Gpu("GPU-b7", "NVIDIA H100")


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(gpu, "say", lines.append)
    monkeypatch.setattr(gpu, "LOOK_AGAIN_S", 0.005)
    return lines


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A machine of two GPUs, as its driver tells."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-8a, NVIDIA H100'\necho '1, GPU-b7, NVIDIA H100'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("chosen", "here"),
    [
        (None, [A, B]),
        ("1", [B]),
        ("GPU-b7, 0", [B, A]),
        ("", []),
        ("-1", []),
        ("MIG-5c", [Gpu("MIG-5c", "GPU")]),
    ],
)
def test_the_gpus_here_are_the_drivers_that_the_user_left(driver, chosen, here):
    assert gpus_here(chosen) == here


def test_a_machine_without_a_driver_has_none_whatever_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here("0") == []


def release(*taken):
    for handle in (handle for held in taken for handle in held.values()):
        os.close(handle)


def test_each_run_gets_gpus_of_its_own_and_the_third_waits_and_is_told_for_whom(tmp_path, said):
    first, second = (take_gpus([A, B], 1, 1, tmp_path) for _ in range(2))
    assert ([*first], [*second]) == ([A], [B])
    got = []
    third = threading.Thread(target=lambda: got.append(take_gpus([A, B], 1, 2, tmp_path)))
    third.start()
    while not said:
        third.join(0.01)
    assert not got
    release(second)
    third.join()
    assert [*got[0]] == [B], "one that is free is enough"
    (line,) = said
    assert line.count(f"is used by process {os.getpid()} (") == 2
    assert line.startswith("NVIDIA H100 GPU-8a is used by process")
    release(first, *got)


def test_a_run_that_needs_two_holds_none_while_it_waits(tmp_path, said):
    one = take_gpus([A], 1, 1, tmp_path)
    got = []
    both = threading.Thread(target=lambda: got.append(take_gpus([A, B], 2, 2, tmp_path)))
    both.start()
    while not said:
        both.join(0.01)
    # It looks again and again: the other one is free between two looks.
    other = take_gpus([B], 1, 1, tmp_path)
    release(one, other)
    both.join()
    assert {*got[0]} == {A, B}
    release(*got)


def test_a_killed_process_frees_its_gpu_at_once(tmp_path, said):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        take_gpus([A], 1, 1, tmp_path)
        os.write(writer, b"taken")
        signal.pause()
    assert os.read(reader, 5) == b"taken"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    held = take_gpus([A], 1, 1, tmp_path)
    assert ([*held], said) == ([A], [])
    (file,) = tmp_path.iterdir()
    assert file.name == "GPU-8a.lock"
    assert file.stat().st_mode & 0o777 == 0o666, (
        "another user of the machine must be able to lock it"
    )
    release(held)
    for handle in (reader, writer):
        os.close(handle)
