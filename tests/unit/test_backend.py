"""The framework's few primitives: derivatives, compilation, threads and memory."""

import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from dr_lib.network import backend


def cubes(x):
    return ops.stack([ops.sum(x**3, axis=1), ops.sum(x, axis=1)], axis=1)


X = np.array([[1, 2], [3, -1]], np.float32)


def test_vjp_is_the_gradient_of_the_weighted_values():
    values, gradient = backend.vjp(
        cubes, backend.tensor(X), backend.tensor(np.array([[1, 0], [2, 5]], np.float32))
    )
    np.testing.assert_allclose(values, [[9, 3], [26, 2]])
    np.testing.assert_allclose(gradient, [[3, 12], [2 * 27 + 5, 2 * 3 + 5]])


def test_vjps_share_one_forward_pass():
    calls = []

    def counted(x):
        calls.append(1)
        return cubes(x)

    each = [backend.tensor(np.eye(2, dtype=np.float32)[[q, q]]) for q in (0, 1)]
    values, gradients = backend.vjps(counted, backend.tensor(X), each)
    assert len(calls) == 1
    np.testing.assert_allclose(values, [[9, 3], [26, 2]])
    np.testing.assert_allclose(gradients, [3 * X**2, np.ones((2, 2))])


def test_a_quantity_that_ignores_its_input_has_gradient_zero():
    _, gradient = backend.vjp(
        lambda x: ops.zeros((2,)) + 7, backend.tensor(X), backend.tensor(np.ones(2, np.float32))
    )
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


def test_compiled_traces_once_for_a_shape():
    traces = []

    def double(x):
        traces.append(1)
        return 2 * x

    fast = backend.compiled(double)
    for _ in range(3):
        np.testing.assert_array_equal(fast(backend.tensor(X)), 2 * X)
    assert len(traces) == 1
    fast(backend.tensor(X[:1]))
    assert len(traces) == 2


def test_free_memory_is_what_the_container_leaves(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1200\n")
    assert backend._cgroup_free_bytes(tmp_path) == [3800]
    (tmp_path / "memory.current").write_text("9000\n")
    assert backend._cgroup_free_bytes(tmp_path) == [0]
    (tmp_path / "memory.max").write_text("max\n")
    assert backend._cgroup_free_bytes(tmp_path) == []
    assert backend._cgroup_free_bytes(tmp_path / "absent") == []
    monkeypatch.setattr(backend, "_cgroup_free_bytes", lambda: [12345])
    assert backend.free_memory_bytes() == 12345


def test_out_of_memory_is_told_from_other_errors():
    assert backend.is_out_of_memory(MemoryError())
    assert backend.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 12 GiB"))
    assert not backend.is_out_of_memory(ValueError("shapes differ"))


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        backend.configure(0)


@pytest.mark.skipif(
    backend.name() != "tensorflow", reason="JAX sizes its pool from the environment"
)
def test_threads_are_set_before_the_start_and_a_late_change_is_answered_with_false():
    script = """
from dr_lib.network import backend
import sys
assert "tensorflow" not in sys.modules, "importing the module must import no framework"
assert backend.configure(1, deterministic=True)
assert backend.configure(1)
import numpy as np
backend.tensor(np.ones(2, np.float32))
assert not backend.configure(2)
assert backend.configure(1)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(
    backend.name() != "tensorflow", reason="the other framework has no such settings"
)
def test_one_gpu_of_two_is_used_and_its_memory_grows(monkeypatch):
    """On a faked machine of two GPUs: what TensorFlow is told, and how often."""
    import tensorflow as tf

    visible, growing, told = ["GPU a", "GPU b"], set(), []

    def set_visible(one, kind):
        told.append((one, kind))
        visible[:] = [one]

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU a", "GPU b"])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(visible))
    monkeypatch.setattr(tf.config, "set_visible_devices", set_visible)
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda one: one in growing)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda one, on: growing.add(one)
    )
    assert (backend.accelerators(), backend.device()) == ([0, 1], "2 GPU")
    backend.use_accelerator(1)
    assert (backend.accelerators(), backend.device()) == ([1], "1 GPU")
    assert growing == {"GPU b"}, "without growth TensorFlow takes all memory of every GPU it sees"
    # Once TensorFlow has started, setting either again would raise, even to what it is.
    backend.use_accelerator(1)
    assert told == [("GPU b", "GPU")]


def test_a_machine_without_a_gpu_computes_on_the_cpu():
    assert (backend.accelerators(), backend.device()) == ([], "CPU")
