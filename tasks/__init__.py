"""The thin bridge: one module per stage joins `dr_lib` and `storage`; Prefect decorators and
Dask submission live here.
"""
