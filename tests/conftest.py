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

# Files whose tests share what takes long to start or to make, and the name of their group: one
# process takes them all.
TOGETHER = {
    "test_attribute_faults": "kills",
    "test_counterfactuals": "kills",
    "test_pipeline": "chain",
    "test_report_pages": "chain",
    "test_import_model": "chain",
    "test_artifacts": "chain",
}
# What starts first, the longest first: a long file that started last would be waited for alone.
LONG = (
    *TOGETHER,
    "test_service",
    "test_cluster",
    "test_explain",
    "test_preprocess_faults",
    "test_benchmarks",
    "test_training_killed",
    "test_crop",
    "test_training_run",
    "test_model",
)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives every file, or group of files, to one process."""
    for item in items:
        name = item.path.stem
        item.add_marker(pytest.mark.xdist_group(TOGETHER.get(name, name)))
    start = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: start.get(item.path.stem, len(start)))
