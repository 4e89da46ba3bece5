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
import pytest
from jaxtyping import install_import_hook

install_import_hook("dr_lib", "beartype.beartype")

# TensorFlow's log handler closes the stream it holds when logging is set up anew, as Prefect does;
# made under pytest, that would be pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# What starts first, in this order: a long file that started last would be waited for alone.
# test_report_pages looks at the run that test_pipeline makes: whichever process ends that takes it.
LONG = (
    "test_attribute_faults",
    "test_pipeline",
    "test_service",
    "test_cluster",
    "test_report_pages",
    "test_import_model",
    "test_artifacts",
    "test_counterfactuals",
    "test_explain",
    "test_preprocess_faults",
    "test_benchmarks",
    "test_training_killed",
    "test_crop",
    "test_training_run",
    "test_model",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first; pytest-xdist hands files out in this order."""
    start = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: start.get(item.path.stem, len(start)))
