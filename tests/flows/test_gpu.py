"""One process a GPU, on faked devices: which one is taken, who waits, what a kill leaves. No GPU
is needed or used.
"""

import os
import signal
import socket
import threading

import pytest

from dr_lib.network import backend
from tasks.execution import gpu
from tasks.execution.gpu import device_name, gpu_turn, take_gpu


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(gpu, "say", lines.append)
    return lines


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """A machine of two GPUs, and a process that has taken none yet; returns the numbers it came
    to use.
    """
    used = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(backend, "accelerators", lambda: [0, 1])
    monkeypatch.setattr(backend, "use_accelerator", used.append)
    monkeypatch.setattr(gpu, "lock_folder", lambda: tmp_path)
    gpu._own_gpu.cache_clear()
    yield used
    if gpu._own_gpu.cache_info().currsize:
        os.close(gpu._own_gpu().handle)
    gpu._own_gpu.cache_clear()


def test_each_taker_gets_a_gpu_of_its_own_and_the_third_waits_and_is_told_for_whom(tmp_path, said):
    first, second = take_gpu([0, 1], tmp_path), take_gpu([0, 1], tmp_path)
    assert (first.number, second.number) == (0, 1)
    got = []
    third = threading.Thread(
        target=lambda: got.append(take_gpu([0, 1], tmp_path, look_again_s=0.01))
    )
    third.start()
    while not said:
        third.join(0.01)
    assert not got
    os.close(second.handle)
    third.join()
    assert got[0].number == 1
    (line,) = said
    assert line.count(f"is used by process {os.getpid()} (") == 2
    assert line.startswith("GPU 0 is used by process")
    assert "; GPU 1 is used by process" in line
    for held in (first, *got):
        os.close(held.handle)


def test_a_killed_process_frees_its_gpu_at_once(tmp_path, said):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        take_gpu([0], tmp_path)
        os.write(writer, b"taken")
        signal.pause()
    assert os.read(reader, 5) == b"taken"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    held = take_gpu([0], tmp_path)
    assert (held.number, said) == (0, [])
    for handle in (held.handle, reader, writer):
        os.close(handle)


def test_the_file_speaks_of_the_machines_gpu_not_of_this_process_numbering(
    tmp_path, said, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a/b")
    assert [device_name(number) for number in (0, 1, 2)] == ["3", "GPU-8a-b", "2"]
    held = take_gpu([0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["3.lock"]
    assert (tmp_path / "3.lock").stat().st_mode & 0o777 == 0o666, (
        "another user of the machine must be able to lock it"
    )
    os.close(held.handle)


def test_a_process_keeps_its_gpu_for_later_turns(two_gpus, said):
    for _ in range(2):
        with gpu_turn():
            pass
    assert two_gpus == [0, 0]
    other = take_gpu([0, 1], gpu.lock_folder())
    assert other.number == 1, "the first is held until the process ends, since its memory is"
    os.close(other.handle)


def test_without_a_gpu_nothing_is_taken_and_no_file_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(backend, "accelerators", list)
    monkeypatch.setattr(gpu, "lock_folder", lambda: tmp_path / "locks")
    with gpu_turn():
        assert not (tmp_path / "locks").exists()


def test_in_a_run_the_gpu_counts_against_prefects_limit(
    two_gpus, said, prefect_server, monkeypatch
):
    from prefect import flow
    from prefect.client.orchestration import get_client

    name = f"gpu-{socket.gethostname()}"

    def taken():
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name(name)
        return limit.limit, limit.active_slots

    @flow
    def compute():
        with gpu_turn():
            during = taken()
        return during, taken()

    assert compute() == ((2, 1), (2, 0))
    assert said == []

    # A slot that a dead run left taken does not stop one that holds the file.
    monkeypatch.setattr(gpu, "SLOT_WAIT_S", 0.5)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
        client.increment_concurrency_slots(names=[name], slots=1, mode="concurrency")
    assert compute()[0] == (1, 1)
    assert "has no free slot" in said[0]
