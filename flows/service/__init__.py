"""Prefect's server and everything that looks after scheduled runs."""
