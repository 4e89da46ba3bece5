"""Checks array shapes at run time: every jaxtyping annotation of `dr_lib` is enforced by
beartype in tests.
"""

import os
import sys

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "1"
)  # as dr_lib.network.backend does, which a test may import after TensorFlow
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import absl.logging
from jaxtyping import install_import_hook

install_import_hook("dr_lib", "beartype.beartype")

# TensorFlow's log handler closes the stream it holds when logging is set up anew, as Prefect does;
# made under pytest, that would be pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
