"""Results depend on the configuration alone: what a user told Keras or its framework elsewhere
is set right, or refused.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dr_lib.network import backend
from dr_lib.network.model import ModelParams, build, probabilities

# What a network is and answers, in a process of its own; the second time after a user chose half
# precision for everything.
ANSWERS = """
import json, os, sys
import numpy as np
from dr_lib.network.model import ModelParams, build, probabilities
import keras
def answers():
    model = build(ModelParams(backbone="small", backbone_weights="none", input_size=32, dense=(4,)))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    wanted = (keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(), keras.config.dtype_policy().name)
    return [*wanted, model.input.dtype, probabilities(model, pixels, 1).tolist()]
first = answers()
keras.mixed_precision.set_global_policy("mixed_bfloat16")
precision = {name: value for name, value in os.environ.items() if "FPMATH" in name or "XLA_FLAGS" in name}
print(json.dumps([first, answers(), precision]))
"""


def process(program: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=environment
    )


@pytest.mark.skipif(backend.name() != "tensorflow", reason="what is compared with is this process")
def test_what_a_user_told_keras_and_tensorflow_elsewhere_changes_no_result(tmp_path):
    told = {
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
        "backend": "torch",
    }
    (tmp_path / "keras.json").write_text(json.dumps(told), encoding="utf-8")
    done = process(
        ANSWERS,
        KERAS_HOME=str(tmp_path),
        KERAS_BACKEND="",
        TF_ENABLE_ONEDNN_OPTS="0",
        ONEDNN_DEFAULT_FPMATH_MODE="BF16",
        TF_SET_ONEDNN_FPMATH_MODE="BF16",
        TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model = build(ModelParams(backbone="small", backbone_weights="none", input_size=32, dense=(4,)))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    wanted = [
        "float32",
        1e-7,
        "channels_last",
        "float32",
        "float32",
        probabilities(model, pixels, 1).tolist(),
    ]
    precision = {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT", "DNNL_DEFAULT_FPMATH_MODE": "STRICT"}
    assert json.loads(done.stdout) == [wanted, wanted, precision]


@pytest.mark.parametrize(
    "content",
    ['{"floatx": "bfloat16"}', '{"epsilon": 1}', '{"image_data_format": "NCHW"}', '["a list"]'],
    ids=str,
)
def test_a_keras_json_that_keras_cannot_read_is_one_line(tmp_path, content):
    (tmp_path / "keras.json").write_text(content, encoding="utf-8")
    program = (
        "from dr_lib.network import backend\ntry:\n    backend.name()\nexcept backend.BackendError as"
        " error:\n    print(error)"
    )
    done = process(program, KERAS_HOME=str(tmp_path))
    assert done.stdout.startswith("Keras cannot be imported ("), done.stderr[-2000:]
    assert f"repair or remove {tmp_path / 'keras.json'}" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ("torch", "this project runs on tensorflow or jax; unset it"),
        ("TensorFlow", "this project runs on tensorflow or jax; unset it"),
        ("jax", "is not installed; pip install"),
        ("tensorflow", ""),
    ],
)
def test_a_backend_that_cannot_serve_is_refused(monkeypatch, chosen, says):
    monkeypatch.setenv("KERAS_BACKEND", chosen)
    monkeypatch.setattr(
        backend.importlib.util, "find_spec", lambda name: name == "tensorflow" or None
    )
    assert says in backend.problem()
    assert bool(says) == bool(backend.problem())
    if says:
        with pytest.raises(backend.BackendError, match=says):
            backend.name()


CHOICE = """
from dr_lib.network import backend
import os
try:
    backend.choose("jax")
except backend.BackendError as error:
    print(error)
else:
    print(backend.chosen(), os.environ["KERAS_BACKEND"])
"""


@pytest.mark.parametrize("told", ["", "jax", "tensorflow", "torch"])
def test_the_configuration_chooses_the_backend_and_a_variable_that_disagrees_is_one_line(
    tmp_path, told
):
    (tmp_path / "jax").mkdir()  # installed, as far as can be told without importing it
    (tmp_path / "jax" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = process(CHOICE, KERAS_BACKEND=told, PYTHONPATH=path)
    wanted = "jax jax"
    if told not in ("", "jax"):
        wanted = (
            f"KERAS_BACKEND = {told}, but model.backend = jax; unset KERAS_BACKEND: the"
            " configuration alone decides"
        )
    assert (done.stdout.strip(), done.stderr) == (wanted, "")
