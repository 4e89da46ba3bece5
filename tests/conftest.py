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

import absl.logging
from jaxtyping import install_import_hook

install_import_hook("dr_lib", "beartype.beartype")

# TensorFlow's log handler closes the stream it holds when logging is set up anew, as Prefect does;
# made under pytest, that would be pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_xdist_make_scheduler(config, log):
    """What shares an expensive fixture runs in one process: the tests of a file, and the two
    files about the chain.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.split("::")[0].replace("test_report_pages", "test_pipeline")

    return ByFile(config, log)
