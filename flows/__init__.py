"""Wiring only: Prefect flows, the `dr` command and the pipeline's configuration."""
