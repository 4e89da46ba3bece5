"""The framework's few primitives: derivatives, compilation, threads and memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from dr_lib.network import backend, memory


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
    assert memory._cgroup_free_bytes(tmp_path) == [3800]
    (tmp_path / "memory.current").write_text("9000\n")
    assert memory._cgroup_free_bytes(tmp_path) == [0]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_free_bytes(tmp_path) == []
    assert memory._cgroup_free_bytes(tmp_path / "absent") == []
    monkeypatch.setattr(memory, "_cgroup_free_bytes", lambda: [12345])
    assert backend.free_memory_bytes() == 12345


def test_out_of_memory_is_told_from_other_errors():
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 12 GiB"))
    assert not memory.is_out_of_memory(ValueError("shapes differ"))


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        backend.configure(0)


@pytest.mark.skipif(
    backend.name() != "tensorflow", reason="JAX sizes its pool from the environment"
)
def test_threads_are_set_before_the_start_and_a_late_change_is_answered_with_false():
    script = """
from dr_lib.network import backend, memory
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


def test_float32_is_float32_unless_asked_otherwise(monkeypatch):
    """What the framework is told: only a GPU could show a difference."""
    if backend.name() == "tensorflow":
        from tensorflow import config

        is_tf32 = config.experimental.tensor_float_32_execution_enabled
    else:
        import jax

        def is_tf32():
            return jax.config.jax_default_matmul_precision == "tensorfloat32"

    assert not is_tf32()
    with backend.computing_in("tf32"):
        assert is_tf32()
    assert not is_tf32()
    assert backend.is_float32_exact()
    rounded = backend.compiled(lambda x, kernel: np.float32(1) + 0 * x)
    monkeypatch.setattr(backend, "compiled", lambda function: rounded)
    assert not backend.is_float32_exact(), "the last of 24 digits is gone"


def test_a_worker_that_sees_several_gpus_uses_the_first(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,0,1")
    backend.name()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_machine_without_a_gpu_computes_on_the_cpu():
    assert backend.device() == "CPU"
