"""Everything that depends on which framework Keras runs on: threads, compilation, derivatives,
memory.

The rest of the project is written against Keras' own API and NumPy. TensorFlow is the product's
backend; JAX (an optional extra) is the second one, and KERAS_BACKEND chooses. The user's
`keras.json`, and variables that make frameworks compute in another precision, decide nothing:
results depend on the configuration alone. This module must not know what is computed: no image, no
quantity, no quadrature. Importing it imports no framework; the first call does.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BACKENDS = ("tensorflow", "jax")
# What frameworks read when they are first imported, and what would change results behind the
# configuration's back.
_FIXED = {
    # TensorFlow's oneDNN kernels: on by themselves only where the processor has AVX512-VNNI or the
    # like, and on plain AVX2 a backward pass takes 1.6 times as long without them.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": (
        "STRICT"
    ),  # float32 means float32, also on processors that are faster in bfloat16
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
}
_FORGOTTEN = (
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "KERAS_NNX_ENABLED",
)
os.environ.update(_FIXED)
for _name in _FORGOTTEN:
    os.environ.pop(_name, None)
if not os.environ.get("KERAS_BACKEND"):  # empty counts as unset, and then keras.json would choose
    os.environ["KERAS_BACKEND"] = BACKENDS[0]

# (n, …) tensor -> (n,) or (n, q) tensor, made of Keras' or the backend's operations.
Function = Callable[[Any], Any]


class BackendError(RuntimeError):
    """Keras cannot run here as it is set up; the message says in a line what to change."""


def chosen() -> str:
    """The backend that KERAS_BACKEND names, by default TensorFlow. Imports no framework."""
    return os.environ["KERAS_BACKEND"]


def problem() -> str:
    """Why the chosen backend cannot serve, empty if it can. Imports no framework."""
    if chosen() not in BACKENDS:
        return (
            f"KERAS_BACKEND = {chosen()}, but this project runs on {' or '.join(BACKENDS)}; unset"
            f" it for {BACKENDS[0]}"
        )
    if importlib.util.find_spec(chosen()) is None:
        return f"KERAS_BACKEND = {chosen()}, which is not installed; unset it for {BACKENDS[0]}"
    return ""


def configure(threads: int | None = None, deterministic: bool = False) -> bool:
    """Sets the framework's threads; call it before the first tensor is made.

    TensorFlow fixes its thread pools with the first tensor. JAX sizes its pool when it starts, so
    there `threads` takes effect only as an environment variable set before.

    Parameters
    ----------
    threads: of an operation, and operations run one by one; None leaves both alone.
    deterministic: use kernels that give the same bits every time.

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
        if deterministic:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
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
    # JAX reads this when it first looks for devices: three quarters of a GPU's memory would be gone
    # at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with _muted_start():
        try:
            import keras
        except Exception as error:
            raise BackendError(
                f"Keras cannot be imported ({type(error).__name__}:"
                f" {(str(error).strip() or 'no message').splitlines()[0]}); repair or remove"
                f" {_keras_json()}, and unset the variables KERAS_…"
            ) from error
        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise BackendError(
                f"Keras was imported on {backend} already; set KERAS_BACKEND={BACKENDS[0]} before"
            )
        if backend == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for a GPU, loudly where there is none
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    return backend


def _keras_json() -> Path:
    """The file in which a user may have chosen other settings of Keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"


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
    """What the framework computes on, in words: the accelerators by number and kind, or "CPU"."""
    numbers = accelerators()
    return f"{len(numbers)} GPU" if numbers else "CPU"


def accelerators() -> list[int]:
    """The numbers of the accelerators that this process may use: none on a CPU, a single number
    after `use_accelerator`.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        usable = tf.config.get_visible_devices("GPU")
        return [
            number
            for number, gpu in enumerate(tf.config.list_physical_devices("GPU"))
            if gpu in usable
        ]
    import jax

    chosen = jax.config.jax_default_device
    return [number for number, gpu in enumerate(_jax_gpus()) if chosen in (None, gpu)]


def use_accelerator(number: int) -> None:
    """From now on this process computes on this accelerator alone, taking of its memory only what
    it comes to need.

    Without it TensorFlow takes all memory of every GPU it sees. Call it before the first tensor is
    made; a later call that would change something raises RuntimeError. What was taken is given back
    only when the process ends.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[number]
        if tf.config.get_visible_devices("GPU") != [gpu]:
            tf.config.set_visible_devices(gpu, "GPU")
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
        return
    import jax

    jax.config.update("jax_default_device", _jax_gpus()[number])


def _jax_gpus() -> list[Any]:
    import jax

    return [device for device in jax.local_devices() if device.platform != "cpu"]


def compiled(function: Callable) -> Callable:
    """The same function compiled; it is traced once for every new combination of argument
    shapes.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        tf.get_logger().addFilter(_is_no_retracing)
        # Not jit_compile: XLA on the processor is 1.5 times slower than TensorFlow's own
        # convolutions (DESIGN §6).
        return tf.function(function, autograph=False)
    import jax

    return jax.jit(function)


def _is_no_retracing(record: logging.LogRecord) -> bool:
    """Every model has functions of its own, each compiled for the few shapes that it gets: more
    than TensorFlow thinks fit.
    """
    return "retracing" not in record.getMessage()


def tensor(array: np.ndarray) -> Any:
    """The array as the backend's tensor, dtype unchanged."""
    if name() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(array)
    import jax.numpy as jnp

    return jnp.asarray(array)


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
    """Bytes the framework's device can still give: the accelerator's, or the machine's within
    its container's limit.
    """
    if name() == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats()
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return min([_host_free_bytes(), *_cgroup_free_bytes()])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the framework gave up for want of memory, so that a smaller batch may succeed."""
    text = f"{type(error).__name__}: {error}"
    return (
        isinstance(error, MemoryError)
        or "ResourceExhausted" in text
        or "RESOURCE_EXHAUSTED" in text
    )


def _host_free_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _cgroup_free_bytes(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What a container's own limit leaves, if it has one: the machine's free memory says nothing
    about that.
    """
    try:
        limit, used = (
            (root / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        return [] if limit == "max" else [max(int(limit) - int(used), 0)]
    except (OSError, ValueError):
        return []
