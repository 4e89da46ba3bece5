"""Everything that depends on which framework Keras runs on: threads, compilation, derivatives,
memory.

The rest of the project is written against Keras' own API and NumPy, and runs on TensorFlow or on
JAX, whichever is installed; `choose` takes one, as the configuration says. The user's `keras.json`,
and variables that make frameworks compute in another precision, decide nothing: results depend on
the configuration alone. A process computes on one device: the first GPU that it may see, or the
CPU. This module must not know what is computed: no image, no quantity, no quadrature. Importing it
imports no framework; the first call does.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from dr_lib.network.memory import host_free_bytes

Backend = Literal["tensorflow", "jax"]
Precision = Literal["float32", "tf32"]
BACKENDS = get_args(Backend)
# What frameworks read when they are first imported, and what would change results behind the
# configuration's back.
_FIXED = {
    # TensorFlow's oneDNN kernels: on by themselves only where the processor has AVX512-VNNI or the
    # like, and on plain AVX2 a backward pass takes 1.6 times as long without them.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    # float32 means float32, also on processors that are faster in bfloat16.
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    # Otherwise either framework takes all or most of a GPU's memory with its first tensor.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
_FORGOTTEN = (
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "KERAS_NNX_ENABLED",
    "NVIDIA_TF32_OVERRIDE",
)
os.environ.update(_FIXED)
for _name in _FORGOTTEN:
    os.environ.pop(_name, None)
_set_here = ""  # what this module put into KERAS_BACKEND; anything else there was said by a user
if not os.environ.get("KERAS_BACKEND"):  # empty counts as unset, and then keras.json would choose
    _set_here = next(filter(importlib.util.find_spec, BACKENDS), BACKENDS[0])
    os.environ["KERAS_BACKEND"] = _set_here

_SAME_BITS = "--xla_gpu_deterministic_ops=true"
# (n, …) tensor -> (n,) or (n, q) tensor, made of Keras' or the backend's operations.
Function = Callable[[Any], Any]


class BackendError(RuntimeError):
    """Keras cannot run here as it is set up; the message says in a line what to change."""


def choose(backend: Backend) -> None:
    """Makes Keras run on this backend, in this process and those that it starts. Imports no
    framework.

    Raises
    ------
    BackendError: where KERAS_BACKEND names another one, or the backend is not installed.
    """
    global _set_here
    if chosen() not in (backend, _set_here):
        raise BackendError(
            f"KERAS_BACKEND = {chosen()}, but model.backend = {backend}; unset KERAS_BACKEND: the"
            " configuration alone decides"
        )
    if chosen() != backend:
        os.environ["KERAS_BACKEND"] = _set_here = backend
    if wrong := problem():
        raise BackendError(wrong)


def chosen() -> str:
    """The backend of `choose` or KERAS_BACKEND, else the first installed. Imports no framework."""
    return os.environ["KERAS_BACKEND"]


def versions() -> dict[str, str]:
    """The versions of Keras and of what it runs on."""
    packages = ("keras", chosen(), *(["jaxlib"] if chosen() == "jax" else []))
    return {package: importlib.metadata.version(package) for package in packages}


def problem() -> str:
    """Why the chosen backend cannot serve, empty if it can. Imports no framework."""
    if chosen() not in BACKENDS:
        return (
            f"KERAS_BACKEND = {chosen()}, but this project runs on {' or '.join(BACKENDS)}; unset"
            " it: model.backend decides"
        )
    if importlib.util.find_spec(chosen()) is None:
        return (
            f"{chosen()}, on which Keras is to run, is not installed; pip install -c"
            f" constraints.txt -e '.[{chosen()}]', or set model.backend"
        )
    return ""


def configure(threads: int | None = None, deterministic: bool = False) -> bool:
    """Sets the framework's threads; call it before the first tensor is made.

    TensorFlow fixes its thread pools with the first tensor. JAX sizes its pool when it starts, so
    there `threads` takes effect only as an environment variable set before.

    Parameters
    ----------
    threads: of an operation, and operations run one by one; None leaves both alone.
    deterministic: use kernels that give the same bits every time, as on a GPU in any case.

    Returns
    -------
    Whether the framework now runs with so many threads: False where it already ran with others.

    Raises
    ------
    ValueError: for less than 1 thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    if name() == "jax":
        return threads is None
    import tensorflow as tf

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if threads is None:
        return True
    with contextlib.suppress(RuntimeError):  # already started
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # One operation at a time: two at once would each bring `threads` threads to the same cores.
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf.config.threading.get_intra_op_parallelism_threads() == threads


def name() -> str:
    """Keras' backend: "tensorflow" or "jax".

    From then on Keras has the number format and the axes' order that the networks here are made
    for, whatever it read in `keras.json`.

    Raises
    ------
    BackendError: for any other backend, and where Keras cannot be imported.
    """
    if wrong := problem():
        raise BackendError(wrong)
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        # A worker that `dask cuda worker` started sees every GPU, its own one first.
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    flags = os.environ.get("XLA_FLAGS", "")
    if chosen() == "jax" and _SAME_BITS not in flags:  # read when JAX looks for devices
        os.environ["XLA_FLAGS"] = f"{flags} {_SAME_BITS}"
    with _muted_start():
        try:
            import keras
        except Exception as error:
            folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
            raise BackendError(
                f"Keras cannot be imported ({type(error).__name__}:"
                f" {(str(error).strip() or 'no message').splitlines()[0]}); repair or remove"
                f" {folder / 'keras.json'}, and unset the variables KERAS_…"
            ) from error
        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise BackendError(
                f"Keras was imported on {backend} already; set KERAS_BACKEND={BACKENDS[0]} before"
            )
        _start(backend)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    return backend


@functools.cache
def _start(backend: str) -> None:
    """Looks for devices, loudly where there is no GPU, and computes float32 in float32 and the same
    bits every time from the first tensor on.
    """
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()
    _compute_in(backend, "float32")


def _compute_in(backend: str, precision: Precision) -> None:
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        return
    import jax

    words = {"float32": "highest", "tf32": "tensorfloat32"}
    jax.config.update("jax_default_matmul_precision", words[precision])


@contextlib.contextmanager
def computing_in(precision: Precision) -> Generator[None]:
    """Products of float32 numbers are taken in float32 (the rule here) or, on GPUs that have them,
    in TF32: three digits, several times as fast. Both frameworks would choose TF32 by themselves.
    """
    backend = name()
    _compute_in(backend, precision)
    try:
        yield
    finally:
        _compute_in(backend, "float32")


def is_float32_exact() -> bool:
    """Whether a convolution on this process's device keeps all 24 bits of float32 numbers: TF32
    keeps 11 and bfloat16 8.
    """
    name()
    from keras import ops

    # Large enough for a GPU's fastest kernels; each output is one product, 1 times the number.
    numbers = np.full((8, 16, 16, 64), 1 + 2.0**-23, np.float32)
    passed = compiled(ops.conv)(tensor(numbers), tensor(np.eye(64, dtype=np.float32)[None, None]))
    return bool((np.asarray(passed) == numbers).all())


@contextlib.contextmanager
def _muted_start() -> Generator[None]:
    """Keeps the native notes of a framework's first import off the terminal; they heed no log
    level. Errors still raise.
    """
    if "tensorflow" in sys.modules or "jax" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device() -> str:
    """What this process computes on, in a word: "GPU" or "CPU"."""
    if name() == "tensorflow":
        import tensorflow as tf

        return "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    import jax

    return "CPU" if jax.default_backend() == "cpu" else "GPU"


def compiled(function: Callable) -> Callable:
    """The same function compiled: traced once for every new combination of argument shapes."""
    if name() == "tensorflow":
        import tensorflow as tf

        tf.get_logger().addFilter(_is_no_retracing)
        # Not jit_compile: XLA on the processor is 1.5 times slower than TensorFlow's own
        # convolutions (DESIGN §6).
        return tf.function(function, autograph=False)
    import jax

    return jax.jit(function)


def compiles_weights() -> bool:
    """Whether compiled functions keep the weights that networks had when they were compiled."""
    return name() == "jax"


def _is_no_retracing(record: logging.LogRecord) -> bool:
    """Every model has functions of its own, each compiled for the few shapes that it gets: more
    than TensorFlow thinks fit.
    """
    return "retracing" not in record.getMessage()


def tensor(array: np.ndarray) -> Any:
    """The array as the backend's tensor, dtype unchanged."""
    name()
    from keras import ops

    return ops.convert_to_tensor(array)


def stack(tensors: Sequence[Any]) -> Any:
    """Tensors of one shape as a single one, on a new first axis."""
    if name() == "tensorflow":
        import tensorflow as tf

        return tf.stack(tensors)
    return _jax_stack()(tensors)


@functools.cache
def _jax_stack() -> Callable:
    import jax

    return jax.jit(jax.numpy.stack)


def fetched(tensor: Any) -> np.ndarray:
    """A tensor on the host; waits until it has been computed."""
    return np.asarray(tensor)


def inner_products(vectors: Sequence[Any], other: Any) -> Any:
    """(n, vector) float64: for each row the sum of the products of each (n, …) float32 tensor with
    the other.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        *rows, other = (
            tf.cast(tf.reshape(x, (x.shape[0], -1)), tf.float64) for x in (*vectors, other)
        )
        return tf.stack([tf.reduce_sum(row * other, axis=1) for row in rows], axis=1)
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        *rows, other = (x.reshape(len(x), -1).astype(jnp.float64) for x in (*vectors, other))
        return jnp.stack([(row * other).sum(axis=1) for row in rows], axis=1)


def vjp(function: Function, x: Any, cotangent: Any) -> tuple[Any, Any]:
    """`function(x)` and the gradient of `sum(cotangent · function(x))` by x: a forward and a
    backward pass.
    """
    values, gradients = vjps(function, x, [cotangent])
    return values, gradients[0]


def vjps(function: Function, x: Any, cotangents: Sequence[Any]) -> tuple[Any, list[Any]]:
    """`function(x)` and a gradient by x for each cotangent; all share one forward pass.

    Parameters
    ----------
    x: (n, …) tensor. Rows are independent: row i of the result depends on row i of x only.
    cotangents: (n,) or (n, q) tensors, as `function` answers. With cotangents that each select a
        quantity the gradients are a whole Jacobian: a backward pass a quantity, whatever the number
        of rows.

    Returns
    -------
    values: what `function` answers. gradients: (n, …) each; 0 where a quantity ignores its input.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(
            persistent=len(cotangents) > 1, watch_accessed_variables=False
        ) as tape:
            tape.watch(x)
            values = function(x)
        # ZERO, not None: a quantity that ignores its input has gradient 0, and that is an answer.
        gradients = [
            tape.gradient(values, x, c, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            for c in cotangents
        ]
        return values, gradients
    import jax

    values, pull = jax.vjp(function, x)
    return values, [pull(c)[0] for c in cotangents]


def free_memory_bytes() -> int:
    """Bytes this process's device can still give, on a processor within its container's limit."""
    if name() == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats()
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return host_free_bytes()
