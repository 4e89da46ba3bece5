"""The classifier: its architecture, its layers as a graph, and the framework it runs on.

Importing this package imports neither Keras nor a framework.
"""

from dr_lib.network.model import ModelParams, build

__all__ = ["ModelParams", "build"]
