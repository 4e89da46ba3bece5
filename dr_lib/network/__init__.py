"""The classifier: its architecture, its layers as a graph, and the framework it runs on."""
