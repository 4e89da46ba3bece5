"""Checks array shapes at run time: every jaxtyping annotation of `dr_lib` is enforced by beartype in tests."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from jaxtyping import install_import_hook

install_import_hook("dr_lib", "beartype.beartype")
